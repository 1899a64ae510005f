"""A run's configuration: what it accepts, what it says about the rest, and that a file keeps it unchanged."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from dataclasses import MISSING
from pathlib import Path
from typing import Any, get_args

import pytest

from sivae.errors import ConfigError
from sivae.fields import about, plain, settings_of
from sivae.method.objectives import ErrorKind
from sivae.objectives import OBJECTIVES, IntroObjective, SoftIntroObjective, VAEObjective
from sivae.ops.library import KINDS
from sivae.settings.data import CloudData, absolute
from sivae.settings.models import MLP, Conv, PointNet
from sivae.settings.presets import PRESETS, preset_config
from sivae.settings.run import PARTS, RunConfig, every_setting, placed_settings

RECORDED = json.loads(Path(__file__).with_name("recorded.json").read_text())


@pytest.mark.parametrize("words", RECORDED["configurations"])
def test_configurations_are_the_recorded_ones_and_files_of_them_are_read(words: str) -> None:
    """Every preset with every objective, as the command line makes it and as files of format 3 have it."""
    preset, objective, *growth = words.split()
    config = preset_config(preset, objective=objective, growth=growth[1] if growth else None)
    complete = copy.deepcopy(RECORDED["configurations"][words])
    for placed in placed_settings(config, effective=False):
        if about(placed.field).since is not MISSING:  # added after the record
            part = complete if placed.part == "run" else complete[placed.part]
            part.setdefault(placed.field.name, plain(about(placed.field).since))
    assert json.loads(config.to_json()) == complete
    assert RunConfig.from_json(json.dumps(RECORDED["configurations"][words])) == config


def test_every_preset_is_recorded_with_every_objective_that_fits() -> None:
    for preset in PRESETS:
        for objective in OBJECTIVES:
            try:
                preset_config(preset, objective=objective)
            except ConfigError:
                assert f"{preset} {objective}" not in RECORDED["configurations"]
            else:
                assert f"{preset} {objective}" in RECORDED["configurations"]


def test_the_options_are_the_recorded_ones() -> None:
    """Users' scripts name them; a new one is added to the record, none is taken out."""
    beside = {"--out", "--resume", "--quiet", "--log", "--dry-run", "--objective", "--growth"}
    assert beside | {f"--{placed.option}" for placed in every_setting() if placed.option} == set(RECORDED["options"])


def test_every_setting_is_explained_and_belongs_to_one_part() -> None:
    homes: dict[str, set[str]] = {}
    for label, kinds in {"run": {"run": RunConfig}, **PARTS}.items():
        for kind in kinds.values():
            for field in settings_of(kind):
                assert about(field).help.endswith("."), field.name
                homes.setdefault(field.name, set()).add(label)
    assert [name for name, labels in homes.items() if len(labels) > 1] == []


def test_only_settings_with_an_effect_are_listed() -> None:
    def names(preset: str, **choices: str) -> set[str]:
        return {placed.field.name for placed in placed_settings(preset_config(preset, **choices))}

    points, images = names("rings"), names("cifar10")
    assert {"epochs", "memory_format", "checkpoint_activations", "perceptual", "beta_kl_class"} & points == set()
    assert {"epochs", "memory_format", "checkpoint_activations", "perceptual", "widths"} <= images
    assert {"beta_kl_class", "beta_neg_class", "margin", "hidden"} & images == set()
    assert {"beta_kl_class", "beta_neg_class", "supervision"} <= names("translation-shapes")
    assert {"beta_neg", "decoder_passes", "warmup_fraction"} & names("cifar10", objective="vae") == set()
    assert {"batch_size", "warmup_fraction"} & names("style32") == set()
    assert {"batch_size", "warmup_fraction"} <= names("style32", growth="none")
    of_soft_intro = {"stage_beta_neg_factors", "style_mixing", "warmup_epochs"}
    assert of_soft_intro <= names("style32")
    assert of_soft_intro & names("style32", objective="intro") == {"style_mixing", "warmup_epochs"}
    assert of_soft_intro & names("style32", objective="tc-vae") == {"warmup_epochs"}
    assert of_soft_intro & names("style32", objective="vae") == set()
    assert "supervision" not in names("translation-shapes", objective="lord")


@pytest.mark.parametrize("objective", ["soft-intro", "intro", "vae"])
@pytest.mark.parametrize("preset", PRESETS)
def test_a_configuration_comes_back_from_json_unchanged(preset: str, objective: str) -> None:
    config = preset_config(preset, objective=objective, steps=123, seed=2**62, threads=3, sample_every=7)
    assert RunConfig.from_json(config.to_json()) == config


