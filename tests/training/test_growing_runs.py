"""Runs of the style model: stages, that runs resume exactly, and that models load at their stage."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import sivae
from sivae.errors import ConfigError, DivergenceError
from sivae.models.style import StyleVAE
from sivae.models.style.resampling import doubled, halved
from sivae.settings.presets import preset_config
from sivae.settings.run import RunConfig
from sivae.training.checkpoint import list_checkpoints, load_checkpoint
from sivae.training.parallel import Processes
from sivae.training.process_settings import process_settings
from sivae.training.recorder import read_records
from sivae.training.resolved_settings import resolve
from sivae.training.run import train
from sivae.training.run_metrics import evaluate
from sivae.training.tasks.images import ImageTask
from sivae.training.trainer import Trainer, at_step
from tests.training.runs import assert_resumes_exactly, made_once, outcome, train_until

CPU = torch.device("cpu")
# 24 images: 6 iterations at 4x4 of 4 images each, then 12 at 8x8 of 2, of which the first 6 blend.
_TINY: dict[str, Any] = {
    "resolution": 8,
    "z_dim": 5,
    "start_channels": 2,
    "max_channels": 4,
    "mapping_layers": 2,
    "epochs": 2,
    "epochs_per_stage": 1,
    "warmup_epochs": 0.5,
    "stage_batches": (4, 2),
    "stage_beta_neg_factors": (2.0, 1.0),
    "ema_half_life": 20,
    "threads": 1,
    "seed": 3,
    "device": "cpu",
    "log_every": 1,
    "checkpoint_every": 4,
    "keep_checkpoints": 9,
    "sample_every": 9,
}
_BLENDING, _BLENDED = 10, 14  # iterations of the second stage
_VARIANTS: dict[str, dict[str, Any]] = {
    "as published": {},
    "fresh passes": {"decoder_passes": "fresh"},
    "bf16, in parts, checkpointed": {"precision": "bf16", "accumulate": 2, "checkpoint_activations": True},
    "bootstrap": {"bootstrap": 0.25},
    "IntroVAE": {"objective": "intro"},
}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "images"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for index in range(24):
        pixels = generator.integers(0, 256, (2, 2, 3), dtype=np.uint8).repeat(4, 0).repeat(4, 1)
        pixels[2:6, 2:6] = generator.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index:02d}.png")
    return folder


def _config(images: Path, **changes: Any) -> RunConfig:
    return preset_config("style32", path=str(images), **{**_TINY, **changes})


@pytest.fixture(scope="module")
def whole(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Runs without a stop, by variant."""
    return made_once(tmp_path_factory, lambda variant: _config(images, **_VARIANTS[variant]))


def _records(folder: Path) -> dict[int, dict[str, Any]]:
    return {record["step"]: record for record in read_records(folder)}


def test_every_record_names_its_stage(whole: Callable[[str], Path]) -> None:
    records = _records(whole("as published"))
    assert {step: record["resolution"] for step, record in records.items()} == {
        step: 4 if step <= 6 else 8 for step in range(1, 19)
    }
    assert [records[step]["blend"] for step in (1, 6)] == [1.0, 1.0]
    blends = [records[step]["blend"] for step in range(7, 19)]
    assert blends[:6] == sorted(blends[:6]) and 0 < blends[0] < blends[5] < 1 and set(blends[6:]) == {1.0}
    assert [records[step]["images"] for step in (1, 6, 7, 18)] == [4, 24, 26, 48]
    assert [records[step]["phase"] for step in (3, 4)] == ["warm-up", "soft-intro"]
    final = json.loads((whole("as published") / "summary.json").read_text())
    assert final["samples_per_second"] == pytest.approx(48 / final["train_seconds"])
    assert final["final"].keys() == {
        *("loss_encoder", "loss_decoder", "rec", "kl_real", "kl_fake", "kl_rec", "exp_elbo_fake", "exp_elbo_rec")
    }


@pytest.mark.parametrize("variant", _VARIANTS)
def test_a_run_stopped_while_blending_resumes_exactly(
    variant: str, images: Path, whole: Callable[[str], Path], tmp_path: Path
) -> None:
    """Weights, averaged weights, the average style and all losses are the same, bit for bit."""
    folder = tmp_path / "run"
    assert_resumes_exactly(_BLENDING, _config(images, **_VARIANTS[variant]), folder, whole(variant))
    assert {"model.safetensors/average_style", "ema.safetensors/average_style"} <= outcome(folder)[0].keys()


