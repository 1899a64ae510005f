"""Two processes that share a batch end where one process ends that has all of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sivae.training.checkpoint import list_checkpoints
from sivae.training.errors import ConfigError
from sivae.training.parallel import Processes, joined
from sivae.training.presets import preset_config
from sivae.training.recorder import read_records

# In float64, so that rounding is far below any real difference.
_TRAIN = """
import sys, torch
from sivae.training import run, toy
from sivae.training.config import RunConfig
torch.set_default_dtype(torch.float64)
original = toy.ToyTask.batch
toy.ToyTask.batch = lambda self, step: (original(self, step)[0].double(), None)
for name in ("picture_samples", "picture_run"):
    setattr(toy.ToyTask, name, lambda *_: [])
toy.ToyTask.evaluate = lambda *_: {"nothing": 1.0}
config = RunConfig.from_json(sys.argv[1])
summary = run.train(config, sys.argv[2], progress=False)
assert summary["processes"] == int(sys.argv[3])
"""
STEPS = 8


def _train(folder: Path, processes: int, **changes: object) -> None:
    config = preset_config(
        "8gaussians", steps=STEPS, hidden=16, layers=2, batch_size=32, threads=1, log_every=2, device="cpu", **changes
    )
    script = folder.parent / "train.py"
    script.write_text(_TRAIN)
    start = [sys.executable]
    if processes > 1:
        start += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    words = [*start, str(script), config.to_json(), str(folder), str(processes)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    finished = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False, env=environment)
    assert finished.returncode == 0, finished.stderr


def test_two_processes_are_one_with_twice_the_batch(tmp_path: Path) -> None:
    """Warm-up of half the steps included.

    The two sum gradients in another order, so a gradient differs by about 1e-16 relative; Adam divides it by its own
    size, so a weight differs by that times the rate, except where terms nearly cancel, which 1e-9 leaves room for.
    """
    for name, processes in (("one", 1), ("two", 2)):
        _train(tmp_path / name, processes, warmup_fraction=0.5, accumulate=2 // processes)
    one, two = (
        load_file(list_checkpoints(tmp_path / name / "checkpoints")[-1] / "model.safetensors")
        for name in ("one", "two")
    )
    rate = preset_config("8gaussians").learning_rate
    for name, value in one.items():
        assert value.dtype == torch.float64
        assert (two[name] - value).abs().max() < 1e-9 * rate * STEPS, name
    for mine, theirs in zip(read_records(tmp_path / "two"), read_records(tmp_path / "one"), strict=True):
        for key in ("rec", "kl_real", "learning_rate"):  # means over the whole batch, recorded in float32
            assert mine[key] == pytest.approx(theirs[key], rel=1e-6)
    summary = json.loads((tmp_path / "two" / "summary.json").read_text())
    assert summary["nothing"] == 1.0


def test_alone_nothing_is_exchanged() -> None:
    with joined("cpu") as processes:
        assert processes == Processes(0, 1, 0)
        assert processes.first
        value = torch.ones(3)
        processes.average([value])
        assert torch.equal(value, torch.ones(3))
        assert processes.any(True, torch.device("cpu")) and not processes.any(False, torch.device("cpu"))
        assert processes.text_of_first("here") == "here"


def test_half_a_torchrun_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with (
        pytest.raises(ConfigError, match=r"WORLD_SIZE is 2, but RANK, .*is not set; start with torchrun"),
        joined("cpu"),
    ):
        pass
