"""Runs on images: their files, that they resume exactly, and that their pictures are those of the saved model."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import sivae
from sivae import files
from sivae.cli.main import main
from sivae.errors import CheckpointError, ConfigError
from sivae.figures.grids import sample_grid
from sivae.settings.presets import preset_config
from sivae.settings.run import RunConfig
from sivae.training.checkpoint import list_checkpoints
from sivae.training.run import train
from sivae.training.run_metrics import evaluate
from sivae.training.seeds import derived_seed
from sivae.training.tasks import images as image_task
from sivae.training.tasks.base import open_task
from tests.training.runs import assert_resumes_exactly, assert_same, made_once, outcome, train_until

_TINY = {"steps": 12, "batch_size": 16, "widths": (4, 8), "z_dim": 3, "threads": 1, "seed": 3, "device": "cpu"}
_OFTEN = {"log_every": 2, "checkpoint_every": 4, "sample_every": 6}
# All settings whose state a resumed run has to restore.
_VARIANTS: dict[str, dict[str, Any]] = {
    "batch norm": {"norm": "batch"},
    "group norm, averaged, flipped": {"norm": "group", "ema_half_life": 40, "flip": True},
    "bf16, in parts, checkpointed": {"precision": "bf16", "accumulate": 2, "checkpoint_activations": True},
    "bootstrap, in parts, checkpointed": {"bootstrap": 0.05, "accumulate": 2, "checkpoint_activations": True},
    "augmented, in parts": {"augment": ("color", "translation", "cutout"), "accumulate": 2, "norm": "group"},
    "bce, averaged": {"kind": "bce", "norm": "group", "ema_half_life": 40, "bootstrap": 0.1},
    "a learned variance": {"kind": "gaussian", "norm": "none", "accumulate": 2},
    "structural, in parts": {"structural": 0.5, "kind": "l1", "norm": "group", "accumulate": 2},
    "conditional": {"conditional": True, "norm": "none", "memory_format": "contiguous"},
}


def _config(**changes: Any) -> RunConfig:
    return preset_config("digits", **{**_TINY, **_OFTEN, **changes})


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Runs without a stop, by variant."""
    return made_once(tmp_path_factory, lambda variant: _config(**_VARIANTS[variant]))


def test_a_run_writes_its_files_and_its_summary(whole: Callable[[str], Path]) -> None:
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
    measured = {key: summary[key] for key in ("measured_on", *summary["metrics"])}
    assert measured["measured_on"] == "300 test images"
    assert evaluate(folder) == {"step": 12, "seed": 3} | measured


@pytest.mark.parametrize("variant", _VARIANTS)
def test_a_stopped_run_resumes_exactly(variant: str, whole: Callable[[str], Path], tmp_path: Path) -> None:
    assert_resumes_exactly(7, _config(**_VARIANTS[variant]), tmp_path / "run", whole(variant))