@pytest.mark.parametrize("step", [3, 6, 7], ids=["at the warm-up's end", "at a stage's end", "at a stage's start"])
def test_a_run_stopped_at_a_switch_resumes_exactly(
    step: int, images: Path, whole: Callable[[str], Path], tmp_path: Path
) -> None:
    assert_resumes_exactly(step, _config(images), tmp_path / "run", whole("as published"))


def test_models_load_at_their_stage(images: Path, whole: Callable[[str], Path], tmp_path: Path) -> None:
    checkpoints = whole("as published") / "checkpoints"
    found = {}
    for step, side in ((4, 4), (8, 8), (16, 8)):
        model = sivae.from_pretrained(checkpoints / str(step))
        assert isinstance(model, StyleVAE)
        assert model.sample_shape == (3, side, side)
        assert model.sample(2).shape == (2, 3, side, side)
        found[step] = float(model.blend)
    records = _records(whole("as published"))
    assert found == {step: pytest.approx(records[step]["blend"]) for step in found}


def test_a_run_that_stopped_while_growing_is_evaluated_at_its_stage(images: Path, tmp_path: Path) -> None:
    for step, side in ((4, 4), (_BLENDING, 8)):
        folder = tmp_path / str(step)
        train_until(step, _config(images), folder)
        metrics = evaluate(folder)
        assert metrics["step"] == step
        assert metrics == evaluate(folder)  # though the decoder draws noise
        # mse is of pictures in [0, 1], clipped there; rec is of values in [-1, 1], so it has four times the unit.
        assert metrics["rec"] >= 4 * metrics["mse"] * 3 * side * side * (1 - 1e-6)


def test_the_summary_has_the_metrics_that_the_last_checkpoint_gives(whole: Callable[[str], Path]) -> None:
    summary = json.loads((whole("as published") / "summary.json").read_text())
    assert evaluate(whole("as published")) == {"step": 18, "seed": 3} | {
        key: summary[key] for key in ("measured_on", *summary["metrics"])
    }


def test_pictures_are_of_the_stage_and_in_its_range(images: Path, tmp_path: Path) -> None:
    original = np.asarray(Image.open(images / "00.png"))
    coarse = original.reshape(4, 2, 4, 2, 3).mean((1, 3)).round().astype(np.uint8)
    config = resolve(_config(images))
    with process_settings(config):
        trainer, task = _trainer(config)
        for step, expected in ((3, coarse), (15, original)):
            at_step(trainer.model, task.config, step)
            _, path = task.picture_samples(tmp_path / f"{step}.png", trainer.model, step)
            # The picture contains the original, with enlarged pixels.
            assert _colours(expected) <= _colours(np.asarray(Image.open(path).convert("RGB"))), step
        task.close()


def _colours(pixels: np.ndarray) -> set[tuple[int, ...]]:
    return set(map(tuple, pixels.reshape(-1, 3).tolist()))


def _task(config: RunConfig) -> ImageTask:
    return ImageTask(resolve(config), CPU, Processes())


def test_real_images_are_blended_with_their_own_coarse_copies(images: Path) -> None:
    config = _config(images, flip=False)
    task = _task(config)
    stage = task.config.stage_at(_BLENDING)
    assert stage is not None and 0 < stage.blend < 1
    blended, _ = task.batch(_BLENDING)
    assert task._batches is not None
    sharp, _ = task._batches.batch(stage.index)
    assert sharp.shape == (2, 3, 8, 8) and sharp.min() < -0.5 and sharp.max() > 0.5
    # Halving averages and doubling repeats, so means are the same up to the rounding of float32.
    torch.testing.assert_close(blended, stage.blend * sharp + (1 - stage.blend) * doubled(halved(sharp)))
    torch.testing.assert_close(halved(blended), halved(sharp), rtol=0, atol=1e-6)
    later = task.config.stage_at(_BLENDED)
    assert later is not None
    assert torch.equal(task.batch(_BLENDED)[0], task._batches.batch(later.index)[0])
    task.close()


