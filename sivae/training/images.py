"""What is particular to learning images: the data sets, the networks, grids of samples and reconstructions, metrics."""

from __future__ import annotations

import sys
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from sivae.data.images import (
    FittedImages,
    ImageBatches,
    ImageSet,
    PackedImages,
    at_resolution,
    load_packed,
    open_images,
)
from sivae.data.images.builtin.digits import open_digits
from sivae.data.images.builtin.shapes import open_shapes
from sivae.errors import ConfigError, NoSuchSplitError
from sivae.evaluation.image_metrics import evaluate_images
from sivae.evaluation.lpips import SMALLEST_COMPARED
from sivae.models import MODELS, VAEModel, build_model
from sivae.models.base import samples_at_once
from sivae.models.pixels import from_uint8
from sivae.models.style import StyleVAE
from sivae.models.style.resampling import doubled, halved, mixed
from sivae.models.translation import TranslationVAE
from sivae.models.vgg import VGG16_WEIGHTS, load_vgg16
from sivae.training.config import DataConfig, ModelConfig, RunConfig
from sivae.training.feature_files import NO_FILES, FeatureFiles
from sivae.training.growing import Stage
from sivae.training.parallel import Processes
from sivae.training.seeds import derived_seed
from sivae.training.translating import draw_translations, translation_metrics

_SAMPLES, _RECONSTRUCTIONS = 64, 16  # in a picture
_MEASURED = 10_000  # images at most that the metrics look at
_LOOKED_AT = 64  # images that a fingerprint is made of


Images = PackedImages | FittedImages


def open_parts(data: DataConfig, *, for_training: bool = True, show: bool = False) -> tuple[Images | None, Images]:
    """The images to train on and those to measure on, which are the same where the data has no test part.

    Args:
        data: of images.
        for_training: False leaves the training images alone, None, where there are test images.
        show: show progress while images are decoded.

    Raises:
        DataError: they are not there, or damaged, or do not fit the memory.
    """
    if data.name == "digits":
        return open_digits("train"), open_digits("test")
    if data.name == "shapes":
        assert data.resolution is not None
        shapes = open_shapes("train", resolution=data.resolution) if for_training else None
        return shapes, open_shapes("test", resolution=data.resolution)
    test = _part(data, "test")
    if test is not None and not for_training:
        return None, _in_shape(test, data, show)
    train = _part(data, "train") or _open(data)  # before the test images are decoded: both may lie in one archive
    fitted = _in_shape(train, data, show)
    return fitted, fitted if test is None else _in_shape(test, data, show)


def _open(data: DataConfig, split: Literal["train", "test"] | None = None) -> ImageSet:
    assert data.path is not None
    return open_images(data.path, split=split, skip_damaged=bool(data.skip_damaged))


def _part(data: DataConfig, split: Literal["train", "test"]) -> ImageSet | None:
    try:
        return _open(data, split)
    except NoSuchSplitError:
        return None


def _in_shape(images: ImageSet, data: DataConfig, show: bool) -> Images:
    shape = (data.resolution, data.resolution, data.channels)
    if isinstance(images, PackedImages):
        assert data.resolution is not None
        for array in (images.array, images.levels.get(data.resolution)):
            if array is not None and array.shape[1:] == shape:
                return at_resolution(images, data.resolution)  # mapped, not read, where it lies on the disk
    if data.cache == "none":
        assert data.resolution is not None
        return FittedImages(images, resolution=data.resolution, channels=data.channels)
    packed = load_packed(images, resolution=data.resolution, channels=data.channels, progress=show)
    if packed.skipped and show:
        print(f"{packed.name}: damaged images left out: {packed.skipped:,}", file=sys.stderr)
    return packed


