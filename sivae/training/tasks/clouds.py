"""The task of learning a set of point clouds."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

import torch
from torch import Tensor

from sivae.data.clouds import rotate
from sivae.data.passes import Passes, Sizes
from sivae.errors import ConfigError
from sivae.fields import table
from sivae.models import VAEModel
from sivae.settings.data import CloudData
from sivae.settings.run import RunConfig
from sivae.training.measured_clouds import MeasuredClouds, check_files, measure_clouds, sample_clouds
from sivae.training.parallel import Processes
from sivae.training.seeds import derived_seed
from sivae.training.tasks.base import NO_FILES, FeatureFiles, Task
from sivae.words import plural

_SAMPLES, _RECONSTRUCTIONS = 32, 8  # in a picture
_LOOKED_AT = 64  # number of clouds in a fingerprint


class _State(TypedDict):
    clouds: str


class CloudTask(Task):
    """A set of point clouds to learn. Metrics and reconstructions use its test part.

    The clouds and points of a batch follow from the seed and the step.

    Args:
        config, device, processes: see :class:`Task`.
        show: show progress while files are read.

    Raises:
        ConfigError: the data is missing or damaged, or has fewer clouds than a batch.
    """

    def __init__(
        self,
        config: RunConfig,
        device: torch.device,
        processes: Processes,
        *,
        show: bool = False,
        for_training: bool = True,
    ) -> None:
        super().__init__(config, device, processes)
        data = config.data
        assert isinstance(data, CloudData)
        data.check_is_named(config.preset)
        try:
            self._train = data.open_part("train", show=show) if for_training else None
            self._measured = MeasuredClouds(data.open_part("test", show=show))
            with torch.device("meta"):
                self.build_model()  # settings that do not fit are an error before anything is written
        except ConfigError:
            raise
        except (ValueError, OSError) as error:
            raise ConfigError(str(error)) from error
        self._rotation = data.rotation
        self.measured_on = self._measured.words
        self._order: tuple[int, Tensor] | None = None
        if self._train is not None and len(self._train) < config.batch_size:
            raise ConfigError(
                f"batch_size = {config.batch_size}: {data.title} has {plural(len(self._train), 'cloud')} to train on; "
                "choose a smaller one"
            )

    @property
    def passes(self) -> Passes:  # type: ignore[override] # read-only
        """The passes over the training clouds."""
        return self._passes(self.config.batch_sizes)

    def _passes(self, sizes: Sizes) -> Passes:
        assert self._train is not None
        return Passes(len(self._train), sizes)

    @property
    def data_size(self) -> int | None:  # type: ignore[override] # read-only
        """Number of training clouds."""
        return None if self._train is None else len(self._train)

    def build_model(self) -> VAEModel:
        """See :meth:`Task.build_model`."""
        return self.config.model.build(points=self._measured.clouds.points)

    def batch(self, step: int) -> tuple[Tensor, None]:
        """Take new points of shapes in random order, [B, points, 3]. A row does not depend on the processes' number."""
        assert self._train is not None
        sizes = self.config.sizes_until(step)
        epoch, first_of_all = self._passes(sizes).place(step - 1)
        if self._order is None or self._order[0] != epoch:
            generator = torch.Generator().manual_seed(derived_seed(self.config.seed, f"order {epoch}"))
            self._order = epoch, torch.randperm(len(self._train), generator=generator)
        rows = sizes[-1][1] // self._processes.count
        first = self._processes.rank * rows
        chosen = self._order[1][first_of_all + first :][:rows].tolist()
        clouds = []
        for position, shape in enumerate(chosen, first):
            generator = torch.Generator().manual_seed(derived_seed(self.config.seed, f"points {step} {position}"))
            cloud = self._train.cloud(shape, generator)
            clouds.append(
                cloud if self._rotation == "none" else rotate(cloud, axis=self._rotation, generator=generator)
            )
        return torch.stack(clouds).to(self._device), None

    def state(self) -> dict[str, Any]:
        """Return the fingerprint of the data."""
        return {"clouds": self._fingerprint}

    @functools.cached_property
    def _fingerprint(self) -> str:
        """The number of clouds, their source's digest, and a checksum of some of them."""
        assert self._train is not None
        looked_at = MeasuredClouds(self._train)
        checksum = zlib.crc32(looked_at.some(looked_at.spread(_LOOKED_AT)).numpy().tobytes())
        return f"{plural(len(self._train), 'cloud')}, {self._train.fingerprint}, {checksum:08x}"

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Check that the data has not changed.

        Raises:
            ValueError: it has.
        """
        stored = table(state, _State)["clouds"]
        if stored != self._fingerprint:
            raise ValueError(f"its clouds were {stored}, and {self.config.data.title} holds {self._fingerprint}")

    def evaluate(self, model: VAEModel, seed: int, files: FeatureFiles = NO_FILES) -> dict[str, float]:
        """See :func:`sivae.training.measured_clouds.measure_clouds`.

        Raises:
            ConfigError: a file of FID or LPIPS, or a set of images, is given.
        """
        check_files(files)
        return measure_clouds(model, self._measured, seed)

    def picture_samples(self, path: Path, model: VAEModel, step: int) -> list[Path]:
        """Draw samples at fixed noise to `path`, and test clouds with their reconstructions to a second file."""
        from sivae.figures.clouds import cloud_grid, cloud_rows

        cloud_grid(sample_clouds(model, _SAMPLES, derived_seed(self.config.seed, "pictures")), path, columns=8)
        originals = self._measured.some(self._measured.spread(_RECONSTRUCTIONS))
        again = model.reconstruct(originals.to(self._device)).cpu()
        beside = path.with_stem(f"{path.stem}-reconstructions")
        cloud_rows([originals, again], beside, row_labels=["test cloud", "reconstruction"])
        return [path, beside]
