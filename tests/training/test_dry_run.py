"""A dry run measures each phase of the schedule with the run's own networks and batches, and writes nothing."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sivae.errors import ConfigError
from sivae.models import MLPVAE
from sivae.models.storage import load_model, save_model
from sivae.settings.presets import preset_config
from sivae.settings.run import RunConfig
from sivae.training.dry_run import dry_run
from sivae.training.run import train
from sivae.training.trainer import Trainer
from tests.training.loggers.runs import draw_and_measure_little, tiny
from tests.training.translation_images import translation_config, write_translation_images

_SMALL: dict[str, Any] = {"device": "cpu", "threads": 1, "log_every": 5, "checkpoint_every": 10}


def _images(folder: Path) -> Path:
    path = folder / "images.npy"
    np.save(path, np.random.default_rng(0).integers(0, 256, (24, 8, 8, 3), dtype=np.uint8))
    return path


def _points(folder: Path, **changes: Any) -> RunConfig:
    return tiny(warmup_fraction=0.25, **changes)


def _conv(folder: Path) -> RunConfig:
    return preset_config("digits", widths=(4, 8), z_dim=4, steps=6, batch_size=8, objective="intro", **_SMALL)


def _growing(folder: Path) -> RunConfig:
    """24 images: 6 iterations at 4x4 of 4 images each, then 12 at 8x8 of 2, of which the first 3 blend."""
    style = {"z_dim": 5, "start_channels": 2, "max_channels": 4, "mapping_layers": 2, "resolution": 8}
    growth = {"epochs": 2, "epochs_per_stage": 1, "warmup_epochs": 0.5, "stage_batches": (4, 2), "ema_half_life": 20}
    return preset_config("style32", path=str(_images(folder)), **style, **growth, **_SMALL)


def _translation(folder: Path) -> RunConfig:
    return translation_config(write_translation_images(folder / "images.npz"), objective="lord")


def _clouds(folder: Path) -> RunConfig:
    cloud = {"points": 24, "widths": (6, 8), "hidden": 8, "decoder_widths": (8,), "z_dim": 3}
    return preset_config("points-shapes", **cloud, steps=6, batch_size=4, **_SMALL)


def _autoencoder(folder: Path) -> RunConfig:
    model = {"latent_channels": 2, "downsample": 4, "widths": (4, 8), "groups": 2, "steps": 6, "batch_size": 8}
    data = {"path": "digits", "resolution": 8, "channels": 1, "flip": False}
    return preset_config("autoencoder-small", **data, **model, precision="bf16", **_SMALL)


# By family: the settings, and name, batch and number of iterations of each phase.
_FAMILIES: dict[str, tuple[Callable[[Path], RunConfig], list[tuple[str, int, int]]]] = {
    "points": (_points, [("warm-up", 16, 5), ("soft-intro", 16, 15)]),
    "images": (_conv, [("intro", 8, 6)]),
    "growing": (_growing, [("warm-up at 4x4", 4, 3), ("soft-intro at 4x4", 4, 3), ("soft-intro at 8x8", 2, 12)]),
    "translation": (_translation, [("warm-up", 8, 4), ("lord", 8, 4)]),
    "clouds": (_clouds, [("soft-intro", 4, 6)]),
    "autoencoder": (_autoencoder, [("soft-intro", 8, 6)]),
}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, with a folder for temporary files beside it."""
    for name in ("work", "temporary"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    return tmp_path


@pytest.mark.parametrize("family", _FAMILIES)
def test_every_phase_is_measured_and_nothing_is_left(family: str, place: Path) -> None:
    make, phases = _FAMILIES[family]
    result = dry_run(make(place), progress=False)
    assert [(one.name, one.batch_size, one.iterations) for one in result.phases] == phases
    assert sum(one.iterations for one in result.phases) == result.config.total_steps
    for one in result.phases:
        assert 0 < one.fastest <= one.seconds <= one.slowest
        assert 1 <= one.measured <= one.iterations
    assert result.training_seconds == sum(one.iterations * one.seconds for one in result.phases)
    assert {"encoder", "decoder"} <= result.parameters.keys()
    assert result.memory_of == "this process"
    assert 4 * sum(result.parameters.values()) < result.checkpoint_bytes < result.folder_bytes
    assert not list((place / "work").iterdir()) and not list((place / "temporary").glob("sivae*"))


@pytest.mark.parametrize("changes", [{}, {"ema_half_life": 50.0, "bootstrap": 1.0}], ids=["plain", "averaged"])
def test_sizes_are_those_of_the_run(changes: dict[str, Any], place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw_and_measure_little(monkeypatch)
    result = dry_run(tiny(**changes), progress=False)
    train(tiny(**changes), place / "run", progress=False)
    sizes = {path: path.stat().st_size for path in (place / "run").rglob("*") if path.is_file()}
    checkpoint = place / "run" / "checkpoints" / "20"
    # Files in torch's archives begin at multiples of 64 bytes, and Adam's step 10 has as many digits as 20.
    assert abs(sum(size for path, size in sizes.items() if path.parent == checkpoint) - result.checkpoint_bytes) <= 64
    # Pictures and checkpoints are as many as predicted. The rest: summary.json and the digits of numbers.
    assert abs(sum(sizes.values()) - result.folder_bytes) < (place / "run" / "summary.json").stat().st_size + 1024
    loaded = load_model(checkpoint)
    counts = {name: sum(one.numel() for one in getattr(loaded, name).parameters()) for name in ("encoder", "decoder")}
    assert result.parameters == counts


def test_the_iterations_are_the_run_s_own(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each phase begins with its first iteration, in the run's precision; a stage is measured where nothing blends."""
    seen: list[tuple[int, torch.Size]] = []
    original = Trainer.iterate

    def iterate(self: Trainer, step: int, batch: torch.Tensor, condition: torch.Tensor | None) -> Any:
        seen.append((step, batch.shape))
        return original(self, step, batch, condition)

    monkeypatch.setattr(Trainer, "iterate", iterate)
    dry_run(_growing(place), progress=False)
    assert seen == [
        *((step, torch.Size([4, 3, 4, 4])) for step in range(1, 7)),
        *((step, torch.Size([2, 3, 8, 8])) for step in range(13, 19)),
    ]


def test_a_frozen_network_is_a_phase_of_its_own(place: Path) -> None:
    result = dry_run(_points(place, freeze="encoder", freeze_fraction=0.5), progress=False)
    names = ["warm-up, encoder frozen", "soft-intro, encoder frozen", "soft-intro"]
    assert [(one.name, one.iterations) for one in result.phases] == list(zip(names, (5, 5, 10), strict=True))


def test_a_run_of_one_iteration_is_measured_by_it(place: Path) -> None:
    (phase,) = dry_run(tiny(steps=1, warmup_fraction=0.0), progress=False).phases
    assert (phase.iterations, phase.measured) == (1, 1)


def test_the_data_s_errors_are_those_of_a_training(place: Path) -> None:
    config = preset_config("cifar10", path=str(place / "none"), device="cpu")
    with pytest.raises(ConfigError, match="none") as of_training:
        train(config, place / "run", progress=False)
    with pytest.raises(ConfigError) as of_dry_run:
        dry_run(config, progress=False)
    assert str(of_dry_run.value) == str(of_training.value)


def test_weights_to_start_from_are_read_and_their_errors_are_those_of_a_training(place: Path) -> None:
    save_model(place / "start", MLPVAE(hidden=8, layers=1))
    assert dry_run(tiny(steps=2, init_from=str(place / "start")), progress=False).phases
    save_model(place / "other", MLPVAE(hidden=8, layers=2))
    with pytest.raises(ConfigError, match=r"freeze = 'encoder': .* of it would stay random"):
        dry_run(tiny(steps=2, init_from=str(place / "other"), freeze="encoder"), progress=False)


def test_a_dry_run_leaves_the_caller_s_settings(place: Path) -> None:
    torch.manual_seed(11)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    dry_run(tiny(steps=2), progress=False)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads
