"""Runs of the model `translation`: that they resume exactly, their metrics, and their errors."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchmetrics
from torch._dynamo.utils import counters

from sivae.cli.main import main
from sivae.errors import CheckpointError, ConfigError
from sivae.models.translation import TranslationVAE
from sivae.pretrained import from_pretrained
from sivae.settings.presets import preset_config
from sivae.training import distances
from sivae.training.parallel import Processes
from sivae.training.recorder import read_records
from sivae.training.run import train
from sivae.training.run_metrics import evaluate
from sivae.training.tasks.translation import TranslationTask
from tests.models.plain_vgg import write_vgg
from tests.training.runs import assert_resumes_exactly, made_once, outcome, train_until
from tests.training.translation_images import (
    CLASSES,
    CONTENTS,
    TEST_CLASSES,
    TINY_TRANSLATION,
    translation_config,
    write_translation_images,
)

CPU = torch.device("cpu")
LPIPS_WEIGHTS = Path(torchmetrics.__file__).parent / "functional" / "image" / "lpips_models" / "vgg.pth"
_VARIANTS: dict[str, dict[str, Any]] = {
    "pairs, averaged": {"ema_half_life": 40},
    "no labels": {"supervision": "none", "warmup_fraction": 0.25},
    "pairs in parts": {"accumulate": 2, "precision": "bf16"},
    "IntroVAE": {"objective": "intro"},
    "VAE": {"objective": "vae"},
    "LORD": {"objective": "lord"},
}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_translation_images(tmp_path_factory.mktemp("data") / "images.npz")


@pytest.fixture(scope="module")
def whole(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Runs without a stop, by variant."""
    return made_once(tmp_path_factory, lambda variant: translation_config(images, **_VARIANTS[variant]))


# LORD's first stage has the steps 1 to 4. Its run is stopped in this stage, at its end, and in the second stage.
@pytest.mark.parametrize(("variant", "step"), [*((variant, 5) for variant in _VARIANTS), ("LORD", 2), ("LORD", 4)])
def test_a_stopped_run_resumes_exactly(
    variant: str, step: int, images: Path, whole: Callable[[str], Path], tmp_path: Path
) -> None:
    config = translation_config(images, **_VARIANTS[variant])
    assert_resumes_exactly(step, config, tmp_path / "run", whole(variant))


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["soft-intro", "lord"])
def test_a_compiled_run_has_the_losses_of_a_plain_one(objective: str, images: Path, tmp_path: Path) -> None:
    """Losses are equal up to the order of sums.

    A sum of at most 200 terms changes the output of a layer by √200 · 2^-24 relative, and the reconstruction of a
    reconstruction, 24 layers later, by √24 times that. exp_elbo is an exponential of about -6.5, so it changes 6.5
    times as much. Each of the three updates before the last loss changes a loss by less than its size, so the error of
    this change is no larger: Adam only reverses the step of a weight whose gradient is almost 0.
    """
    tolerance = 4 * 6.5 * 24**0.5 * 200**0.5 * 2**-24
    torch.compiler.reset()
    counters.clear()
    records = {}
    for compiled in (False, True):
        folder = tmp_path / str(compiled)
        config = translation_config(images, steps=4, warmup_fraction=0.5, objective=objective, compile=compiled)
        train(config, folder, progress=False)
        records[compiled] = outcome(folder)[1]
        assert bool(counters["frames"]["total"]) == compiled
    assert counters["frames"]["ok"] == counters["frames"]["total"]
    assert len({record["phase"] for record in records[False]}) == 2
    for mine, theirs in zip(records[True], records[False], strict=True):
        assert mine.keys() == theirs.keys() and mine.pop("phase") == theirs.pop("phase")
        assert all(math.isfinite(value) for value in theirs.values())
        assert mine == pytest.approx(theirs, rel=tolerance)


def test_a_run_measures_and_draws_translations(whole: Callable[[str], Path]) -> None:
    folder = whole("pairs, averaged")
    summary = json.loads((folder / "summary.json").read_text())
    assert {"transfer_mse", "transfer_ssim", "reconstruction_ssim", "class_from_content", "class_chance"} < {
        *summary["metrics"]
    }
    assert summary["class_chance"] == 1 / TEST_CLASSES
    assert evaluate(folder) == {"step": 8, "seed": 3} | {
        key: summary[key] for key in ("measured_on", *summary["metrics"])
    }
    assert summary["pictures"] == [
        *("samples.png", "samples-reconstructions.png", "samples-translations.png", "curves.png")
    ]
    names = {path.name for path in (folder / "samples").iterdir()}
    assert names == {"5.png", "5-reconstructions.png", "5-translations.png"}


def test_a_run_of_pairs_cannot_be_resumed_with_other_labels(images: Path, tmp_path: Path) -> None:
    path = tmp_path / "images.npz"
    arrays = dict(np.load(images))
    np.savez(path, **arrays)
    train_until(5, translation_config(path), tmp_path / "run")
    np.savez(path, **{**arrays, "labels": np.roll(arrays["labels"], 1)})
    with pytest.raises(CheckpointError, match="its images were"):
        train(out=tmp_path / "run", resume=True, progress=False)


def test_a_run_of_lord_can_be_measured_on_other_images(
    whole: Callable[[str], Path], images: Path, tmp_path: Path
) -> None:
    arrays = dict(np.load(images))
    few = {key: arrays[key][:12] for key in ("images", "labels")}
    np.savez(tmp_path / "few.npz", **few)
    assert evaluate(whole("LORD"), data=tmp_path / "few.npz")["class_chance"] == pytest.approx(1 / 3)


def test_a_record_contains_the_class_s_part_of_the_kl(whole: Callable[[str], Path]) -> None:
    for record in read_records(whole("pairs, averaged")):
        assert 0.0 < record["kl_real_class"] < record["kl_real"]


def test_the_stages_of_lord_train_codes_and_then_encoders(whole: Callable[[str], Path]) -> None:
    records = read_records(whole("LORD"))
    assert [record["phase"] for record in records] == ["warm-up"] * 4 + ["lord"] * 4
    assert [("content_norm" in record, "code_error" in record) for record in records] == (
        [(True, False)] * 4 + [(False, True)] * 4
    )
    model = from_pretrained(whole("LORD"))
    assert isinstance(model, TranslationVAE) and model.encoder.codes is not None
    assert model.encoder.codes.content.shape == ((CLASSES - TEST_CLASSES) * CONTENTS, 3)
    assert model.encoder.codes.of_class.shape == (CLASSES, 4)  # all classes, also those of the test images


def test_lord_gets_the_number_of_each_image_and_of_its_class(images: Path) -> None:
    task = TranslationTask(translation_config(images, objective="lord"), CPU, Processes())
    batch, numbers = task.batch(1)
    assert numbers is not None and task._train is not None
    for image, (number, label) in zip(batch, numbers.tolist(), strict=True):
        assert np.array_equal((image * 255).round().permute(1, 2, 0).to(torch.uint8).numpy(), task._train.read(number))
        assert task._train.label(number) == label
    task.close()


@pytest.mark.parametrize(("changes", "paired"), [({}, True), ({"supervision": "none"}, False)])
def test_batches_consist_of_pairs_unless_supervision_is_none(
    images: Path, changes: dict[str, Any], paired: bool
) -> None:
    task = TranslationTask(translation_config(images, **changes), CPU, Processes())
    model = task.build_model()
    assert isinstance(model, TranslationVAE) and model.exchanges == paired
    assert task._batches is not None and task._train is not None
    labels = [[task._train.label(row) for row in task._batches.numbers(step).tolist()] for step in range(4)]
    assert all(row[0::2] == row[1::2] for row in labels) == paired
    task.close()