def test_every_stage_sees_every_image_once_an_epoch(images: Path) -> None:
    task = _task(_config(images, flip=False))
    for steps, side in ((range(1, 7), 4), (range(7, 19), 8)):
        seen = torch.cat([halved(task.batch(step)[0]) if side == 8 else task.batch(step)[0] for step in steps])
        assert len(seen.flatten(1).unique(dim=0)) == 24, side
    task.close()


def _trainer(config: RunConfig) -> tuple[Trainer, ImageTask]:
    task = _task(config)
    config = task.config.replace(steps=task.config.growth.total_steps)
    return Trainer(config, task, CPU, Processes()), task


def test_optimizers_start_over_at_a_switch_and_only_there(images: Path) -> None:
    config = resolve(_config(images))
    with process_settings(config):
        trainer, task = _trainer(config)
        ages = []
        for step in range(1, 15):
            trainer.iterate(step, *task.batch(step))
            weight = trainer.model.decoder.blocks[0].conv2.weight
            ages.append(int(trainer.optimizers["decoder"].state[weight]["step"]))
        assert ages == [1, 2, 3, 4, 5, 6, 1, 2, 3, 4, 5, 6, 7, 8]
        task.close()


def test_an_iteration_has_its_stage_s_rate_and_beta_neg(images: Path) -> None:
    config = resolve(_config(images, learning_rate=0.004, stage_rate_factors=(1.0, 0.5)))
    seen = []
    with process_settings(config):
        trainer, task = _trainer(config)
        for step in (5, 6, 7, 18):
            trainer.iterate(step, *task.batch(step))
            of_step = list(trainer._steps.values())[-1]
            bias = trainer.model.encoder.blocks[1].bias1
            (rate,) = (
                group["lr"]
                for group in trainer.optimizers["encoder"].param_groups
                if any(parameter is bias for parameter in group["params"])
            )
            seen.append((rate, of_step.objective.beta_neg))
        task.close()
    # The second stage is one epoch long, in which beta_neg is still the first one's.
    assert seen == [(0.004, 1024.0), (0.004, 1024.0), (0.002, 1024.0), (0.002, 1024.0)]


def test_blending_changes_one_tensor_in_place_which_compiled_and_captured_passes_read(images: Path) -> None:
    config = resolve(_config(images))
    with process_settings(config):
        trainer, task = _trainer(config)
        model = trainer.model
        assert isinstance(model, StyleVAE)
        trainer.iterate(8, *task.batch(8))
        blend = model.blend
        assert isinstance(blend, Tensor)
        first = float(blend)
        trainer.iterate(9, *task.batch(9))
        assert model.blend is blend and float(blend) > first
        task.close()


def test_compiled_networks_stay_compiled_through_all_stages(images: Path) -> None:
    """The compiler must not give up any frame. Its front end counts them, so the test compiles without a back end."""
    from torch._dynamo.utils import counters

    config = resolve(_config(images, compile=True))
    with process_settings(config):
        trainer, task = _trainer(config.replace(compile=False))
        trainer.model.encoder.compile(dynamic=False, backend="eager")
        trainer.model.decoder.compile(dynamic=False, backend="eager")
        counters.clear()
        graphs = []
        for step in (5, 6, 7, 8, 13, 14):
            trainer.iterate(step, *task.batch(step))
            graphs.append(counters["frames"]["total"])
        task.close()
    # By default torch gives up a function after 8 graphs.
    assert counters["frames"]["ok"] == counters["frames"]["total"] > 2 * 8
    # One set of graphs at 4x4, one while blending, whatever the share, and one afterwards.
    assert graphs[0] == graphs[1] < graphs[2] == graphs[3] < graphs[4] == graphs[5]


