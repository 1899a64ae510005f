"""Runs on point clouds: that they resume exactly, their batches, their metrics and pictures, and their errors."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sivae.errors import CheckpointError, ConfigError
from sivae.models import PointVAE
from sivae.pretrained import from_pretrained
from sivae.settings.presets import preset_config
from sivae.settings.run import RunConfig
from sivae.training import measured_clouds
from sivae.training.parallel import Processes
from sivae.training.run import train
from sivae.training.run_metrics import evaluate
from sivae.training.tasks.base import open_task
from sivae.training.tasks.clouds import CloudTask
from tests.training.runs import assert_resumes_exactly, made_once, train_until

CPU = torch.device("cpu")
TINY: dict[str, Any] = {
    "points": 24,
    "widths": (6, 8),
    "hidden": 8,
    "decoder_widths": (8,),
    "z_dim": 3,
    "steps": 6,
    "batch_size": 4,
    "log_every": 1,
    "checkpoint_every": 2,
    "sample_every": 5,
    "threads": 1,
    "device": "cpu",
    "precision": "fp32",
    "seed": 3,
}
_VARIANTS: dict[str, dict[str, Any]] = {
    "automatic beta_neg": {},
    "averaged, with a target decoder": {"ema_half_life": 20, "bootstrap": 1.0, "norm": "group", "rotation": "y"},
    "in parts, in bfloat16": {"accumulate": 2, "precision": "bf16", "beta_neg": 20.0},
    "VAE": {"objective": "vae"},
}


def _clouds(path: Path, count: int = 20, seed: int = 0) -> Path:
    generator = np.random.default_rng(seed)
    np.save(path, generator.uniform(-1.0, 1.0, (count, 30, 3)).astype(np.float32))
    return path


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _clouds(tmp_path_factory.mktemp("data") / "clouds.npy")


def _config(stored: Path, **changes: Any) -> RunConfig:
    return preset_config("points-shapes", **{"path": str(stored), **TINY, **changes})


@pytest.fixture(scope="module")
def whole(stored: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Runs without a stop, by variant."""
    return made_once(tmp_path_factory, lambda variant: _config(stored, **_VARIANTS[variant]))


@pytest.mark.parametrize("variant", _VARIANTS)
def test_a_stopped_run_resumes_exactly(
    variant: str, stored: Path, whole: Callable[[str], Path], tmp_path: Path
) -> None:
    assert_resumes_exactly(3, _config(stored, **_VARIANTS[variant]), tmp_path / "run", whole(variant), task=CloudTask)


def test_a_run_measures_and_draws(whole: Callable[[str], Path]) -> None:
    folder = whole("automatic beta_neg")
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["metrics"] == ["chamfer", "kl", "voxel_jsd", "mmd", "coverage", "one_nn"]
    assert summary["measured_on"] == "2 test clouds of clouds.npy"  # the last tenth
    assert evaluate(folder) == {"step": 6, "seed": 3} | {
        key: summary[key] for key in ("measured_on", *summary["metrics"])
    }
    assert summary["pictures"] == ["samples.png", "samples-reconstructions.png", "curves.png"]
    assert {path.name for path in (folder / "samples").iterdir()} == {"5.png", "5-reconstructions.png"}
    model = from_pretrained(folder)
    assert isinstance(model, PointVAE) and model.sample_shape == (24, 3)


def test_one_test_cloud_has_the_metrics_that_need_no_other(tmp_path: Path) -> None:
    few = _clouds(tmp_path / "few.npy", 10)
    summary = train(_config(few), tmp_path / "run", progress=False)
    assert summary["measured_on"] == "1 test cloud of few.npy"
    assert summary["metrics"] == ["chamfer", "kl", "voxel_jsd"]
    model = max((tmp_path / "run" / "checkpoints").iterdir())
    of_model = evaluate(model, data=few)
    assert list(of_model) == ["seed", "measured_on", *summary["metrics"]]


