"""Runs on images: what they leave, that they go on exactly, and that what they show is what the saved model gives."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import sivae
from sivae import files
from sivae.errors import CheckpointError, ConfigError, RunInterrupted
from sivae.figures.grids import sample_grid
from sivae.settings.presets import preset_config
from sivae.settings.run import RunConfig
from sivae.training.checkpoint import list_checkpoints
from sivae.training.run import train
from sivae.training.run_metrics import evaluate
from sivae.training.seeds import derived_seed
from sivae.training.tasks.images import ImageTask
from tests.training.image_runs import assert_same, outcome, stopping

_TINY = {"steps": 12, "batch_size": 16, "widths": (4, 8), "z_dim": 3, "threads": 1, "seed": 3, "device": "cpu"}
_OFTEN = {"log_every": 2, "checkpoint_every": 4, "sample_every": 6}
# Every setting that a resumed run has to carry on.
_VARIANTS: dict[str, dict[str, Any]] = {
    "batch norm": {"norm": "batch"},
    "group norm, averaged, flipped": {"norm": "group", "ema_half_life": 40, "flip": True},
    "bf16, in parts, checkpointed": {"precision": "bf16", "accumulate": 2, "checkpoint_activations": True},
    "conditional": {"conditional": True, "norm": "none", "memory_format": "contiguous"},
}


def _config(**changes: Any) -> RunConfig:
    return preset_config("digits", **{**_TINY, **_OFTEN, **changes})


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Runs that nothing interrupted, by variant, each made once."""
    made: dict[str, Path] = {}

    def run(variant: str) -> Path:
        if variant not in made:
            made[variant] = tmp_path_factory.mktemp("whole") / "run"
            train(_config(**_VARIANTS[variant]), made[variant], progress=False)
        return made[variant]

    return run


def test_a_run_leaves_what_it_promises(whole: Callable[[str], Path]) -> None:
    folder = whole("group norm, averaged, flipped")
    names = {path.name for path in folder.iterdir() if "tfevents" not in path.name}
    pictures = ["samples.png", "samples-reconstructions.png", "curves.png"]
    assert names == {"config.json", "metrics.jsonl", "samples", "checkpoints", "summary.json", *pictures}
    assert sorted(path.name for path in (folder / "samples").iterdir()) == ["06-reconstructions.png", "06.png"]
    last = list_checkpoints(folder / "checkpoints")[-1]
    assert {path.name for path in last.iterdir()} == {
        *("model.json", "model.safetensors", "ema.safetensors", "state.pt", "manifest.json")
    }
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["pictures"] == pictures
    assert summary["metrics"] == ["mse", "psnr", "ssim", "rec", "kl"]
    assert summary["samples_per_second"] == pytest.approx(12 * 16 / summary["train_seconds"])
    assert evaluate(folder) == {"step": 12, "seed": 3} | {key: summary[key] for key in summary["metrics"]}


@pytest.mark.parametrize("variant", _VARIANTS)
def test_a_stopped_run_goes_on_exactly(
    variant: str, whole: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        stopping(patch, 7)
        with pytest.raises(RunInterrupted, match="stopped at step 7 by SIGTERM"):
            train(_config(**_VARIANTS[variant]), folder, progress=False)
    train(out=folder, resume=True, progress=False)
    assert_same(folder, whole(variant))


_KILLED_WHILE_SAVING = """
import os, signal, sys
from sivae import files
from sivae.training import run
from sivae.settings.run import RunConfig
write = files.write_json
def killed(path, content):
    if path.name == "manifest.json" and content["step"] == 8:
        os.kill(os.getpid(), signal.SIGKILL)
    write(path, content)
files.write_json = killed
run.train(RunConfig.from_json(sys.argv[1]), sys.argv[2], progress=False)
"""


def test_a_run_killed_in_the_middle_of_a_save_goes_on_exactly(whole: Callable[[str], Path], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    words = [sys.executable, "-c", _KILLED_WHILE_SAVING, _config(**_VARIANTS["batch norm"]).to_json(), str(folder)]
    process = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)
    assert process.returncode == -signal.SIGKILL, process.stderr
    assert list((folder / "checkpoints").glob(".tmp-8-*"))  # half a checkpoint
    assert [path.name for path in list_checkpoints(folder / "checkpoints")] == ["4"]
    train(out=folder, resume=True, progress=False)
    assert_same(folder, whole("batch norm"))
    assert not list((folder / "checkpoints").glob(".tmp-*"))


_SMALL_DISK = """
import resource, sys
from sivae.cli.main import main
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
main(["train", "digits", "--out", sys.argv[1], *"--steps 4 --batch-size 16 --widths 4 8 --threads 1".split()])
"""


@pytest.mark.parametrize("room", [500, 12_000], ids=["not for the weights", "not for the rest"])
def test_a_disk_that_takes_no_more_costs_one_line(tmp_path: Path, room: int) -> None:
    words = [sys.executable, "-c", _SMALL_DISK, str(tmp_path / "run"), str(room)]
    process = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)
    assert process.returncode == 1
    last = process.stderr.strip().splitlines()[-1]
    assert last.startswith("sivae: ")
    assert "File too large" in last and "the space left" in last
    assert "Traceback" not in process.stderr


def test_whoever_may_read_the_run_may_read_its_models(whole: Callable[[str], Path]) -> None:
    last = list_checkpoints(whole("batch norm") / "checkpoints")[-1]
    assert len({path.stat().st_mode for path in last.iterdir()}) == 1


