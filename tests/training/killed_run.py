"""A script for torchrun: train, and kill the second process in iteration 3 of the first attempt.

python killed_run.py WORDS-OF-THE-COMMAND-LINE...
"""

from __future__ import annotations

import os
import signal
import sys

from torch import Tensor

from sivae.cli.main import main
from sivae.training.tasks.points import PointsTask

original = PointsTask.batch


def batch(task: PointsTask, step: int) -> tuple[Tensor, Tensor | None]:
    """Draw the batch of an iteration, or die."""
    if (os.environ["RANK"], os.environ["TORCHELASTIC_RESTART_COUNT"], step) == ("1", "0", 3):
        os.kill(os.getpid(), signal.SIGKILL)
    return original(task, step)


if __name__ == "__main__":
    PointsTask.batch = batch  # type: ignore[method-assign]
    PointsTask.evaluate = lambda *_: {"nothing": 1.0}  # type: ignore[method-assign]
    PointsTask.picture_samples = PointsTask.picture_run = lambda *_: []  # type: ignore[method-assign]
    sys.modules["torch.utils.tensorboard.writer"] = None  # type: ignore[assignment]  # takes a second to import
    main(sys.argv[1:])
    sys.stdout.flush()
    os._exit(0)  # Python would take two seconds to free torch's modules
