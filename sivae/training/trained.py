"""Open a trained run: its last checkpoint, its model and its data, set up as in the training."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from sivae import ops
from sivae.errors import RunFolderError
from sivae.machine import find_device
from sivae.models import VAEModel
from sivae.models.storage import load_model
from sivae.settings.run import RunConfig
from sivae.training.checkpoint import Checkpoint, load_latest
from sivae.training.folder import CHECKPOINTS
from sivae.training.process_settings import process_settings
from sivae.training.tasks.base import Task, open_task
from sivae.training.trainer import at_step, place


class Trained(NamedTuple):
    """A trained run.

    Attributes:
        config: its settings, with the device and the backend of the ops that are used now.
        checkpoint: the last whole one.
        task: the run's data.
        model: with the averaged weights if the run has some, on the device.
    """

    config: RunConfig
    checkpoint: Checkpoint
    task: Task
    model: VAEModel


@contextlib.contextmanager
def trained(folder: Path, config: RunConfig, *, for_training: bool, notice: Callable[[str], None]) -> Iterator[Trained]:
    """Open a run, and set up the process as its settings say until the block ends.

    Args:
        folder: of the run.
        config: its settings; the device may be another one.
        for_training: open the data of the training; False opens only that of the metrics.
        notice: called with a message for each damaged checkpoint that is skipped, and if another backend of the ops
            than the run's is used.

    Raises:
        RunFolderError: the run has no checkpoint yet.
        CheckpointError: its checkpoints are all damaged.
        ConfigError: the device or the data is missing.
    """
    device = find_device(config.device)
    config = config.replace(device=str(device))
    if config.ops not in ops.available_backends(device):
        fastest = ops.available_backends(device)[0]
        notice(f"the run's ops backend {config.ops!r} is not available on {device}; going on with {fastest!r}")
        config = config.replace(ops=fastest)
    with process_settings(config), contextlib.ExitStack() as stack:
        checkpoint = load_latest(folder / CHECKPOINTS, notice)
        if checkpoint is None:
            raise RunFolderError(f"{folder} has no checkpoint yet; let it train, or: sivae train --resume {folder}")
        task = open_task(config, device, for_training=for_training)
        stack.callback(task.close)
        model = load_model(checkpoint.path, averaged=checkpoint.averaged is not None)
        at_step(model, config, checkpoint.step)
        place(model, config, device)
        yield Trained(config, checkpoint, task, model)
