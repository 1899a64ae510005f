"""Train runs in float64, so that rounding is far below any real difference; also a script for several processes.

python float64_runs.py PROCESSES '{"FOLDER": CONFIGURATION, ...}'
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from sivae.settings.run import RunConfig
from sivae.training.callbacks import Callback, RunInfo
from sivae.training.run import train
from sivae.training.tasks.base import Task
from sivae.training.tasks.images import ImageTask
from sivae.training.tasks.points import PointsTask
from sivae.training.tasks.translation import TranslationTask

Batch = Callable[[Any, int], tuple[Tensor, Tensor | None]]


def train_all(processes: int, configs: Mapping[str, str]) -> None:
    """Train runs one after another, without pictures and metrics.

    Args:
        processes: number of processes that train together.
        configs: the content of `config.json` by folder.
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with pytest.MonkeyPatch.context() as patch:
            for task in (PointsTask, ImageTask, TranslationTask):
                _simplify(task, patch)
            for folder, config in configs.items():
                summary = train(RunConfig.from_json(config), folder, progress=False, callbacks=[_Witness()])
                assert summary["processes"] == processes
    finally:
        torch.set_default_dtype(before)


class _Witness(Callback):
    """Writes the rank of each process that calls it into the run's folder."""

    def on_end(self, run: RunInfo, summary: dict[str, Any] | None) -> None:
        with (run.folder / "callers").open("a") as file:
            file.write(os.environ.get("RANK", "0"))


def _simplify(task: type[Task], patch: pytest.MonkeyPatch) -> None:
    if "batch" in vars(task):  # else it is inherited
        patch.setattr(task, "batch", _in_float64(task.batch))
    for name in ("picture_samples", "picture_run"):
        patch.setattr(task, name, lambda *_: [])
    patch.setattr(task, "evaluate", lambda *_: {"nothing": 1.0})


def _in_float64(original: Batch) -> Batch:
    def batch(task: Any, step: int) -> tuple[Tensor, Tensor | None]:
        samples, condition = original(task, step)
        return samples.double(), condition

    return batch


if __name__ == "__main__":
    train_all(int(sys.argv[1]), json.loads(sys.argv[2]))