def test_a_diagnosis_does_not_mistake_larger_images_for_an_explosion(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """rec over 8x8 pixels is several times rec over 4x4 pixels, which the records before the switch contain."""
    original = ImageTask.batch

    def batch(self: ImageTask, at: int) -> tuple[Tensor, Tensor | None]:
        pixels, condition = original(self, at)
        return (pixels * torch.nan if at >= 12 else pixels), condition

    monkeypatch.setattr(ImageTask, "batch", batch)
    with pytest.raises(DivergenceError, match="diverged in step 12") as caught:
        train(_config(images, learning_rate=1e-6), tmp_path / "run", progress=False)
    records = [record for record in read_records(tmp_path / "run") if record["step"] < 12]
    recs = {record["resolution"]: record["rec"] for record in records}
    assert recs[8] > 3 * recs[4]
    assert "Not finite: " in str(caught.value)
    assert "exploded" not in str(caught.value)


@pytest.mark.parametrize("changes", [{}, {"objective": "vae"}, {"decoder_passes": "fresh"}])
def test_a_run_without_growth_trains_at_the_full_resolution(
    changes: dict[str, Any], images: Path, tmp_path: Path
) -> None:
    sizes = {key: _TINY[key] for key in ("resolution", "z_dim", "start_channels", "max_channels", "mapping_layers")}
    small = {"steps": 4, "batch_size": 4, "threads": 1, "device": "cpu", "log_every": 1}
    config = preset_config("style32", growth="none", path=str(images), **sizes, **small, **changes)
    summary = train(config, tmp_path / "run", progress=False)
    assert all("resolution" not in record for record in read_records(tmp_path / "run"))
    assert np.isfinite(summary["psnr"])
    model = sivae.from_pretrained(tmp_path / "run")
    assert isinstance(model, StyleVAE) and (model.lod, model.blend) == (1, 1.0)


def test_a_run_on_grey_digits_grows(tmp_path: Path) -> None:
    """The built-in 8x8 digits have one channel and a test part."""
    of_style = _config(tmp_path)
    digits = preset_config("digits", steps=None, epochs=0.2).data
    config = of_style.replace(data=digits, stage_batches=(64, 64), epochs_per_stage=0.1, epochs=0.2)
    train(config, tmp_path / "run", progress=False)
    model = sivae.from_pretrained(tmp_path / "run")
    assert model.sample(1).shape == (1, 1, 8, 8)
    assert load_checkpoint(list_checkpoints(tmp_path / "run" / "checkpoints")[-1]).averaged is not None


@pytest.mark.parametrize(
    ("preset", "changes", "message"),
    [
        ("style32", {"batch_size": 8}, "batch_size: a growing run has one for each resolution; give stage_batches"),
        ("style32", {"epochs_per_stage": 0}, "epochs_per_stage = 0.0: it must be more than 0"),
        ("style32", {"stage_batches": []}, "stage_batches = (): it must be one or more"),
        ("style32", {"stage_beta_neg_factors": [1, -1]}, "stage_beta_neg_factors = (1.0, -1.0): it must be one or"),
        ("style32", {"warmup_fraction": 0.1}, "warmup_fraction = 0.1: a growing model has warmup_epochs instead"),
        ("style32", {"style_mixing": 1.5}, "style_mixing = 1.5: it must be between 0 and 1"),
        ("style32", {"widths": [4]}, "widths = [4]: it has no effect with the model 'style'"),
        ("style32", {"growth": "none", "epochs_per_stage": 3}, "epochs_per_stage = 3: it has no effect with the"),
        ("style32", {"growth": "fast"}, "growth = 'fast': expected grow or none"),
        ("cifar10", {"growth": "grow"}, "growth = 'grow': this preset's model does not grow; those of ffhq256, "),
        ("cifar10", {"decoder_passes": "old"}, 'decoder_passes = "old": expected one of shared, fresh'),
    ],
)
def test_settings_that_do_not_fit_are_errors_that_name_them(preset: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        preset_config(preset, path="images", **changes)
    assert message in str(caught.value)


def test_a_resolution_that_growth_cannot_reach_is_an_error_before_anything_is_written(
    images: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"resolution = 12: a growing model needs a power of two, 4 or more"):
        train(_config(images, resolution=12), tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_a_resumed_run_keeps_its_schedule(images: Path, whole: Callable[[str], Path]) -> None:
    stored = RunConfig.read(whole("as published") / "config.json")
    assert stored.growth.stage_steps == (6, 12)
    assert stored.growth.stage_batches == (4, 2)
    assert train(_config(images), whole("as published"), resume=True, progress=False)["steps"] == 18
    with pytest.raises(ConfigError, match=r"epochs_per_stage = .*: it cannot change in a resumed run"):
        train(_config(images, epochs_per_stage=1.5), whole("as published"), resume=True, progress=False)
