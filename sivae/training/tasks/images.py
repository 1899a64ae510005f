"""The task of learning a set of images."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import numpy as np
import torch
from torch import Tensor, nn

from sivae.data.images import ImageBatches, at_resolution
from sivae.data.images.base import spread
from sivae.data.images.checksums import Checksums, checksums
from sivae.data.images.parts import Images, Parts, read_parts
from sivae.data.passes import Passes, Sizes
from sivae.errors import ConfigError
from sivae.fields import table
from sivae.method.objectives import BCE
from sivae.models import MODELS, VAEModel
from sivae.models.style.resampling import doubled, halved, mixed
from sivae.settings.data import ImageData
from sivae.settings.growth import Growing, Stage
from sivae.settings.run import RunConfig
from sivae.training.distances import make_distance
from sivae.training.measured_images import MEASURED, MeasuredImages, measure
from sivae.training.parallel import Processes
from sivae.training.seeds import derived_seed
from sivae.training.tasks.base import NO_FILES, FeatureFiles, Task
from sivae.words import plural

_SAMPLES, _RECONSTRUCTIONS = 64, 16  # in a picture
_LOOKED_AT = 64  # number of images in a fingerprint


class _Checksums(TypedDict):
    kind: str
    values: Tensor
    labels: NotRequired[int]


class _State(TypedDict):
    images: str
    checksums: NotRequired[_Checksums]


class ImageTask(Task):
    """A set of images to learn.

    Metrics and reconstructions use the test images if the data has a test part, else the training images.

    Args:
        config, device, processes: see :class:`Task`.
        data: a map-style dataset of images, instead of the configuration's data.
        show: show progress while images are decoded.
        for_training: False leaves the training images unopened if there are test images.

    Raises:
        ConfigError: the data is missing or damaged, or does not fit the settings.
    """

    counts_images = True

    def __init__(
        self,
        config: RunConfig,
        device: torch.device,
        processes: Processes,
        *,
        data: Any = None,
        show: bool = False,
        for_training: bool = True,
    ) -> None:
        super().__init__(config, device, processes)
        self._show = show
        self._batches: ImageBatches | None = None
        self._stage: Stage | None = None
        self._value_range = MODELS[config.model.name].value_range or (0.0, 1.0)
        try:
            self._train, self._test = self._open(data, for_training)
            count = min(len(self._test), MEASURED)
            self.measured_on = plural(count, "test image")
            if self._test is self._train:
                self.measured_on = f"{plural(count, 'training image')}, as the data has no test part"
            self.config = self._completed(config)
            self._measured = self._measured_at(self._test.resolution)
            self._fingerprint = None if self._train is None else _fingerprint(self._train, labels=self._uses_labels)
            self._checksums: Checksums | None = None
            if self._train is not None and for_training:
                self._checksums = checksums(self._train, progress=show)
            with torch.device("meta"):
                self.build_model()  # settings that do not fit are an error before anything is written
            if self._train is not None and not config.growth.grows:
                self._batches = self._open_batches(self._train, config.batch_sizes)
        except ConfigError:
            raise
        except (ValueError, OSError) as error:
            raise ConfigError(str(error)) from error

    def _open(self, data: Any, for_training: bool) -> Parts:
        source = self.config.data
        if data is not None:
            if not isinstance(source, ImageData):
                raise ConfigError(f"data: the preset {self.config.preset} has images of its own; leave data out")
            if source.path is not None:
                raise ConfigError(f"data: the configuration names images too, path = {source.path!r}; leave one out")
            self.resumes_by_command = False
            return read_parts(data, resolution=source.resolution, channels=source.channels, show=self._show)
        source.check_is_named(self.config.preset)
        return source.open_parts(for_training=for_training, show=self._show)

    @property
    def _labels_checksum(self) -> int | None:
        """The checksum of the classes that images are conditions of; None for a model without conditions."""
        if self._train is None or not self.config.model.is_conditional:
            return None
        return zlib.crc32(np.array(self._train.labels).tobytes())

    @property
    def _uses_labels(self) -> bool:
        """Whether the batches depend on the images' classes."""
        return False

    def _completed(self, config: RunConfig) -> RunConfig:
        growth = config.growth
        if not isinstance(growth, Growing) or growth.stage_steps is not None or self._train is None:
            return config
        assert config.epochs is not None
        growth = growth.planned(
            epochs=config.epochs,
            side=self._train.resolution,
            images=len(self._train),
            processes=self._processes.count,
            accumulate=config.accumulate,
            total_steps=config.steps,
        )
        assert growth.stage_batches is not None
        return config.replace(growth=growth, batch_size=growth.stage_batches[-1])

    def _open_batches(self, images: Images, sizes: Sizes, side: int = 0) -> ImageBatches:
        config = self.config
        return ImageBatches(
            images,
            batch_size=sizes[-1][1] // self._processes.count,
            sizes=sizes,
            seed=derived_seed(config.seed, f"data at {side}" if side else "data"),
            device=self._device,
            **config.data.batch_options(),
            value_range=self._value_range,
            channels_last=config.memory_format == "channels-last",
            rank=self._processes.rank,
            world_size=self._processes.count,
            pairs=config.paired,
            progress=self._show,
        )

    def _measured_at(self, side: int) -> MeasuredImages:
        return MeasuredImages(
            at_resolution(self._test, side),
            self._device,
            conditional=self.config.model.is_conditional,
            value_range=self._value_range,
        )

    def _measured_for(self, model: VAEModel) -> MeasuredImages:
        """Return the images at the model's current resolution."""
        side = model.sample_shape[1]
        if self._measured.images.resolution != side:
            self._measured = self._measured_at(side)
        return self._measured

    @functools.cached_property
    def distance(self) -> nn.Module | None:
        """See :attr:`Task.distance`."""
        return make_distance(self.config.objective, self._value_range)

    @property
    def passes(self) -> Passes | None:  # type: ignore[override] # read-only
        """The passes over the training images."""
        if self.config.growth.grows:
            return None
        assert self._batches is not None
        return self._batches.passes

    @property
    def data_size(self) -> int | None:  # type: ignore[override] # read-only
        """Number of training images."""
        return None if self._train is None else len(self._train)

    def build_model(self) -> VAEModel:
        """See :meth:`Task.build_model`."""
        images = self._test
        return self.config.model.build(image_size=images.resolution, channels=images.channels, **self._model_facts())

    def _model_facts(self) -> dict[str, Any]:
        """Return the arguments of the networks that follow from the data, except the images' shape."""
        facts: dict[str, Any] = {"makes_logits": True} if self.config.objective.kind == BCE else {}
        return facts | ({"condition_dim": self._measured.classes} if self.config.model.is_conditional else {})

    def batch(self, step: int) -> tuple[Tensor, Tensor | None]:
        """Return this process's images of iteration `step`, [B, C, H, W] in the model's range, and their conditions."""
        stage = self.config.stage_at(step)
        if stage is not None:
            return self._batch_of(stage), None
        assert self._batches is not None
        sizes = self.config.sizes_until(step)
        if self._batches.passes.sizes != sizes:  # the run has gone back to before a change
            assert self._train is not None
            self.close()
            self._batches = self._open_batches(self._train, sizes)
        images, labels = self._batches.batch(step - 1)
        return images, self._condition(step, labels)

    def _condition(self, step: int, labels: Tensor | None) -> Tensor | None:
        """Return the conditions of iteration `step`: the classes, one-hot, for a conditional model."""
        return self._measured.condition(labels)

    def _batch_of(self, stage: Stage) -> Tensor:
        """Return images of a stage. While the stage blends in, they are mixed with copies of half their resolution."""
        if self._stage is None or self._stage.lod != stage.lod:
            self.close()
            assert self._train is not None
            images = at_resolution(self._train, stage.side, progress=self._show)
            self._batches = self._open_batches(images, ((0, stage.batch_size),), stage.side)
        self._stage = stage
        assert self._batches is not None
        batch = self._batches.batch(stage.index)[0]
        return batch if stage.blend == 1.0 else mixed(doubled(halved(batch)), batch, stage.blend)

    def state(self) -> dict[str, Any]:
        """Return the fingerprint of the data and its checksums. The batches follow from seed and step."""
        assert self._checksums is not None
        checks: dict[str, Any] = {"kind": self._checksums.kind, "values": torch.from_numpy(self._checksums.values)}
        if self._labels_checksum is not None:
            checks["labels"] = self._labels_checksum
        return {"images": self._fingerprint, "checksums": checks}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Check that the data has not changed.

        The fingerprint covers some images and decides alone for a checkpoint of an earlier version, which has no
        checksums, and for one whose run read its images in another way, by another `cache`.

        Raises:
            ValueError: the data has changed.
        """
        checked = table(state, _State)
        if checked["images"] != self._fingerprint:
            raise ValueError(
                f"its images were {checked['images']}, and {self.config.data.title} holds "
                f"{self._fingerprint}: count, side, channels and checksum"
            )
        mine, theirs = self._checksums, checked.get("checksums")
        if mine is None or theirs is None or self._train is None:
            return
        if mine.kind == theirs["kind"]:
            (changed,) = np.nonzero(theirs["values"].numpy() != mine.values)
            if len(changed):
                raise ValueError(
                    f"{len(changed):,} of {plural(len(mine.values), 'image')} have changed, the first is "
                    f"{self._train.where(int(changed[0]))}"
                )
        if theirs.get("labels", self._labels_checksum) != self._labels_checksum:
            raise ValueError(f"the classes of images in {self.config.data.title} have changed")

    def evaluate(self, model: VAEModel, seed: int, files: FeatureFiles = NO_FILES) -> dict[str, float]:
        """See :func:`measure`."""
        return measure(model, self._measured_for(model), seed, files)

    def picture_samples(self, path: Path, model: VAEModel, step: int) -> list[Path]:
        """Draw samples at fixed noise to `path`, and test images with their reconstructions to a second file."""
        from sivae.figures.grids import reconstruction_grid, sample_grid

        generator = torch.Generator().manual_seed(derived_seed(self.config.seed, "pictures"))
        measured = self._measured_for(model)
        originals, conditions = measured.some(measured.spread(_RECONSTRUCTIONS))
        of_samples = None if conditions is None else conditions.repeat(-(-_SAMPLES // len(conditions)), 1)[:_SAMPLES]
        samples = model.sample(_SAMPLES, generator=generator, condition=of_samples)
        again = model.reconstruct(originals, condition=conditions)
        beside = path.with_stem(f"{path.stem}-reconstructions")
        sample_grid(path, samples, value_range=measured.value_range)
        reconstruction_grid(beside, originals, again, value_range=measured.value_range)
        return [path, beside]

    def close(self) -> None:
        """Stop the threads and processes that fetch batches."""
        if self._batches is not None:
            self._batches.close()
            self._batches = None


def _fingerprint(images: Images, *, labels: bool) -> str:
    """Describe images by count, side, channels and a checksum of some images, and of all labels if `labels` is set."""
    checksum = 0
    for index in spread(len(images), _LOOKED_AT):
        checksum = zlib.crc32(images.read(index).tobytes(), checksum)
    if labels:
        checksum = zlib.crc32(np.array(images.labels).tobytes(), checksum)
    return f"{len(images)} x {images.resolution} x {images.channels}, {checksum:08x}"
