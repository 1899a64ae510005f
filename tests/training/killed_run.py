"""Train by torchrun in two processes, and kill the second process in iteration 3 of the first attempt.

python killed_run.py PORT WORDS-OF-THE-COMMAND-LINE...

The processes are forked, because each would take seconds to import torch.
"""

from __future__ import annotations

import os
import signal
import sys

import torch._dynamo  # noqa: F401  optimizers need it
from torch import Tensor
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from sivae.cli.main import main
from sivae.training.tasks.points import PointsTask

original = PointsTask.batch


def batch(task: PointsTask, step: int) -> tuple[Tensor, Tensor | None]:
    """Draw the batch of an iteration, or die."""
    if (os.environ["RANK"], os.environ["TORCHELASTIC_RESTART_COUNT"], step) == ("1", "0", 3):
        os.kill(os.getpid(), signal.SIGKILL)
    return original(task, step)


def train(words: list[str]) -> None:
    """Train without metrics and pictures."""
    PointsTask.batch = batch  # type: ignore[method-assign]
    PointsTask.evaluate = lambda *_: {"nothing": 1.0}  # type: ignore[method-assign]
    PointsTask.picture_samples = PointsTask.picture_run = lambda *_: []  # type: ignore[method-assign]
    sys.modules["torch.utils.tensorboard.writer"] = None  # type: ignore[assignment]  # it also takes long to import
    main(words)


if __name__ == "__main__":
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=2,
        run_id="none",
        rdzv_backend="static",
        rdzv_endpoint=f"127.0.0.1:{sys.argv[1]}",
        rdzv_configs={"rank": 0},
        max_restarts=1,
        start_method="fork",
    )
    elastic_launch(config, train)(sys.argv[2:])
