"""Runs that start from the weights of a trained model, and networks that are frozen."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from sivae.cli.main import main
from sivae.errors import ConfigError
from sivae.method.base import Metrics
from sivae.models import MLPVAE, ConvVAE, VAEModel
from sivae.models.storage import save_model
from sivae.models.style import StyleVAE
from sivae.pretrained import from_pretrained
from sivae.settings.presets import preset_config
from sivae.settings.run import RunConfig
from sivae.training.checkpoint import list_checkpoints, load_checkpoint
from sivae.training.initial import InitialWeights
from sivae.training.run import train
from sivae.training.tasks.points import PointsTask
from sivae.training.trainer import Trainer
from tests.training.runs import assert_resumes_exactly, assert_same, train_until

_OFFICIAL = Path(__file__).parents[1] / "fixtures" / "official_conv_rgb32.pth"
_NETWORKS = {"hidden": 16, "layers": 2}


def _config(**changes: Any) -> RunConfig:
    tiny = {"steps": 40, "batch_size": 32, "threads": 1, "log_every": 5, "checkpoint_every": 20, "keep_checkpoints": 9}
    return preset_config("8gaussians", **{**_NETWORKS, **tiny, **changes})


@pytest.fixture(autouse=True)
def no_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the metrics, which take longer than short trainings."""
    monkeypatch.setattr(PointsTask, "evaluate", lambda *_: {"nothing": 1.0})


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """A model folder of another seed's networks."""
    torch.manual_seed(77)
    save_model(tmp_path / "trained", MLPVAE(**_NETWORKS))
    return tmp_path / "trained"


def _same(one: VAEModel, other: VAEModel, side: str) -> bool:
    mine, theirs = (getattr(model, side).state_dict() for model in (one, other))
    return all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_a_model_of_the_same_networks_is_taken_whole() -> None:
    source, model = StyleVAE(8, z_dim=4, mapping_layers=1), StyleVAE(8, z_dim=4, mapping_layers=1)
    words = InitialWeights("there", source).load_into(model)
    assert all(torch.equal(value, source.state_dict()[name]) for name, value in model.state_dict().items())
    assert words.startswith("started from there: ") and "new here" not in words and "only there" not in words


def test_layers_that_do_not_fit_are_named_with_both_shapes_and_keep_their_own_weights() -> None:
    source = ConvVAE(16, widths=(4, 8), z_dim=3)
    model = ConvVAE(16, widths=(4, 8), z_dim=5)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    words = InitialWeights("there", source).load_into(model)
    for name, value in model.state_dict().items():
        expected = before if ".head." in name else source.state_dict()
        assert torch.equal(value, expected[name]), name
    count = len({name.rpartition(".")[0] for name in before})
    assert words == (
        f"started from there: {count - 2} of {count} layers taken; new here:\n"
        "  encoder.head (weight [6, 128] there, [10, 128] here)\n"
        "  decoder.head (weight [128, 3] there, [128, 5] here)"
    )


def test_a_layer_of_which_a_part_is_missing_is_not_taken() -> None:
    source, model = ConvVAE(16, widths=(4, 8), norm="batch"), ConvVAE(16, widths=(4, 8), norm="none")
    words = InitialWeights("there", source).load_into(model)
    assert "\n  encoder.entry.conv (bias missing there, [4] here)\n" in words
    assert "; only there:\n  encoder.entry.norm\n" in words
    assert not torch.equal(model.encoder.entry.conv.weight, source.encoder.entry.conv.weight)
    assert torch.equal(model.encoder.head.weight, source.encoder.head.weight)


