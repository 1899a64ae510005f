"""Two processes that share batches give the same result as one process with whole batches."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sivae.errors import ConfigError
from sivae.models.translation import TranslationVAE
from sivae.settings.presets import preset_config
from sivae.settings.run import RunConfig
from sivae.training.parallel import Processes, joined
from tests.training.image_runs import outcome, translation_config, write_translation_images

# In float64, so that rounding is far below any real difference.
_TRAIN = """
import json, sys, torch
from sivae.training import run
from sivae.training.tasks import images, points, translation
from sivae.settings.run import RunConfig
torch.set_default_dtype(torch.float64)
def in_float64(original):
    def batch(task, step):
        samples, condition = original(task, step)
        return samples.double(), condition
    return batch
for task in (points.PointsTask, images.ImageTask, translation.TranslationTask):
    if "batch" in vars(task):  # the last one inherits it
        task.batch = in_float64(task.batch)
    for name in ("picture_samples", "picture_run"):
        setattr(task, name, lambda *_: [])
    task.evaluate = lambda *_: {"nothing": 1.0}
processes, runs = int(sys.argv[1]), json.loads(sys.argv[2])
for folder, config in runs.items():
    summary = run.train(RunConfig.from_json(config), folder, progress=False)
    assert summary["processes"] == processes
"""
STEPS, RATE = 8, 2e-4
_EVERY = {"steps": STEPS, "learning_rate": RATE, "warmup_fraction": 0.5, "log_every": 2}


def _configs(images: Path, processes: int) -> dict[str, RunConfig]:
    """By name; half the steps are a warm-up, or LORD's first stage. Six batches of translations make an epoch."""
    points = {"hidden": 16, "layers": 2, "batch_size": 32, "threads": 1, "device": "cpu"}
    translation = {**_EVERY, "batch_size": 12, "flip": True}
    return {
        "points in parts": preset_config("8gaussians", **_EVERY, **points, accumulate=2 // processes),
        "translation of pairs": translation_config(images, **translation, supervision="pairs"),
        "translation by LORD": translation_config(images, **translation, objective="lord"),
    }


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs for each number of processes, which start only once, as that takes longer than to train, and
    meet anew for each run.
    """
    folder = tmp_path_factory.mktemp("runs")
    images = write_translation_images(folder / "images.npz")
    script = folder / "train.py"
    script.write_text(_TRAIN)
    for processes in (1, 2):
        start = [sys.executable]
        if processes > 1:
            start += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        configs = {
            str(folder / str(processes) / name): config.to_json()
            for name, config in _configs(images, processes).items()
        }
        words = [*start, str(script), str(processes), json.dumps(configs)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        finished = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False, env=environment)
        assert finished.returncode == 0, finished.stderr
    return folder


@pytest.mark.parametrize("name", ["points in parts", "translation of pairs", "translation by LORD"])
def test_two_processes_equal_one_with_whole_batches(name: str, runs: Path) -> None:
    """The two sum gradients in another order, so a gradient differs by about 1e-16 relative; Adam divides it by its own
    size, so a weight differs by that times the rate, except where terms nearly cancel, which 1e-9 leaves room for.
    """
    (two, my_records), (one, their_records) = (outcome(runs / str(processes) / name) for processes in (2, 1))
    assert two.keys() == one.keys()
    for key, value in one.items():
        rate = RATE * (TranslationVAE.CODES_RATE if ".codes." in key else 1.0)
        assert value.dtype == torch.float64
        assert (two[key] - value).abs().max() < 1e-9 * rate * STEPS, key
    for mine, theirs in zip(my_records, their_records, strict=True):
        assert mine.keys() == theirs.keys() and mine.pop("phase") == theirs.pop("phase")
        # Means over the whole batch, of positive numbers: each process rounds its own to float32, their sum is rounded
        # again, and so is the mean of one process. Half a unit each is 3 x 2^-24 in all.
        assert mine == pytest.approx(theirs, rel=3 * 2**-24)
    summary = json.loads((runs / "2" / name / "summary.json").read_text())
    assert summary["nothing"] == 1.0


def test_a_single_process_exchanges_nothing() -> None:
    with joined("cpu") as processes:
        assert processes == Processes(0, 1, 0)
        assert processes.first
        value = torch.ones(3)
        processes.average([value])
        assert torch.equal(value, torch.ones(3))
        assert processes.any(True, torch.device("cpu")) and not processes.any(False, torch.device("cpu"))
        assert processes.text_of_first("here") == "here"


def test_incomplete_variables_of_torchrun_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with (
        pytest.raises(ConfigError, match=r"WORLD_SIZE is 2, but RANK, .*is not set; start with torchrun"),
        joined("cpu"),
    ):
        pass
