"""What a run asks of the thing that it learns. Points in the plane and images answer, each in a file of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from sivae.models import VAEModel
from sivae.training.config import RunConfig
from sivae.training.feature_files import NO_FILES, FeatureFiles
from sivae.training.parallel import Processes


class Task(Protocol):
    """Data, model, pictures and metrics of a run.

    Attributes:
        config: the run's settings, completed by what the data tells: the plan of a growing run.
    """

    config: RunConfig

    @property
    def steps_per_epoch(self) -> int | None:
        """Iterations of one pass over the data; None where the data has no end."""

    @property
    def counts_images(self) -> bool:
        """Whether a sample is an image, and the rate of training is told in images."""

    def build_model(self) -> VAEModel:
        """The networks, on the CPU, initialised from the global generator."""

    def batch(self, step: int) -> tuple[Tensor, Tensor | None]:
        """This process's rows of iteration `step`, counted from 1, and their conditions, [B, condition_dim]."""

    def state(self) -> dict[str, Any]:
        """What the batches of a resumed run depend on."""

    def load_state(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state`.

        Raises:
            ValueError: the state is that of other data.
        """

    def start_over(self) -> None:
        """Give the batches again that the task gave at first."""

    def evaluate(self, model: VAEModel, seed: int, files: FeatureFiles = NO_FILES) -> dict[str, float]:
        """The metrics by name, of images also those whose network's file is named.

        Raises:
            ConfigError: a file is named for a metric that is not this task's.
        """

    def picture_samples(self, path: Path, model: VAEModel, step: int) -> list[Path]:
        """Draw what the model makes to `path`, and beside it what belongs with it; return what was written."""

    def picture_run(self, folder: Path, model: VAEModel, records: Sequence[Mapping[str, Any]], step: int) -> list[Path]:
        """Draw the pictures of the run's end into its folder; return what was written."""

    def close(self) -> None:
        """Let go of the data."""


def open_task(
    config: RunConfig,
    device: torch.device,
    processes: Processes | None = None,
    *,
    show: bool = False,
    for_training: bool = True,
) -> Task:
    """Open what a configuration names.

    Args:
        config: the run's.
        device: where batches are wanted.
        processes: which share each batch.
        show: show progress where opening takes long.
        for_training: False opens only what the metrics need.

    Raises:
        ConfigError: the data is not there, or not what the settings say.
    """
    processes = processes or Processes()
    if config.data.name == "density":
        from sivae.training.toy import ToyTask

        return ToyTask(config, device, processes)
    from sivae.training.images import ImageTask

    return ImageTask(config, device, processes, show=show, for_training=for_training)