@pytest.mark.parametrize("objective", ["soft-intro", "lord"])
def test_images_without_classes_are_an_error_with_labels(objective: str, tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", np.zeros((40, 8, 8, 3), np.uint8))
    config = translation_config(tmp_path / "images.npy", objective=objective)
    with pytest.raises(ConfigError, match=r"ha(s|ve) no classes"):
        train(config, tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_the_built_in_shapes_train(tmp_path: Path) -> None:
    small = {key: value for key, value in TINY_TRANSLATION.items() if key != "channels"}
    summary = train(preset_config("translation-shapes", **{**small, "steps": 1}), tmp_path / "run", progress=False)
    # There are 20 test classes, and each is split at random.
    assert summary["class_chance"] == pytest.approx(1 / 20, abs=0.02)


def test_a_run_without_labels_needs_no_classes(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 1), np.uint8)
    np.save(tmp_path / "images.npy", pixels)
    config = translation_config(tmp_path / "images.npy", supervision="none")
    summary = train(config, tmp_path / "run", progress=False)
    assert "transfer_ssim" not in summary and (tmp_path / "run" / "samples-translations.png").exists()


LINEAR = (64, 128, 256, 512, 512)  # channels at the taps


@pytest.fixture(scope="module")
def vgg(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_vgg(tmp_path_factory.mktemp("vgg") / "vgg16.pth")


def test_the_error_can_be_perceptual(images: Path, vgg: Path, tmp_path: Path) -> None:
    sizes = {"resolution": 16, "steps": 2, "batch_size": 4}
    first = {}
    torch.save(
        {f"lin{i}.model.1.weight": torch.ones(1, c, 1, 1) for i, c in enumerate(LINEAR)}, tmp_path / "linear.pth"
    )
    changed = {
        "pixels": {"kind": "l1"},
        "perceptual": {"perceptual": str(vgg)},
        "lpips": {"perceptual": str(vgg), "lpips": str(tmp_path / "linear.pth"), "precision": "bf16"},
        "structural": {"kind": "l1", "structural": 1.0},
    }
    for name, changes in changed.items():
        train(translation_config(images, **sizes, **changes), tmp_path / name, progress=False)
        first[name] = read_records(tmp_path / name)[0]["rec"]
    for name in ("perceptual", "lpips", "structural"):
        assert first[name] > 1.01 * first["pixels"]  # the error of pixels and other terms
    checkpoint = tmp_path / "perceptual" / "checkpoints" / "2" / "model.safetensors"
    assert checkpoint.stat().st_size < 1_000_000  # it does not contain VGG-16


def test_a_run_reads_the_network_once(images: Path, vgg: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    original = distances.load_vgg16
    monkeypatch.setattr(distances, "load_vgg16", lambda *given, **how: read.append(given) or original(*given, **how))
    config = translation_config(images, resolution=16, steps=1, batch_size=4, perceptual=str(vgg))
    train(config, tmp_path / "run", progress=False)
    assert len(read) == 1


def test_a_missing_or_wrong_network_is_an_error_before_anything_is_written(images: Path, tmp_path: Path) -> None:
    (tmp_path / "other.pth").write_bytes(b"no weights")
    for name in ("nowhere.pth", "other.pth"):
        with pytest.raises(ConfigError, match=rf"perceptual: .*{name}.*; name torchvision's weights of VGG-16"):
            train(translation_config(images, perceptual=str(tmp_path / name)), tmp_path / "run", progress=False)
        assert not (tmp_path / "run").exists()


def test_lpips_is_measured_if_its_files_are_given(
    images: Path, vgg: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(translation_config(images, resolution=16, steps=1, batch_size=4), tmp_path / "run", progress=False)
    main(["evaluate", str(tmp_path / "run"), "--lpips-weights", str(vgg), str(LPIPS_WEIGHTS), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["transfer_lpips"] > 0.0 and found["reconstruction_lpips"] > 0.0


@pytest.mark.parametrize(
    ("files", "message"),
    [(["one.pth"], "--lpips-weights: expected 2 arguments"), (["a.pth", "b.pth", "c.pth"], "too many: c.pth")],
)
def test_lpips_needs_two_files(files: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["evaluate", "run", "--lpips-weights", *files])
    assert message in capsys.readouterr().err
