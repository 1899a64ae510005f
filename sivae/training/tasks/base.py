"""The interface between the training loop and what is trained: data, networks, pictures, metrics."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sivae.data.free_memory import amount, available_memory
from sivae.data.passes import Passes
from sivae.errors import ConfigError
from sivae.evaluation.against import Against
from sivae.models import VAEModel
from sivae.settings.run import RunConfig
from sivae.training.parallel import Processes
from sivae.training.process_settings import process_settings
from sivae.words import plural


@dataclass(frozen=True, kw_only=True)
class FeatureFiles:
    """Files that some metrics of images need. A metric is computed if its file is given.

    Attributes:
        fid: Inception's weights, for FID and KID.
        fid_count: number of images at most that FID and KID compare.
        lpips: VGG-16's weights and LPIPS' own weights, for LPIPS of translations.
        against: the images that samples are compared with.
    """

    fid: Path | None = None
    fid_count: int = 50_000
    lpips: tuple[Path, Path] | None = None
    against: Against | None = None


NO_FILES = FeatureFiles()


class Task(ABC):
    """Data, networks, pictures and metrics of a run.

    Args:
        config: the run's settings.
        device: device of the batches.
        processes: the processes that share each batch.

    Attributes:
        config: the run's settings, completed by the plan of a growing run, which depends on the data.
        passes: the passes over the data; None if the data is endless, or the model grows.
        data_size: number of training samples; None if the data is endless.
        resumes_by_command: whether `sivae train --resume` can open the data again; it cannot open a dataset of Python.
        counts_images: whether the speed is shown in images per second.
        measured_on: words for the images of the metrics; empty for points.
    """

    passes: Passes | None = None
    data_size: int | None = None
    counts_images = False
    measured_on = ""
    resumes_by_command = True

    def __init__(self, config: RunConfig, device: torch.device, processes: Processes) -> None:
        self.config = config
        self._device, self._processes = device, processes

    @abstractmethod
    def build_model(self) -> VAEModel:
        """Build the networks on the CPU, initialized by the global generator."""

    @property
    def distance(self) -> nn.Module | None:
        """The reconstruction error that replaces the kinds of the op; None: the op has it. It is read once.

        Raises:
            ConfigError: a file of its weights is missing, damaged or another one.
        """
        return None

    def check_size(self) -> None:
        """Refuse networks that cannot be trained in the free memory of the device, before anything is written.

        Raises:
            ConfigError: their weights, gradients and optimizer states alone take more, or there are more pseudo-inputs
                than samples to start from; or :attr:`distance` cannot be read.
        """
        self.distance  # noqa: B018 # takes memory, and may fail
        wanted = self.config.model.prior_components if self.config.model.prior == "vamp" else 0
        if self.data_size is not None and wanted > self.data_size:
            raise ConfigError(
                f"prior_components = {wanted:,}: pseudo-inputs start as samples, and there are {self.data_size:,}; "
                "expected no more than these"
            )
        with torch.device("meta"):
            count = sum(parameter.numel() for parameter in self.build_model().parameters())
        copies = 4 if self.config.ema_half_life is None else 5  # weights, gradients, Adam's two averages
        needed = 4 * copies * count
        if self._device.type == "cuda":
            held = torch.cuda.memory_reserved(self._device) - torch.cuda.memory_allocated(self._device)
            free = torch.cuda.mem_get_info(self._device)[0] + held
        else:
            free = available_memory()
        if needed > free:
            model = self.config.model
            unused = {"prior_components"} if model.prior == "standard" else set()
            sizes = [
                key for key in model.key_names() if type(getattr(model, key)) in (int, tuple) and key not in unused
            ]
            raise ConfigError(
                f"the networks have {count:,} parameters, which take {amount(needed)} with gradients and the "
                f"optimizer's averages, more than the {amount(free)} free on {self._device}; choose less "
                f"{' or '.join(sizes)}"
            )

    @abstractmethod
    def batch(self, step: int) -> tuple[Tensor, Tensor | None]:
        """Return this process's rows of iteration `step`, counted from 1, and their conditions [B, condition_dim]."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """Return the state that the batches of a resumed run depend on."""

    @abstractmethod
    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore a state of :meth:`state`.

        Raises:
            ValueError: the state belongs to other data.
        """

    def start_over(self) -> None:  # noqa: B027 # most tasks need none
        """Return to the first batch. Tasks whose batches follow from the step need no such method."""

    @abstractmethod
    def evaluate(self, model: VAEModel, seed: int, files: FeatureFiles = NO_FILES) -> dict[str, float]:
        """Compute the metrics by name; for images also those whose network's file is given.

        Raises:
            ConfigError: a file is given for a metric that the task does not have.
        """

    @abstractmethod
    def picture_samples(self, path: Path, model: VAEModel, step: int) -> list[Path]:
        """Draw samples of the model to `path`, and further pictures to the same folder. Returns the files."""

    def picture_run(self, folder: Path, model: VAEModel, records: Sequence[Mapping[str, Any]], step: int) -> list[Path]:
        """Draw the pictures of the run's end to its folder: samples, and the losses. Returns the files."""
        from sivae.figures.charts import plot_curves

        pictures = self.picture_samples(folder / "samples.png", model, step)
        title = f"{self.config.preset}, {self.config.objective.name}, {plural(step, 'step')}"
        plot_curves(folder / "curves.png", records, title)
        return [*pictures, folder / "curves.png"]

    def close(self) -> None:  # noqa: B027 # most tasks need none
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
        config: the run's settings.
        device: device of the batches.
        processes: the processes that share each batch.
        data: a map-style dataset of images, instead of the configuration's data; see :func:`sivae.training.train`.
        show: show the progress of decoding.
        for_training: False opens only the data of the metrics.

    Raises:
        ConfigError: the data is missing, or does not fit the settings.
    """
    processes = processes or Processes()
    if config.data.SAMPLES == "points":
        from sivae.training.tasks.points import PointsTask

        if data is not None:
            raise ConfigError(f"data: the preset {config.preset} draws its points from a density; leave data out")
        return PointsTask(config, device, processes)
    if config.data.SAMPLES == "clouds":
        from sivae.training.tasks.clouds import CloudTask

        if data is not None:
            raise ConfigError(
                f"data: the preset {config.preset} learns point clouds; name them by path, and leave data out"
            )
        return CloudTask(config, device, processes, show=show, for_training=for_training)
    from sivae.training.tasks.images import ImageTask
    from sivae.training.tasks.translation import TranslationTask

    kind = TranslationTask if config.model.TELLS_CLASS else ImageTask
    return kind(config, device, processes, data=data, show=show, for_training=for_training)


@contextlib.contextmanager
def task_to_train(
    config: RunConfig, device: torch.device, processes: Processes, *, data: Any = None, show: bool = False
) -> Iterator[Task]:
    """Open the data of a training and set the process up for it; both end with the block.

    Args:
        config, device, processes, data, show: as for :func:`open_task`; the configuration is resolved.

    Raises:
        ConfigError: as for :func:`open_task`, or the processes cannot share a batch, or the networks do not fit into
            the device's memory.
    """
    config.check_processes(processes.count)
    with process_settings(config):
        task = open_task(config, device, processes, data=data, show=show)
        try:
            task.check_size()
            yield task
        finally:
            task.close()
