"""Helpers for tests of runs: make a run once, stop and resume a run, and compare the results of two runs."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from sivae.errors import RunInterrupted
from sivae.settings.run import RunConfig
from sivae.training.checkpoint import list_checkpoints
from sivae.training.recorder import read_records
from sivae.training.run import train
from sivae.training.tasks.base import Task
from sivae.training.tasks.images import ImageTask

Outcome = tuple[dict[str, Tensor], list[dict[str, Any]]]


def made_once(temporary: pytest.TempPathFactory, config_of: Callable[[str], RunConfig]) -> Callable[[str], Path]:
    """Return a function that trains a run by the name of its variant, without a stop, and returns its folder.

    Each variant is trained once.
    """
    made: dict[str, Path] = {}

    def run(variant: str) -> Path:
        if variant not in made:
            made[variant] = temporary.mktemp("whole") / "run"
            train(config_of(variant), made[variant], progress=False)
        return made[variant]

    return run


def train_until(step: int, config: RunConfig, folder: Path, *, task: type[Task] = ImageTask, **options: Any) -> None:
    """Train until a SIGTERM, which comes while the batch of iteration `step` is drawn, stops the run."""
    original = task.batch

    def batch(self: Task, at: int) -> tuple[Tensor, Tensor | None]:
        if at == step:
            signal.raise_signal(signal.SIGTERM)
        return original(self, at)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(task, "batch", batch)
        with pytest.raises(RunInterrupted, match=f"stopped at step {step} by SIGTERM"):
            train(config, folder, progress=False, **options)


def assert_resumes_exactly(
    step: int, config: RunConfig, folder: Path, reference: Path, *, task: type[Task] = ImageTask
) -> None:
    """A run that is stopped in iteration `step` and resumed gives the same result as the reference."""
    train_until(step, config, folder, task=task)
    train(out=folder, resume=True, progress=False)
    assert_same(folder, reference)


def outcome(folder: Path) -> Outcome:
    """Read all tensors of the models in the last checkpoint, and the records without times."""
    last = list_checkpoints(folder / "checkpoints")[-1]
    weights = {
        f"{name}/{key}": value
        for name in sorted(os.listdir(last))
        if name.endswith(".safetensors")
        for key, value in load_file(last / name).items()
    }
    return weights, [{key: value for key, value in one.items() if key != "seconds"} for one in read_records(folder)]


def assert_same(folder: Path, reference: Path) -> None:
    """Two runs have the same weights bit for bit, and the same records, metrics and final losses."""
    (mine, my_records), (theirs, their_records) = outcome(folder), outcome(reference)
    assert mine.keys() == theirs.keys()
    for name, value in theirs.items():
        assert torch.equal(mine[name], value), name
    assert my_records == their_records
    summaries = [json.loads((path / "summary.json").read_text()) for path in (folder, reference)]
    for key in (*summaries[1]["metrics"], "final", "steps"):
        assert summaries[0][key] == summaries[1][key], key