@pytest.mark.parametrize(
    ("preset", "beta_kl", "beta_rec", "beta_neg"),
    [
        ("8gaussians", 0.3, 0.2, 0.9),
        ("2spirals", 0.5, 0.2, 1.0),
        ("checkerboard", 0.1, 0.2, 0.2),
        ("rings", 0.2, 0.2, 1.0),
    ],
)
def test_presets_are_the_published_settings(preset: str, beta_kl: float, beta_rec: float, beta_neg: float) -> None:
    config = preset_config(preset)
    assert config.objective == SoftIntroObjective(
        beta_kl=beta_kl, beta_rec=beta_rec, beta_neg=beta_neg, gamma_r=1e-8, alpha=2.0, scale=0.5
    )
    assert (config.steps, config.batch_size, config.learning_rate) == (30_000, 512, 2e-4)
    assert config.model == MLP(z_dim=2, hidden=256, layers=4)
    assert config.warmup_steps == 2_000
    rates = [config.learning_rate_at(step) for step in (1, 10_000, 10_001, 15_000, 15_001, 30_000)]
    assert rates == pytest.approx([2e-4, 2e-4, 2e-5, 2e-5, 2e-6, 2e-6])


@pytest.mark.parametrize("kind", ["chair", "airplane", "car", "table"])
def test_presets_of_point_clouds_are_the_published_settings(kind: str) -> None:
    config = preset_config(f"points-{kind}", steps=2_000)
    assert config.objective == SoftIntroObjective(
        kind="chamfer", beta_kl=0.2, beta_rec=1.0, beta_neg=20.0, gamma_r=1e-8, alpha=2.0, scale=None
    )
    assert config.data == CloudData(points=2048, classes=(kind,), normalize="none")
    assert config.model == PointNet(
        z_dim=128,
        widths=(64, 128, 256, 256, 512),
        hidden=256,
        decoder_widths=(64, 128, 512, 1024),
        norm="batch",
        prior_std=0.2,
    )
    assert (config.batch_size, config.warmup_steps, preset_config(f"points-{kind}").epochs) == (32, 0, 2_000)
    rates = [config.learning_rate_at(step) for step in (350, 351, 450, 451, 550, 551, 2_000)]  # as epochs
    assert rates == pytest.approx([5e-4, 2.5e-4, 2.5e-4, 1.25e-4, 1.25e-4, 6.25e-5, 6.25e-5])


@pytest.mark.parametrize(
    ("preset", "weights", "z_dim", "batch_size", "widths", "resolution"),
    [
        ("cifar10", (1, 1, 256), 128, 32, (64, 128, 256), 32),
        ("svhn", (1, 1, 256), 128, 32, (64, 128, 256), 32),
        ("mnist", (1, 1, 256), 32, 128, (64, 128), 28),
        ("fashion-mnist", (1, 1, 256), 32, 128, (64, 128), 28),
        ("celebahq256-conv", (0.5, 1, 1024), 256, 8, (64, 128, 256, 512, 512, 512), 256),
    ],
)
def test_image_presets_are_the_published_settings(
    preset: str,
    weights: tuple[float, float, float],
    z_dim: int,
    batch_size: int,
    widths: tuple[int, ...],
    resolution: int,
) -> None:
    """`weights` in the order of the publication: beta_kl, beta_rec, beta_neg."""
    config = preset_config(preset, path="images")
    objective = config.objective
    assert isinstance(objective, SoftIntroObjective)
    assert (objective.beta_kl, objective.beta_rec, objective.beta_neg) == weights
    assert (objective.gamma_r, objective.alpha, objective.scale, objective.semantics) == (1e-8, 2.0, None, "official")
    assert config.model == Conv(z_dim=z_dim, widths=widths, norm="batch", conditional=False)
    assert (config.value("resolution"), config.value("flip")) == (resolution, preset == "celebahq256-conv")
    assert (config.batch_size, config.learning_rate, config.epochs, config.milestones) == (batch_size, 2e-4, 250, ())
    assert config.warmup_fraction == 0.0
    assert PRESETS[preset].source == "published"


def test_steps_take_the_place_of_epochs_and_epochs_that_of_steps() -> None:
    config = preset_config("cifar10", path="images")
    assert (config.steps, config.epochs) == (None, 250.0)
    with pytest.raises(ConfigError, match="known once the data is open"):
        config.phase_at(1)
    shorter = config.replace(steps=7)
    assert (shorter.steps, shorter.epochs) == (7, None)
    assert shorter.replace(epochs=2).steps is None
    assert (config.replace(steps=7, epochs=2).steps, config.replace(steps=7, epochs=2).epochs) == (7, 2.0)