class MeasuredImages:
    """Images that a model is measured on and shown beside.

    Args:
        images: of the model's shape.
        device: where they are wanted.
        conditional: whether each comes with its class, one-hot.
        value_range: the values that stand for black and for white.

    Raises:
        ConfigError: it should, and the images have no classes.
    """

    def __init__(
        self,
        images: Images,
        device: torch.device,
        *,
        conditional: bool,
        value_range: tuple[float, float] | None = (0.0, 1.0),
    ) -> None:
        self.images, self.conditional = images, conditional
        self.value_range = value_range or (0.0, 1.0)
        self.classes = len(images.class_names or ())
        self._device = device
        if conditional and self.classes == 0:
            raise ConfigError("conditional: the images have no classes; leave it out, or sort them into folders")

    def spread(self, count: int) -> list[int]:
        """The numbers of `count` images spread over all, which may lie class by class; of all where there are fewer."""
        return _spread(len(self.images), count)

    def some(self, rows: Sequence[int]) -> tuple[Tensor, Tensor | None]:
        """Images [N, C, H, W] in the value range, and their conditions [N, classes] or None."""
        pixels = torch.from_numpy(np.stack([self.images.read(row) for row in rows]))  # uint8 [N, H, W, C]
        images = from_uint8(pixels.to(self._device), self.value_range)
        if not self.conditional:
            return images, None
        return images, self.condition(torch.tensor([self.images.label(row) for row in rows]))

    def condition(self, labels: Tensor | None) -> Tensor | None:
        """Classes [N] as vectors; None where the model takes none."""
        if not self.conditional:
            return None
        assert labels is not None
        return F.one_hot(labels.to(self._device), self.classes).float()

    def batches(self, count: int = _MEASURED) -> Iterator[tuple[Tensor, Tensor | None]]:
        """`count` images spread over all, or all where there are fewer."""
        rows = self.spread(count)
        size = samples_at_once((self.images.channels, self.images.resolution, self.images.resolution))
        for start in range(0, len(rows), size):
            yield self.some(rows[start : start + size])


def measure(model: VAEModel, images: MeasuredImages, seed: int, files: FeatureFiles = NO_FILES) -> dict[str, float]:
    """The metrics of :func:`sivae.evaluation.image_metrics.evaluate_images`, FID and KID where Inception is named.

    Of a translation model also those of :func:`sivae.evaluation.translation.measure_translation`, with LPIPS where its
    files are named.

    Raises:
        ConfigError: LPIPS is asked of another model, or of images without classes.
    """
    translated: dict[str, float] = {}
    if files.lpips is not None and min(model.sample_shape[1:]) < SMALLEST_COMPARED:
        raise ConfigError(
            f"LPIPS compares images from {SMALLEST_COMPARED}x{SMALLEST_COMPARED} on, and this model's have "
            f"{model.sample_shape[1]}x{model.sample_shape[2]}; leave its weights out"
        )
    if isinstance(model, TranslationVAE):
        translated = translation_metrics(model, images, seed, lpips_files=files.lpips)
    if files.lpips is not None and not translated:
        raise ConfigError("LPIPS is for translations between images with classes; leave its weights out")
    if files.fid is None:
        return evaluate_images(model, images.batches(), seed=seed) | translated
    from sivae.evaluation.fid import inception

    features = inception(files.fid)
    every = images.batches(max(_MEASURED, files.fid_count))
    return evaluate_images(model, every, seed=seed, fid_features=features, fid_count=files.fid_count) | translated


