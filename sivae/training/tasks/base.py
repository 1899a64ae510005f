"""The interface between the training loop and what is trained: data, networks, pictures, metrics."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sivae.errors import ConfigError
from sivae.models import VAEModel
from sivae.settings.run import RunConfig
from sivae.training.parallel import Processes


@dataclass(frozen=True, kw_only=True)
class FeatureFiles:
    """Files of the networks that some metrics of images need. A metric is computed if its file is given.

    Attributes:
        fid: Inception's weights, for FID and KID.
        fid_count: number of images at most that FID and KID compare.
        lpips: VGG-16's weights and LPIPS' own weights, for LPIPS of translations.
    """

    fid: Path | None = None
    fid_count: int = 50_000
    lpips: tuple[Path, Path] | None = None


NO_FILES = FeatureFiles()


class Task(ABC):
    """Data, networks, pictures and metrics of a run.

    Args:
        config: the run's settings.
        device: where batches are wanted.
        processes: share each batch.

    Attributes:
        config: the run's settings, with what the data decides: the plan of a growing run.
        steps_per_epoch: iterations of one pass over the data; None where the data is endless.
        data_size: number of training samples; None likewise.
        counts_images: whether the speed is shown in images.
    """

    steps_per_epoch: int | None = None
    data_size: int | None = None
    counts_images = False

    def __init__(self, config: RunConfig, device: torch.device, processes: Processes) -> None:
        self.config = config
        self._device, self._processes = device, processes

    @abstractmethod
    def build_model(self) -> VAEModel:
        """The networks, on the CPU, initialised from the global generator."""

    @abstractmethod
    def batch(self, step: int) -> tuple[Tensor, Tensor | None]:
        """This process's rows of iteration `step`, counted from 1, and their conditions, [B, condition_dim]."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """The state that the batches of a resumed run depend on."""

    @abstractmethod
    def load_state(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state`.

        Raises:
            ValueError: the state is that of other data.
        """

    def start_over(self) -> None:  # noqa: B027 # most tasks need none
        """Give the first batches again. Batches that follow from the step need nothing."""

    @abstractmethod
    def evaluate(self, model: VAEModel, seed: int, files: FeatureFiles = NO_FILES) -> dict[str, float]:
        """The metrics by name; of images also those whose network's file is named.

        Raises:
            ConfigError: a file is named for a metric that the task does not have.
        """

    @abstractmethod
    def picture_samples(self, path: Path, model: VAEModel, step: int) -> list[Path]:
        """Draw samples of the model to `path`, and other pictures beside it. Returns the files."""

    @abstractmethod
    def picture_run(self, folder: Path, model: VAEModel, records: Sequence[Mapping[str, Any]], step: int) -> list[Path]:
        """Draw the pictures of the run's end into its folder. Returns the files."""

    def close(self) -> None:  # noqa: B027 # likewise
        """Release the data."""


def open_task(
    config: RunConfig,
    device: torch.device,
    processes: Processes | None = None,
    *,
    data: Any = None,
    show: bool = False,
    for_training: bool = True,
) -> Task:
    """Open the data that a configuration names.

    Args:
        config: the run's.
        device: where batches are wanted.
        processes: share each batch.
        data: a map-style dataset of images, instead of the configuration's data; see :func:`sivae.training.train`.
        show: show progress where opening takes long.
        for_training: False opens only what the metrics need.

    Raises:
        ConfigError: the data is not there, or not what the settings say.
    """
    processes = processes or Processes()
    if config.data.SAMPLES == "points":
        from sivae.training.tasks.points import PointsTask

        if data is not None:
            raise ConfigError(f"data: the preset {config.preset} draws its points from a density; leave data out")
        return PointsTask(config, device, processes)
    from sivae.training.tasks.images import ImageTask
    from sivae.training.tasks.translation import TranslationTask

    kind = TranslationTask if config.model.TELLS_CLASS else ImageTask
    return kind(config, device, processes, data=data, show=show, for_training=for_training)