def test_warm_up_and_rate_steps_scale_with_the_length() -> None:
    config = preset_config("rings", steps=300)
    assert config.warmup_steps == 20
    rates = [config.learning_rate_at(step) for step in (100, 101, 150, 151)]
    assert rates == pytest.approx([2e-4, 2e-5, 2e-5, 2e-6])


def test_every_objective_has_its_own_keys() -> None:
    intro = preset_config("rings", objective="intro", margin=7, alpha=0.5, fakes=["prior"]).objective
    assert intro == IntroObjective(beta_rec=1.0, beta_kl=0.2, margin=7.0, alpha=0.5, fakes=("prior",))
    vae = preset_config("rings", objective="vae", beta_kl=1, kind="l1").objective
    assert vae == VAEObjective(beta_rec=0.2, beta_kl=1.0, kind="l1")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps = 0: it must be 1 or more"),
        ({"steps": 1.5}, "steps = 1.5: expected a whole number"),
        ({"steps": True}, "steps = True: expected a whole number"),
        ({"seed": -1}, "seed = -1: it must be from 0 to 2^63 - 1"),
        ({"beta_neg": -0.5}, "beta_neg = -0.5: it must be 0 or more"),
        ({"beta_neg": float("nan")}, "beta_neg = nan: expected a finite number"),
        ({"learning_rate": "fast"}, 'learning_rate = "fast": expected a finite number'),
        ({"learning_rate": 0}, "learning_rate = 0.0: it must be more than 0"),
        ({"warmup_fraction": 2}, "warmup_fraction = 2.0: it must be between 0 and 1"),
        ({"milestones": [0.5, 0.2]}, "milestones = [0.5, 0.2]: give them in ascending order"),
        ({"milestones": 0.5}, "milestones = 0.5: expected a list"),
        ({"semantics": "mine"}, 'semantics = "mine": expected one of official, paper'),
        ({"fakes": []}, "fakes = []: name prior, reconstruction, or both, each once"),
        ({"fakes": ["prior", "none"]}, 'fakes = "none": expected one of prior, reconstruction'),
        ({"kind": "bce"}, 'kind = "bce": expected one of mse, l1'),
        ({"epochs": 3}, "epochs = 3.0: points of a density have none; give steps"),
        ({"steps": None}, "steps: say how long to train, by steps or by epochs"),
        ({"accumulate": 3}, "accumulate = 3: it must divide the batch_size, 512"),
        ({"checkpoint_activations": True}, "checkpoint_activations: the networks of the model 'mlp' have no stages"),
        ({"compile": 1}, "compile = 1: expected true or false"),
        (
            {"norm": "batch"},
            "norm = \"batch\": it has no effect with the model 'mlp'; leave it out, or choose a preset with the model",
        ),
        (
            {"resolution": 8},
            "resolution = 8: it has no effect with the data 'density'; leave it out, or choose a preset with the data",
        ),
        ({"learning_rate": 10**400}, "expected a finite number"),
        ({"conditional": None}, "conditional = null: it has no effect with the model 'mlp'"),
        ({"beta_negg": 1}, "beta_negg is not a known key; did you mean beta_neg?"),
        ({"margin": 3}, "margin = 3: it has no effect with the objective 'soft-intro'; leave it out, or "),
        ({"beta_neg": "often"}, 'beta_neg = "often": expected a finite number or auto'),
        ({"beta_neg": -1}, "beta_neg = -1.0: it must be 0 or more"),
        ({"beta_neg": "auto", "beta_kl": 0}, "beta_kl = 0: an automatic beta_neg is relative to it"),
        ({"beta_neg": "auto", "neg_push": 0}, "neg_push = 0.0: it must be more than 0"),
    ],
)
def test_a_wrong_value_is_named_with_its_remedy(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        preset_config("8gaussians", **changes)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"widths": []}, "widths = (): it must be one or more, each 1 or more"),
        ({"widths": [64, 1.5]}, "widths = 1.5: expected a whole number"),
        ({"channels": 2}, "channels = 2: expected one of 1, 3"),
        ({"conditional": "yes"}, 'conditional = "yes": expected true or false'),
        ({"hidden": 3}, "hidden = 3: it has no effect with the model 'conv'"),
        ({"precision": "fp8"}, 'precision = "fp8": expected one of fp32, tf32, bf16'),
    ],
)
def test_a_wrong_value_of_an_image_run_is_named_too(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        preset_config("cifar10", **changes)
    assert message in str(caught.value)


def test_unknown_presets_and_objectives_are_named() -> None:
    with pytest.raises(ConfigError, match="there is no preset '8gausians'; did you mean 8gaussians"):
        preset_config("8gausians")
    with pytest.raises(ConfigError, match="objective = 'gan': expected one of soft-intro, intro, vae"):
        preset_config("rings", objective="gan")


def test_the_kinds_of_errors_are_those_of_the_op() -> None:
    assert get_args(ErrorKind) == (*KINDS, "chamfer", "gaussian")  # of clouds; and mse with a learned factor


def test_runs_of_before_these_were_settings_are_read() -> None:
    content = json.loads(preset_config("rings").to_json())
    old = dict(content["objective"])
    for key in ("gamma", "beta_kl_class", "beta_neg_class", "perceptual"):
        del old[key]
    read = RunConfig.from_json(json.dumps({**content, "objective": old})).objective
    assert read == preset_config("rings").objective


def test_lord_wants_a_model_with_codes() -> None:
    with pytest.raises(ConfigError, match="this preset's model has no codes of classes; those of translation-shapes"):
        preset_config("digits", objective="lord")
    config = preset_config("translation-shapes", objective="lord", steps=10)
    assert (config.warmup_steps, config.phase_at(5), config.phase_at(6)) == (5, "warm-up", "lord")
    assert not config.paired
    with pytest.raises(ConfigError, match="'lord' has no beta_rec and beta_kl; give both, or sigma"):
        config.objective.elbo_weights()


@pytest.mark.parametrize(
    ("preset", "changes", "message"),
    [
        ("translation-shapes", {"beta_kl": 0.0}, "beta_kl = 0: beta_kl_class is applied relative to it"),
        ("translation-shapes", {"beta_neg": 0.0}, "beta_neg = 0: beta_neg_class is applied relative to it"),
        ("translation-shapes", {"objective": "lord", "warmup_fraction": 0.0}, "both of its stages have to train"),
        ("translation-shapes", {"objective": "lord", "steps": 1}, "both of its stages have to train"),
        ("translation-shapes", {"checkpoint_activations": True}, "the model 'translation' have no stages"),
        (
            "translation-shapes",
            {"perceptual": "vgg.pth", "kind": "l1"},
            "perceptual is given too; leave one of the two out",
        ),
        ("8gaussians", {"perceptual": "vgg.pth"}, "perceptual: the samples are points, not images; leave it out"),
        ("digits", {"structural": 0.5, "kind": "gaussian"}, "structural = 0.5: the error is gaussian, expected mse or"),
        ("digits", {"lpips": "lpips.pth"}, "lpips: its weights are for VGG-16's activations"),
        ("digits", {"lpips": "lpips.pth", "perceptual": "vgg.pth"}, "lpips: it compares images from 16x16 on"),
        ("8gaussians", {"structural": 0.5}, "structural: the samples are points, not images; leave it out"),
        ("digits", {"beta_kl_class": 0.3}, "the model 'conv' does not separate the class"),
        (
            "translation-shapes",
            {"beta_neg": "auto"},
            "beta_neg_class = 32 is applied relative to it, expected",
        ),
        ("translation-shapes", {"beta_neg": "auto", "beta_neg_class": None}, "'translation' has a kl of the class and"),
    ],
)
def test_what_would_have_no_effect_or_no_meaning_is_refused(preset: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        preset_config(preset, **changes)


def test_a_perceptual_error_replaces_the_kind() -> None:
    config = preset_config("translation-shapes", perceptual="vgg.pth")
    assert (config.value("perceptual"), config.value("kind")) == ("vgg.pth", None)
    assert RunConfig.from_json(config.to_json()) == config
    assert config.replace(perceptual=None).value("kind") == "mse"


def test_a_setting_is_found_by_its_key() -> None:
    config = preset_config("rings", steps=7)
    assert (config.value("steps"), config.value("beta_neg"), config.value("hidden")) == (7, 1.0, 256)
    with pytest.raises(ConfigError, match="margin = null: it has no effect with the objective 'soft-intro'"):
        config.value("margin")


def test_no_heavy_import_is_needed_for_settings() -> None:
    script = "import sys, sivae.settings.presets; print([name for name in ('torch', 'numpy') if name in sys.modules])"
    printed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "[]"


def test_pairs_want_whole_ones_in_every_part() -> None:
    assert preset_config("translation-shapes").paired
    assert not preset_config("translation-shapes", supervision="none").paired
    with pytest.raises(ConfigError, match="batch_size = 6: pairs want an even number in each of 2 parts"):
        preset_config("translation-shapes", batch_size=6, accumulate=2)


def _without(content: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in content.items() if name != key}


def test_a_wrong_file_is_named_with_its_key(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    good = json.loads(preset_config("rings").to_json())
    cases = {
        "{": "not JSON",
        "[]": "not a JSON object",
        "[" * 10_000: "nested more than 32 deep",
        '{"steps": Infinity}': "Infinity is no number of JSON",
        json.dumps({**good, "preset": ["rings"]}): 'preset = ["rings"]: expected text',
        json.dumps(
            {**good, "objective": {**good["objective"], "name": ["vae"]}}
        ): 'objective.name = ["vae"]: expected one',
        json.dumps({**good, "steps": 10**400}): "steps = 1000",
        json.dumps(_without(good, "steps")): "steps is missing; put it back",
        json.dumps({**good, "stepz": 1}): "stepz is not a known key; did you mean steps?",
        json.dumps({**good, "format": 99}): "format = 99: this version reads format 3",
        json.dumps({**good, "objective": "vae"}): "objective: expected an object",
        json.dumps({**good, "objective": {**good["objective"], "margin": 1}}): "objective.margin is not a known key",
        json.dumps({**good, "objective": _without(good["objective"], "alpha")}): "objective.alpha is missing",
        json.dumps({**good, "objective": {"name": "gan"}}): 'objective.name = "gan": expected one of',
        json.dumps({**good, "model": {**good["model"], "widths": [1]}}): "model.widths is not a known key",
        json.dumps(
            {**good, "data": {"name": "films"}}
        ): 'data.name = "films": expected one of density, digits, shapes, images',
    }
    for text, message in cases.items():
        path.write_text(text)
        with pytest.raises(ConfigError) as caught:
            RunConfig.read(path)
        assert str(caught.value).startswith(f"{path}: ")
        assert message in str(caught.value)


def test_batch_norm_over_one_value_is_refused_before_anything_is_written() -> None:
    small = {"resolution": 8, "widths": (4, 8, 8)}  # innermost maps of one pixel
    with pytest.raises(ConfigError, match="norm = 'batch': with batch_size = 1 and accumulate = 1 one image passes"):
        preset_config("cifar10", batch_size=1, **small)
    with pytest.raises(ConfigError, match="with batch_size = 4 and accumulate = 4 one image passes"):
        preset_config("cifar10", batch_size=4, accumulate=4, **small)
    preset_config("cifar10", batch_size=4, accumulate=2, **small)
    preset_config("cifar10", batch_size=1)  # maps of 4x4
    preset_config("cifar10", batch_size=1, norm="group", **small)


def test_processes_that_cannot_train_together_are_refused() -> None:
    cases = {
        "norm = 'batch': several processes share its statistics only on GPUs": preset_config("cifar10", device="cpu"),
        "batch_size = 30: 4 processes with accumulate = 1 cannot share it equally": preset_config(
            "rings", batch_size=30
        ),
        "batch_size = 12: 4 processes with accumulate = 1 cannot share its pairs": preset_config(
            "translation-shapes", batch_size=12
        ),
    }
    for message, config in cases.items():
        config.check_processes(1)
        with pytest.raises(ConfigError, match=message):
            config.check_processes(4)
    preset_config("cifar10", device="cuda").check_processes(4)


@pytest.mark.parametrize("part", ["data", "model", "objective", "growth"])
def test_a_part_has_to_be_a_record(part: str) -> None:
    config = preset_config("rings")
    with pytest.raises(ConfigError, match=rf'{part} = "none": expected a record, one of \w+'):
        config.replace(**{part: "none"})


def test_the_full_size_is_that_of_the_changes() -> None:
    assert preset_config("ffhq1024", growth="none").learning_rate == pytest.approx(0.003)
    assert preset_config("ffhq1024", growth="none", resolution=64).learning_rate == pytest.approx(0.0015)


def test_names_of_built_in_data_stay_where_paths_become_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shapes").mkdir()
    here = str(tmp_path / "shapes")
    found = [absolute(path, "clouds") for path in ("shapes", "shapes:chair", "./shapes")]
    assert found == ["shapes", "shapes:chair", here]
    assert [absolute(path, "images") for path in ("digits", "shapes")] == ["digits", here]
    # Where no file has it, the name of the other samples' set stays too, so that an error can say what it is.
    assert [absolute("shapes:chair", "images"), absolute("digits", "clouds")] == ["shapes:chair", "digits"]


def test_a_cloud_has_as_many_points_as_enclose_a_volume() -> None:
    with pytest.raises(ConfigError, match=r"points = 3: it must be 4 or more, as fewer points enclose no volume"):
        preset_config("points-shapes", points=3)
    assert preset_config("points-shapes", points=4).value("points") == 4