class ImageTask:
    """A set of images to learn.

    Metrics and reconstructions are of the test images where the data has a test part, else of the training images.

    Args:
        config: the run's.
        device: where batches are wanted.
        processes: which share each batch.
        show: show progress while images are decoded.
        for_training: False leaves the training images alone where there are test images.

    Raises:
        ConfigError: the data is not there, damaged, or not what the settings say.
    """

    counts_images = True

    def __init__(
        self,
        config: RunConfig,
        device: torch.device,
        processes: Processes,
        *,
        show: bool = False,
        for_training: bool = True,
    ) -> None:
        self._device, self._processes, self._show = device, processes, show
        self._batches: ImageBatches | None = None
        self._stage: Stage | None = None
        config.check_data_is_named()
        perceptual = config.objective.perceptual
        if perceptual is not None:
            try:
                load_vgg16(perceptual)  # refuses it before anything is written
            except (ValueError, OSError) as error:
                raise ConfigError(f"perceptual: {error}; name VGG-16's weights, {VGG16_WEIGHTS}") from None
        try:
            self._train, self._test = open_parts(config.data, for_training=for_training, show=show)
            self.config = self._completed(config)
            self._measured = self._measured_at(self._test.resolution)
            told = self.config.paired or self.config.objective.name == "lord"
            self._fingerprint = None if self._train is None else _fingerprint(self._train, labels=told)
            with torch.device("meta"):
                self.build_model()  # refuses what does not fit, before anything is written
            if self._train is not None and not config.growth.grows:
                self._batches = self._open_batches(self._train, config.batch_size)
        except ConfigError:
            raise
        except (ValueError, OSError) as error:
            raise ConfigError(str(error)) from error

    def _completed(self, config: RunConfig) -> RunConfig:
        growth = config.growth
        if not growth.grows or growth.stage_steps is not None or self._train is None:
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

    def _open_batches(self, images: Images, batch_size: int, side: int = 0) -> ImageBatches:
        config = self.config
        return ImageBatches(
            images,
            batch_size=batch_size // self._processes.count,
            seed=derived_seed(config.seed, f"data at {side}" if side else "data"),
            device=self._device,
            flip=bool(config.data.flip),
            cache=config.data.cache or "auto",
            value_range=MODELS[config.model.name].value_range or (0.0, 1.0),
            channels_last=config.memory_format == "channels-last",
            rank=self._processes.rank,
            world_size=self._processes.count,
            pairs=config.paired,
            progress=self._show,
        )

    def _measured_at(self, side: int) -> MeasuredImages:
        model = self.config.model
        return MeasuredImages(
            at_resolution(self._test, side),
            self._device,
            conditional=bool(model.conditional),
            value_range=MODELS[model.name].value_range,
        )

    def _measured_for(self, model: VAEModel) -> MeasuredImages:
        """The images at the resolution that the model has now."""
        side = model.sample_shape[1]
        if self._measured.images.resolution != side:
            self._measured = self._measured_at(side)
        return self._measured

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in the training images."""
        assert self._batches is not None
        return self._batches.steps_per_epoch

    def build_model(self) -> VAEModel:
        """An encoder and a decoder, on the CPU, initialised from the global generator."""
        settings = self.config.model
        images = self._test
        shape: dict[str, Any] = {"image_size": images.resolution, "channels": images.channels}
        if settings.name == "conv":
            classes = self._measured.classes if settings.conditional else 0
            of_conv = {"widths": settings.widths, "norm": settings.norm, "condition_dim": classes}
            return build_model("conv", **shape, z_dim=settings.z_dim, **of_conv)
        if settings.name == "translation":
            return self._translation_model(settings, shape)
        keys = ("z_dim", "start_channels", "max_channels", "mapping_layers")
        model = build_model("style", **shape, **{key: getattr(settings, key) for key in keys})
        assert isinstance(model, StyleVAE) and settings.style_mixing is not None
        model.style_mixing = settings.style_mixing
        return model

    def _translation_model(self, settings: ModelConfig, shape: dict[str, Any]) -> VAEModel:
        of_codes = {}
        if self.config.objective.name == "lord" and self._train is not None:
            if self._train.class_names is None:
                raise ConfigError("objective = 'lord': the images have no classes; sort them into folders")
            of_codes = {"coded_images": len(self._train), "coded_classes": len(self._train.class_names)}
        keys = ("content_dim", "class_dim", "width", "hidden")
        model = build_model("translation", **shape, **{key: getattr(settings, key) for key in keys}, **of_codes)
        assert isinstance(model, TranslationVAE)
        model.exchanges = self.config.paired
        return model

    def batch(self, step: int) -> tuple[Tensor, Tensor | None]:
        """This process's images of iteration `step`, [B, C, H, W] in the model's range, and their classes, one-hot.

        For LORD, in the place of these the number of each image and of its class, int64 [B, 2].
        """
        stage = self.config.stage_at(step)
        if stage is not None:
            return self._batch_of(stage), None
        assert self._batches is not None
        images, labels = self._batches.batch(step - 1)
        if self.config.objective.name == "lord":
            assert labels is not None
            return images, torch.stack([self._batches.numbers(step - 1), labels], dim=1)
        return images, self._measured.condition(labels)

    def _batch_of(self, stage: Stage) -> Tensor:
        """Images of a stage; while it blends in, blended with their own copies of half the resolution."""
        if self._stage is None or self._stage.lod != stage.lod:
            self.close()
            assert self._train is not None
            images = at_resolution(self._train, stage.side, progress=self._show)
            self._batches = self._open_batches(images, stage.batch_size, stage.side)
        self._stage = stage
        assert self._batches is not None
        batch = self._batches.batch(stage.index)[0]
        return batch if stage.blend == 1.0 else mixed(doubled(halved(batch)), batch, stage.blend)

    def state(self) -> dict[str, Any]:
        """What the data was; the batches themselves follow from seed and step."""
        return {"images": self._fingerprint}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Check that the data is what it was.

        Raises:
            ValueError: it is not.
        """
        if state["images"] != self._fingerprint:
            raise ValueError(
                f"its images were {state['images']}, and {self.config.data.path or 'the data'} holds "
                f"{self._fingerprint}: count, side, channels and checksum"
            )

    def start_over(self) -> None:
        """Nothing: batches follow from the step."""

    def evaluate(self, model: VAEModel, seed: int, files: FeatureFiles = NO_FILES) -> dict[str, float]:
        """See :func:`measure`."""
        return measure(model, self._measured_for(model), seed, files)

    def picture_samples(self, path: Path, model: VAEModel, step: int) -> list[Path]:
        """Draw samples at fixed noise to `path`, and beside it test images and what is made of them."""
        from sivae.figures.grids import reconstruction_grid, sample_grid

        generator = torch.Generator().manual_seed(derived_seed(self.config.seed, "pictures"))
        measured = self._measured_for(model)
        originals, conditions = measured.some(measured.spread(_RECONSTRUCTIONS))
        of_samples = None if conditions is None else conditions.repeat(-(-_SAMPLES // len(conditions)), 1)[:_SAMPLES]
        samples = model.sample(_SAMPLES, generator=generator, condition=of_samples)
        again = model.reconstruct(originals, condition=conditions)
        beside = path.with_name(path.name.replace(path.stem, f"{path.stem}-reconstructions"))
        sample_grid(path, samples, value_range=measured.value_range)
        reconstruction_grid(beside, originals, again, value_range=measured.value_range)
        if not isinstance(model, TranslationVAE):
            return [path, beside]
        translations = path.with_name(path.name.replace(path.stem, f"{path.stem}-translations"))
        draw_translations(translations, model, measured, derived_seed(self.config.seed, "pictures"))
        return [path, beside, translations]

    def picture_run(self, folder: Path, model: VAEModel, records: Sequence[Mapping[str, Any]], step: int) -> list[Path]:
        """Draw `samples.png` and what belongs beside it, and `curves.png`."""
        from sivae.figures.charts import plot_curves

        pictures = self.picture_samples(folder / "samples.png", model, step)
        plot_curves(
            folder / "curves.png", records, f"{self.config.preset}, {self.config.objective.name}, {step:,} steps"
        )
        return [*pictures, folder / "curves.png"]

    def close(self) -> None:
        """Stop whatever fetches batches."""
        if self._batches is not None:
            self._batches.close()
            self._batches = None


def _fingerprint(images: Images, *, labels: bool) -> str:
    """Count, side, channels and a checksum of some images, spread over all of them; of every label where asked."""
    checksum = 0
    for index in _spread(len(images), _LOOKED_AT):
        checksum = zlib.crc32(images.read(index).tobytes(), checksum)
    if labels:
        checksum = zlib.crc32(np.array(images.labels).tobytes(), checksum)
    return f"{len(images)} x {images.resolution} x {images.channels}, {checksum:08x}"


def _spread(total: int, count: int) -> list[int]:
    return [int(row) for row in np.linspace(0, total - 1, min(count, total)).round()]
