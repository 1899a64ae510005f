"""A run's configuration: what it accepts, what it says about the rest, and that a file keeps it unchanged."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, get_args

import pytest

from sivae import objectives
from sivae.errors import ConfigError
from sivae.objectives import IntroObjective, LordObjective, SoftIntroObjective, VAEObjective
from sivae.ops.library import KINDS
from sivae.training import config as config_module
from sivae.training.config import ModelConfig, ObjectiveConfig, RunConfig
from sivae.training.presets import PRESETS, preset_config


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
    assert config.objective.build() == SoftIntroObjective(
        beta_kl=beta_kl, beta_rec=beta_rec, beta_neg=beta_neg, gamma_r=1e-8, alpha=2.0, scale=0.5
    )
    assert (config.steps, config.batch_size, config.learning_rate) == (30_000, 512, 2e-4)
    assert config.model == ModelConfig(name="mlp", z_dim=2, hidden=256, layers=4)
    assert config.warmup_steps == 2_000
    rates = [config.learning_rate_at(step) for step in (1, 10_000, 10_001, 15_000, 15_001, 30_000)]
    assert rates == pytest.approx([2e-4, 2e-4, 2e-5, 2e-5, 2e-6, 2e-6])


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
    assert (objective.beta_kl, objective.beta_rec, objective.beta_neg) == weights
    built = objective.build()
    assert isinstance(built, SoftIntroObjective)
    assert (built.gamma_r, built.alpha, built.scale, built.semantics) == (1e-8, 2.0, None, "official")
    assert config.model == ModelConfig(name="conv", z_dim=z_dim, widths=widths, norm="batch", conditional=False)
    assert (config.data.resolution, config.data.flip) == (resolution, preset == "celebahq256-conv")
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


def test_every_objective_is_built_from_its_own_keys() -> None:
    intro = preset_config("rings", objective="intro", margin=7, alpha=0.5, fakes=["prior"]).objective.build()
    assert intro == IntroObjective(beta_rec=1.0, beta_kl=0.2, margin=7.0, alpha=0.5, fakes=("prior",))
    vae = preset_config("rings", objective="vae", beta_kl=1, kind="l1").objective.build()
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
            "norm = \"batch\": it has no effect with the model 'mlp'; leave it out, or choose the model",
        ),
        (
            {"resolution": 8},
            "resolution = 8: it has no effect with the data 'density'; leave it out, or choose the data",
        ),
        ({"beta_negg": 1}, "beta_negg is not a known key; did you mean beta_neg?"),
        ({"margin": 3}, "margin = 3.0: it has no effect with the objective 'soft-intro'; leave it out, or "),
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


def test_what_a_preset_leaves_open_is_the_objective_s_default() -> None:
    kinds = (SoftIntroObjective, IntroObjective, VAEObjective, LordObjective)
    for name, kind in zip(get_args(config_module.ObjectiveName), kinds, strict=True):
        left_open = preset_config("translation-shapes" if name == "lord" else "rings", objective=name)
        resolved = left_open.replace(objective=left_open.objective.resolved())
        defaults = {field.name: field.default for field in dataclasses.fields(kind)}
        assert set(ObjectiveConfig.keys_of(name)) == {*defaults, "perceptual"}
        of_preset = {"beta_rec", "beta_kl", "beta_neg", "scale", "content_decay", "content_noise"}
        values = {**resolved.objective.to_dict(), "fakes": resolved.objective.fakes}
        for key in defaults.keys() - of_preset:
            assert values[key] == defaults[key], key
        assert resolved.objective.build() == left_open.objective.build()
        assert RunConfig.from_json(resolved.to_json()) == resolved


def test_the_choices_are_the_objectives() -> None:
    assert get_args(config_module.Fake) == objectives.FAKES
    assert get_args(config_module.Semantics) == get_args(objectives.Semantics)
    assert set(get_args(config_module.ErrorKind)) <= set(KINDS)
    assert set(get_args(config_module.Phase)) == {"warm-up", *get_args(config_module.ObjectiveName)}


def test_runs_of_before_these_were_settings_are_read() -> None:
    content = json.loads(preset_config("rings").to_json())
    old = dict(content["objective"])
    for key in ("gamma", "beta_kl_class", "beta_neg_class", "perceptual"):
        del old[key]
    read = RunConfig.from_json(json.dumps({**content, "objective": old})).objective
    assert (read.gamma, read.beta_kl_class, read.beta_neg_class, read.perceptual) == (1.0, None, None, None)


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
        ("translation-shapes", {"beta_kl": 0.0}, "beta_kl = 0: beta_kl_class is counted against it"),
        ("translation-shapes", {"beta_neg": 0.0}, "beta_neg = 0: beta_neg_class is counted against it"),
        ("translation-shapes", {"objective": "lord", "warmup_fraction": 0.0}, "both of its stages have to train"),
        ("translation-shapes", {"objective": "lord", "steps": 1}, "both of its stages have to train"),
        ("translation-shapes", {"checkpoint_activations": True}, "the model 'translation' have no stages"),
        ("translation-shapes", {"perceptual": "vgg.pth", "kind": "l1"}, "the perceptual error takes its place"),
        ("8gaussians", {"perceptual": "vgg.pth"}, "perceptual: points have no looks"),
        ("digits", {"beta_kl_class": 0.3}, "the model 'conv' does not tell the class apart"),
    ],
)
def test_what_would_have_no_effect_or_no_meaning_is_refused(preset: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        preset_config(preset, **changes)


def test_a_perceptual_run_s_settings_come_back() -> None:
    config = preset_config("translation-shapes", perceptual="vgg.pth")
    resolved = config.replace(objective=config.objective.resolved())
    assert RunConfig.from_json(resolved.to_json()) == resolved and resolved.objective.kind is None


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