@pytest.fixture
def largest_file() -> Iterator[Callable[[int], None]]:
    """Limit the size of files that this process can write, in bytes, as a disk without space does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("size", [500, 12_000], ids=["not for the weights", "not for the rest"])
def test_a_write_that_fails_is_an_error_of_one_line(
    size: int, tmp_path: Path, largest_file: Callable[[int], None], capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "train",
        "digits",
        "--out",
        str(tmp_path / "run"),
        *["--steps", "4", "--batch-size", "16", "--widths", "4", "8"],
    ]
    largest_file(size)
    with pytest.raises(SystemExit) as caught:
        main([*words, "--threads", "1"])
    assert caught.value.code == 1
    errors = capsys.readouterr().err
    last = errors.strip().splitlines()[-1]
    assert last.startswith("sivae: ")
    assert "File too large" in last and "the space left" in last
    assert "Traceback" not in errors


def test_all_files_of_a_checkpoint_have_the_same_permissions(whole: Callable[[str], Path]) -> None:
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
def test_the_pictures_of_a_run_are_those_of_the_saved_model(
    variant: str, whole: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = whole(variant)
    model = sivae.from_pretrained(folder)
    assert not model.training
    generator = torch.Generator().manual_seed(derived_seed(3, "pictures"))
    sample_grid(tmp_path / "samples.png", model.sample(64, generator=generator))
    shown, mine = (np.asarray(Image.open(path)) for path in (folder / "samples.png", tmp_path / "samples.png"))
    assert shown.shape == mine.shape
    # The loaded model is not channels-last, so sums differ in their last bits, and a pixel by one of 255 levels.
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


def test_a_folder_of_images_may_move_before_the_run_is_resumed(tmp_path: Path) -> None:
    images = _image_folder(tmp_path / "images")
    train(_of_folder(images, epochs=6, steps=None), tmp_path / "whole", progress=False)
    config = RunConfig.read(tmp_path / "whole" / "config.json")
    assert (config.steps, config.epochs) == (6 * (40 // 16), 6.0)

    train_until(5, _of_folder(images, epochs=6, steps=None), tmp_path / "run")
    images.rename(tmp_path / "elsewhere")
    missing = r"images: there is no such file or folder; check the path, or name the new place of images"
    with pytest.raises(ConfigError, match=missing):
        evaluate(tmp_path / "run")
    with pytest.raises(ConfigError, match=missing):
        train(out=tmp_path / "run", resume=True, progress=False)
    moved = RunConfig.read(tmp_path / "run" / "config.json").replace(path=str(tmp_path / "elsewhere"))
    train(moved, tmp_path / "run", resume=True, progress=False)
    assert_same(tmp_path / "run", tmp_path / "whole")


def test_images_read_from_the_disk_give_the_same_result(tmp_path: Path) -> None:
    images = _image_folder(tmp_path / "images")
    for cache in ("host", "none"):
        train(_of_folder(images, cache=cache, steps=5), tmp_path / cache, progress=False)
    (mine, _), (theirs, _) = outcome(tmp_path / "none"), outcome(tmp_path / "host")
    assert all(torch.equal(mine[name], value) for name, value in theirs.items())


def test_a_run_cannot_be_resumed_with_other_images(tmp_path: Path) -> None:
    images = _image_folder(tmp_path / "images")
    train(_of_folder(images), tmp_path / "run", progress=False)
    (tmp_path / "run" / "summary.json").unlink()
    next(images.rglob("7.png")).unlink()
    with pytest.raises(CheckpointError, match=r"its images were 40 x 8 x 3, \w+, and .* holds 39 x 8 x 3, \w+"):
        train(out=tmp_path / "run", resume=True, progress=False)


@pytest.mark.parametrize("cache", ["host", "none"])
def test_a_run_notices_that_one_of_many_images_changed(
    cache: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_task, "_LOOKED_AT", 4)
    images = _image_folder(tmp_path / "images")
    train(_of_folder(images, cache=cache), tmp_path / "run", progress=False)
    (tmp_path / "run" / "summary.json").unlink()
    Image.new("RGB", (8, 8)).save(next(images.rglob("7.png")))
    Image.new("RGB", (8, 8)).save(next(images.rglob("11.png")))
    with pytest.raises(CheckpointError, match=r"2 of 40 images have changed, the first is .*; resume with the data"):
        train(out=tmp_path / "run", resume=True, progress=False)


def test_a_run_goes_on_with_the_same_images_read_in_another_way(tmp_path: Path) -> None:
    images = _image_folder(tmp_path / "images")
    train_until(5, _of_folder(images, cache="host"), tmp_path / "run")
    other = RunConfig.read(tmp_path / "run" / "config.json").replace(cache="none")
    assert train(other, tmp_path / "run", resume=True, progress=False)["steps"] == 12


def test_a_checkpoint_of_an_earlier_version_is_checked_by_its_fingerprint(tmp_path: Path) -> None:
    images = _image_folder(tmp_path / "images")
    with contextlib.closing(open_task(_of_folder(images), torch.device("cpu"))) as task:
        state = task.state()
        task.load_state({"images": state["images"]})
        with pytest.raises(ValueError, match="its images were 41 x 8 x 3"):
            task.load_state({"images": "41 x 8 x 3, 00000000"})
        with pytest.raises(ValueError, match=r"checksums\.values is missing"):
            task.load_state({**state, "checksums": {"kind": "files"}})


def test_a_conditional_run_notices_that_classes_changed(tmp_path: Path) -> None:
    images = _image_folder(tmp_path / "images")
    train(_of_folder(images, conditional=True), tmp_path / "run", progress=False)
    (tmp_path / "run" / "summary.json").unlink()
    # The last image of a class becomes the first one of the next, so the order of the images stays.
    max((images / "class0").iterdir()).rename(images / "class1" / "0.png")
    with pytest.raises(CheckpointError, match=r"the classes of images in .*images have changed"):
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


def _damage(images: Path, *names: str) -> list[Path]:
    paths = [images / name for name in names]
    for path in paths:
        path.write_bytes(path.read_bytes()[:40])
    return paths


@pytest.mark.parametrize("cache", ["host", "none"])
def test_damaged_images_are_an_error_or_are_skipped_and_counted(
    cache: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = _image_folder(tmp_path / "images")
    _damage(images, "class1/7.png", "class1/3.png")
    with pytest.raises(
        ConfigError, match=r"2 of 40 images of images are damaged: .*1/3\.png is.*1/7\.png is.* --skip-d"
    ):
        train(_of_folder(images, cache=cache), tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()
    train(_of_folder(images, cache=cache, skip_damaged=True, steps=2), tmp_path / "run")
    assert "images: damaged images left out: 2 (" in capsys.readouterr().err


def test_a_run_that_skips_damaged_images_is_the_same_in_every_cache_and_without_them(tmp_path: Path) -> None:
    images = _image_folder(tmp_path / "images")
    damaged = _damage(images, "class0/2.png", "class1/7.png")
    train(_of_folder(images, cache="host", skip_damaged=True), tmp_path / "whole", progress=False)
    train_until(7, _of_folder(images, cache="none", skip_damaged=True), tmp_path / "run")
    for path in damaged:
        path.unlink()
    train(out=tmp_path / "run", resume=True, progress=False)
    (mine, _), (theirs, _) = outcome(tmp_path / "run"), outcome(tmp_path / "whole")
    assert all(torch.equal(mine[name], value) for name, value in theirs.items())


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