@pytest.mark.parametrize(("from_side", "to_side"), [(8, 16), (16, 8)])
def test_layers_of_a_style_model_are_taken_at_their_resolution(from_side: int, to_side: int) -> None:
    """All layers have one width here, so that a layer of another resolution would fit too."""
    settings: dict[str, Any] = {"start_channels": 4, "max_channels": 4, "z_dim": 4, "mapping_layers": 1}
    source, model = StyleVAE(from_side, **settings), StyleVAE(to_side, **settings)
    source.grow(0)  # its stage has no effect
    InitialWeights("there", source).load_into(model)
    for stage in range(2):  # 4x4 and 8x8; the encoder's come last
        assert torch.equal(model.decoder.blocks[stage].conv2.weight, source.decoder.blocks[stage].conv2.weight)
        mine, theirs = model.encoder.blocks[-1 - stage], source.encoder.blocks[-1 - stage]
        assert all(torch.equal(a, b) for a, b in zip(mine.parameters(), theirs.parameters(), strict=True))


def test_a_model_of_which_nothing_fits_is_an_error_before_anything_is_written(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"init_from = '.*trained': no layer of its model 'mlp' fits .* 'conv'"):
        InitialWeights.read(str(trained)).load_into(ConvVAE(16, widths=(4, 8)))
    config = _config(init_from=str(trained), hidden=3, z_dim=4)
    with pytest.raises(ConfigError, match=r"fits this run's model 'mlp', .* \(z_dim is 2 there and 4 here, hidden is"):
        train(config, tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_a_frozen_network_takes_all_of_its_layers_or_the_run_is_refused(trained: Path, tmp_path: Path) -> None:
    config = _config(init_from=str(trained), hidden=16, z_dim=4, freeze="encoder")
    with pytest.raises(
        ConfigError, match=r"freeze = 'encoder': 1 layer of it would stay random, .*z_dim is 2 there and 4"
    ):
        train(config, tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_a_file_inside_a_model_s_folder_is_an_error_that_names_the_folder(trained: Path) -> None:
    with pytest.raises(ConfigError, match=f"is one file of a model; name its folder, {trained}"):
        InitialWeights.read(str(trained / "model.safetensors"))


class _Harmful:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path("harm").touch, ())


def test_what_is_no_model_is_an_error_and_nothing_in_it_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    Path("harmful.pth").write_bytes(pickle.dumps(_Harmful()))
    for name, message in {"absent": "no such folder", "empty": "neither", "harmful.pth": "harmful.pth"}.items():
        with pytest.raises(ConfigError, match=f"init_from: .*{message}"):
            InitialWeights.read(name)
    assert not Path("harm").exists()


def test_a_checkpoint_of_the_authors_is_read() -> None:
    assert isinstance(InitialWeights.read(str(_OFFICIAL)).model, ConvVAE)


@pytest.mark.usefixtures("no_pictures")
def test_a_run_starts_from_the_weights_and_does_not_need_the_file_again(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    source = from_pretrained(trained)
    config = _config(init_from="trained", ema_half_life=100, bootstrap=0.01)
    train(config, "whole")
    assert f"started from {trained}: 6 of 6 layers taken" in capsys.readouterr().err
    first = load_checkpoint(Path("whole/checkpoints/0"))
    assert first.averaged is not None
    for name, value in source.state_dict().items():
        assert torch.equal(first.model[name], value) and torch.equal(first.averaged[name], value)
    assert all(torch.equal(source.decoder.state_dict()[n], v) for n, v in first.state["target_decoder"].items())
    assert json.loads(Path("whole/config.json").read_text())["init_from"] == str(trained)
    train_until(3, config, Path("stopped"), task=PointsTask)
    shutil.rmtree(list_checkpoints(Path("stopped/checkpoints"))[-1])  # a run that was killed after its start
    shutil.rmtree(trained)
    train(out="stopped", resume=True, progress=False)
    assert_same(Path("stopped"), Path("whole"))


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("objective", ["soft-intro", "intro", "vae"])
@pytest.mark.parametrize("side", ["encoder", "decoder"])
def test_a_frozen_network_stays_as_it_is_while_the_other_trains(
    side: str, objective: str, trained: Path, tmp_path: Path
) -> None:
    config = preset_config("rings", objective=objective, **_NETWORKS, steps=12, batch_size=32, threads=1)
    train(config.replace(init_from=str(trained), freeze=side), tmp_path / "run", progress=False)
    source, model = from_pretrained(trained), from_pretrained(tmp_path / "run")
    other = {"encoder": "decoder", "decoder": "encoder"}[side]
    assert _same(source, model, side) and not _same(source, model, other)


@pytest.mark.usefixtures("no_pictures")
def test_a_network_that_is_frozen_for_half_of_the_steps_trains_then_and_the_run_resumes_exactly(tmp_path: Path) -> None:
    config = _config(freeze="decoder", freeze_fraction=0.5, checkpoint_every=10)
    train(config, tmp_path / "whole", progress=False)
    models = {step: from_pretrained(tmp_path / "whole" / "checkpoints" / str(step)) for step in (10, 20, 30, 40)}
    assert _same(models[10], models[20], "decoder") and not _same(models[20], models[30], "decoder")
    assert not _same(models[10], models[20], "encoder")
    assert_resumes_exactly(20, config, tmp_path / "stopped", tmp_path / "whole", task=PointsTask)


def test_the_running_statistics_of_a_frozen_network_stay(tmp_path: Path) -> None:
    config = preset_config("digits", steps=4, batch_size=8, widths=(4, 8), z_dim=3, norm="batch", threads=1)
    train(config.replace(device="cpu", freeze="decoder", checkpoint_every=2), tmp_path / "run", progress=False)
    models = [from_pretrained(tmp_path / "run" / "checkpoints" / str(step)) for step in (2, 4)]
    assert _same(*models, "decoder") and not _same(*models, "encoder")


@pytest.mark.usefixtures("no_pictures")
def test_a_target_decoder_is_the_same_function_as_the_frozen_decoder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes: list[tuple[bool, bool]] = []
    iteration = Trainer._iteration

    def observed(self: Trainer, *of_step: Any) -> Metrics:
        assert self.target is not None
        models = (self.model, self.target.model)
        mine, target = models
        modes.append((mine.decoder.training, target.decoder.training))
        assert all(one.training == two.training for one, two in zip(mine.modules(), target.modules(), strict=True))
        if not mine.decoder.training:
            z = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
            with torch.no_grad():
                assert torch.equal(mine.decode(z), target.decode(z))
        return iteration(self, *of_step)

    monkeypatch.setattr(Trainer, "_iteration", observed)
    config = preset_config("digits", steps=4, batch_size=8, widths=(4, 8), z_dim=3, norm="batch", threads=1)
    changes: dict[str, Any] = {"device": "cpu", "bootstrap": 1.0, "freeze": "decoder", "freeze_fraction": 0.5}
    train(config.replace(**changes), tmp_path / "run", progress=False)
    assert modes == [(False, False)] * 2 + [(True, True)] * 2


@pytest.mark.parametrize(
    ("preset", "changes", "message"),
    [
        ("8gaussians", {"freeze_fraction": 0.0}, "freeze_fraction = 0: the encoder would be frozen for no step"),
        ("8gaussians", {"freeze_fraction": 0.01, "steps": 20}, "freeze_fraction = 0.01: the encoder would be frozen"),
        ("cifar10", {"freeze_fraction": 0.0}, "freeze_fraction = 0: the encoder would be frozen for no step"),
        ("translation-shapes", {"objective": "lord"}, "freeze = 'encoder': LORD's first stage does not use"),
    ],
)
def test_a_freeze_without_sense_is_an_error(preset: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        preset_config(preset, freeze="encoder", **changes)


@pytest.mark.usefixtures("no_pictures")
def test_the_command_line_takes_both(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = f"--init-from {trained} --freeze encoder --hidden 16 --layers 2 --steps 2 --batch-size 8 --quiet"
    main(["train", "8gaussians", *words.split(), "--out", str(tmp_path / "run")])
    assert RunConfig.read(tmp_path / "run" / "config.json").freeze == "encoder"
    with pytest.raises(SystemExit):
        main(["train", "8gaussians", "--freeze-fraction", "0.5", "--steps", "2"])
    assert "freeze_fraction: no network is frozen" in capsys.readouterr().err