def test_a_full_disk_leaves_the_last_checkpoint_whole(
    whole: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    original = files.write_tensors

    def full(path: Path, content: dict[str, Any]) -> None:
        if content["step"] == 8:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        original(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(files, "write_tensors", full)
        with pytest.raises(OSError, match="No space left on device"):
            train(_config(**_VARIANTS["batch norm"]), folder, progress=False)
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["4"]
    train(out=folder, resume=True, progress=False)
    assert_same(folder, whole("batch norm"))


@pytest.mark.parametrize("variant", ["batch norm", "group norm, averaged, flipped"])
def test_what_a_run_shows_is_what_the_saved_model_gives(
    variant: str, whole: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = whole(variant)
    model = sivae.from_pretrained(folder)
    assert not model.training
    generator = torch.Generator().manual_seed(derived_seed(3, "pictures"))
    sample_grid(tmp_path / "samples.png", model.sample(64, generator=generator))
    shown, mine = (np.asarray(Image.open(path)) for path in (folder / "samples.png", tmp_path / "samples.png"))
    assert shown.shape == mine.shape
    # The loaded model's memory is not channels-last, so sums differ in their last bits, and a level of 255 with them.
    assert np.abs(shown.astype(int) - mine.astype(int)).max() <= 1
    assert mine.std() > 5  # a picture, not one colour


def _image_folder(folder: Path, count: int = 40, side: int = 8) -> Path:
    generator = np.random.default_rng(0)
    for index in range(count):
        path = folder / f"class{index % 2}" / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (side, side, 3), dtype=np.uint8)).save(path)
    return folder


def _of_folder(images: Path, **changes: Any) -> RunConfig:
    return preset_config("cifar10", **{**_TINY, **_OFTEN, "resolution": 8, "path": str(images), **changes})


def test_a_folder_of_images_trains_and_may_move_before_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = _image_folder(tmp_path / "images")
    train(_of_folder(images, epochs=6, steps=None), tmp_path / "whole", progress=False)
    config = RunConfig.read(tmp_path / "whole" / "config.json")
    assert (config.steps, config.epochs) == (6 * (40 // 16), 6.0)

    def stop(self: ImageTask, step: int) -> Any:
        if step == 5:
            signal.raise_signal(signal.SIGTERM)
        return original(self, step)

    original = ImageTask.batch
    with monkeypatch.context() as patch:
        patch.setattr(ImageTask, "batch", stop)
        with pytest.raises(RunInterrupted):
            train(_of_folder(images, epochs=6, steps=None), tmp_path / "run", progress=False)
    images.rename(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="there is no such file or folder"):
        train(out=tmp_path / "run", resume=True, progress=False)
    moved = RunConfig.read(tmp_path / "run" / "config.json").replace(path=str(tmp_path / "elsewhere"))
    train(moved, tmp_path / "run", resume=True, progress=False)
    assert_same(tmp_path / "run", tmp_path / "whole")


def test_images_may_stay_on_the_disk(tmp_path: Path) -> None:
    images = _image_folder(tmp_path / "images")
    for cache in ("host", "none"):
        train(_of_folder(images, cache=cache, steps=5), tmp_path / cache, progress=False)
    (mine, _), (theirs, _) = outcome(tmp_path / "none"), outcome(tmp_path / "host")
    assert all(torch.equal(mine[name], value) for name, value in theirs.items())


def test_a_run_does_not_go_on_with_other_images(tmp_path: Path) -> None:
    images = _image_folder(tmp_path / "images")
    train(_of_folder(images), tmp_path / "run", progress=False)
    (tmp_path / "run" / "summary.json").unlink()
    next(images.rglob("7.png")).unlink()
    with pytest.raises(CheckpointError, match=r"its images were 40 x 8 x 3, \w+, and .* holds 39 x 8 x 3, \w+"):
        train(out=tmp_path / "run", resume=True, progress=False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"path": None}, r"the preset cifar10 needs images; name them by --data PATH"),
        ({"batch_size": 64}, "has 40 images, fewer than one batch of 64"),
        ({"widths": (4, 8, 8, 8)}, "image_size is 8, not a multiple of 16"),
    ],
)
def test_settings_that_do_not_fit_the_images_are_named_before_anything_is_written(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    images = _image_folder(tmp_path / "images")
    with pytest.raises(ConfigError, match=message):
        train(_of_folder(images, **changes), tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_damaged_images_stop_a_run_or_are_left_out_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = _image_folder(tmp_path / "images")
    damaged = images / "class1" / "7.png"
    damaged.write_bytes(damaged.read_bytes()[:40])
    with pytest.raises(ConfigError, match=r"class1/7\.png"):
        train(_of_folder(images), tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()
    train(_of_folder(images, skip_damaged=True), tmp_path / "run")
    assert "images: damaged images left out: 1" in capsys.readouterr().err


def test_conditions_need_classes(tmp_path: Path) -> None:
    images = _image_folder(tmp_path / "images") / "class0"
    with pytest.raises(ConfigError, match="conditional: the images have no classes"):
        train(_of_folder(images, conditional=True), tmp_path / "run", progress=False)


@pytest.mark.slow
def test_a_compiled_run_computes_the_same_up_to_rounding(tmp_path: Path) -> None:
    """Two steps: a relative rounding error of 1e-6 moves a weight by far less than Adam's rate of 2e-4 in each."""
    results = []
    for name, compiles in (("eager", False), ("compiled", True)):
        config = _config(norm="group", steps=2, batch_size=8, compile=compiles, checkpoint_every=2, log_every=1)
        train(config, tmp_path / name, progress=False)
        results.append(outcome(tmp_path / name)[0])
    for key, value in results[0].items():
        assert (results[1][key] - value).abs().max() < 0.1 * 2e-4, key