def test_the_classes_of_a_run_are_those_of_its_own_data(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    x = generator.normal(size=(2, 20, 30, 3)).astype(np.float32)
    labels = np.arange(20) % 2
    own = tmp_path / "own.npz"
    np.savez(own, x_train=x[0], x_test=x[1], y_train=labels, y_test=labels)
    train(_config(own, classes=("1",)), tmp_path / "run", progress=False)
    other = _clouds(tmp_path / "other.npy")
    assert evaluate(tmp_path / "run", data=own)["measured_on"] == "10 test clouds of own.npz"
    assert evaluate(tmp_path / "run", data=other)["measured_on"] == "2 test clouds of other.npy"


def _batch(config: RunConfig, step: int, processes: Processes) -> torch.Tensor:
    task = open_task(config, CPU, processes)
    return task.batch(step)[0]


def test_a_batch_does_not_depend_on_the_number_of_processes(stored: Path) -> None:
    config = _config(stored, rotation="y")
    alone = _batch(config, 3, Processes())
    shared = torch.cat([_batch(config, 3, Processes(rank=rank, count=2)) for rank in range(2)])
    assert alone.shape == (4, 24, 3)
    assert torch.equal(alone, shared)


def test_an_epoch_takes_every_shape_once_and_new_points_each_time(stored: Path, tmp_path: Path) -> None:
    # Shape i has all its points at height i, and no normalisation moves them.
    heights = np.tile(np.arange(18.0, dtype=np.float32)[:, None, None], (1, 30, 3))
    heights[:, :, 0] = np.arange(30.0)
    path = tmp_path / "heights.npz"
    np.savez(path, train=heights, test=heights)
    task = open_task(_config(path, normalize="none", batch_size=3), CPU)
    assert task.passes is not None and (task.data_size, task.passes.steps_per_epoch) == (18, 6)
    epochs = [torch.cat([task.batch(6 * epoch + step)[0] for step in range(1, 7)]) for epoch in range(2)]
    for epoch in epochs:
        assert sorted(epoch[:, 0, 1].tolist()) == list(range(18))
    orders = [epoch[:, 0, 1].long() for epoch in epochs]
    assert not torch.equal(*orders)
    first, second = (epoch[order.argsort()][:, :, 0].sort(1)[0] for epoch, order in zip(epochs, orders, strict=True))
    assert not torch.equal(first, second)


def test_an_epoch_goes_on_with_the_shapes_that_are_left_where_the_batch_size_changes(tmp_path: Path) -> None:
    heights = np.tile(np.arange(18.0, dtype=np.float32)[:, None, None], (1, 30, 3))
    np.savez(tmp_path / "heights.npz", train=heights, test=heights)
    before = _config(tmp_path / "heights.npz", normalize="none", batch_size=3)
    change = {"after": 2, "key": "batch_size", "before": 3, "now": 4}
    changed = before.replace(batch_size=4, changes=(change,))
    task = open_task(changed, CPU)
    rows = [task.batch(step)[0] for step in range(1, 6)]
    assert [len(batch) for batch in rows] == [3, 3, 4, 4, 4]
    assert torch.equal(torch.cat(rows[:2]), torch.cat([_batch(before, step, Processes()) for step in (1, 2)]))
    assert sorted(torch.cat(rows)[:, 0, 1].tolist()) == list(range(18))
    assert torch.equal(torch.cat([_batch(changed, 4, Processes(rank, 2)) for rank in (0, 1)]), rows[3])


def test_clouds_are_turned_about_the_axis_that_is_asked_for(stored: Path) -> None:
    still, turned = (_batch(_config(stored, rotation=how), 1, Processes()) for how in ("none", "y"))
    assert torch.equal(still[:, :, 1], turned[:, :, 1])
    assert not torch.allclose(still[:, :, 0], turned[:, :, 0])
    assert torch.allclose(still.norm(dim=2), turned.norm(dim=2), atol=1e-6)  # some roundings of values below 1


def test_a_run_cannot_be_resumed_with_other_clouds(tmp_path: Path) -> None:
    path = _clouds(tmp_path / "clouds.npy")
    train_until(3, _config(path), tmp_path / "run", task=CloudTask)
    _clouds(path, seed=1)
    with pytest.raises(CheckpointError, match="its clouds were 18 clouds, "):
        train(out=tmp_path / "run", resume=True, progress=False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"path": None}, "the preset points-shapes needs point clouds; name them by --data PATH"),
        ({"path": "/nowhere"}, "/nowhere does not exist"),
        ({"path": "shapes:boat"}, "there is no class 'boat'; choose from chair"),
        ({"batch_size": 40}, "batch_size = 40: .* has 18 clouds to train on; choose a smaller one"),
        ({"kind": "mse"}, 'kind = "mse": expected one of chamfer'),
        ({"perceptual": "vgg.pth"}, "perceptual: the samples are points, not images"),
    ],
)
def test_what_does_not_fit_is_an_error_before_anything_is_written(
    changes: dict[str, Any], message: str, stored: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        train(_config(stored, **changes), tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_images_have_no_chamfer_distance() -> None:
    with pytest.raises(ConfigError, match='kind = "chamfer": expected one of mse, l1'):
        preset_config("digits", kind="chamfer")


def test_metrics_of_a_seed_repeat(whole: Callable[[str], Path], stored: Path) -> None:
    model = from_pretrained(whole("VAE"))
    clouds = measured_clouds.MeasuredClouds(open_task(_config(stored), CPU)._measured.clouds)  # type: ignore[attr-defined]
    first, second = (measured_clouds.measure_clouds(model, clouds, seed=7) for _ in range(2))
    assert first == second
    assert first["chamfer"] > 0 and first["kl"] > 0 and 0 < first["voxel_jsd"] <= 1 and 0 <= first["coverage"] <= 1
