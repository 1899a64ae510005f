"""What is particular to learning images: the data sets, the networks, grids of samples and reconstructions, metrics."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from sivae.data.images import ImageBatches, ImageSet, NoSuchSplitError, PackedImages, load_packed, open_images
from sivae.data.images.digits import open_digits
from sivae.evaluation.images import evaluate_images
from sivae.models import ConvVAE, VAEModel
from sivae.training.config import RunConfig
from sivae.training.errors import ConfigError
from sivae.training.parallel import Processes
from sivae.training.seeds import derived_seed

_SAMPLES, _RECONSTRUCTIONS = 64, 16  # in a picture
_MEASURED = 10_000  # images at most that the metrics look at
_MEASURED_AT_ONCE = 250


class ImageTask:
    """A set of images to learn.

    Metrics and reconstructions are of the test images where the data has a test split, else of the training images.

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
        self._config, self._device = config, device
        self._show = show
        self._batches: ImageBatches | None = None
        try:
            train, self._test = self._open(for_training)
            self._fingerprint = None if train is None else _fingerprint(train)
            self._classes = len(self._test.class_names or ())
            if config.model.conditional and self._classes == 0:
                raise ConfigError("conditional: the images have no classes; leave it out, or sort them into folders")
            if train is not None:
                rows = config.batch_size // processes.count
                self._batches = ImageBatches(
                    train,
                    batch_size=rows,
                    seed=derived_seed(config.seed, "data"),
                    device=device,
                    flip=bool(config.data.flip),
                    cache=config.data.cache or "auto",
                    channels_last=config.memory_format == "channels-last",
                    rank=processes.rank,
                    world_size=processes.count,
                    progress=show,
                )
        except ConfigError:
            raise
        except (ValueError, OSError) as error:
            raise ConfigError(str(error)) from error

    def _open(self, for_training: bool) -> tuple[PackedImages | None, PackedImages]:
        """Training images, if asked for, and those to measure on."""
        data = self._config.data
        if data.name == "digits":
            return open_digits("train"), open_digits("test")
        if data.path is None:
            raise ConfigError(
                f"the preset {self._config.preset} needs images: name them by --data PATH (a folder, an archive, "
                "a release of the data set, or what sivae prepare made)"
            )
        test = self._packed("test")
        if test is not None and not for_training:
            return None, test
        train = self._packed("train") or self._all()
        return train, test or train

    def _packed(self, split: Literal["train", "test"]) -> PackedImages | None:
        """A part of the data in the run's shape; None where the data has no such part."""
        assert self._config.data.path is not None
        try:
            return self._in_shape(open_images(self._config.data.path, split=split))
        except NoSuchSplitError:
            return None

    def _all(self) -> PackedImages:
        assert self._config.data.path is not None
        return self._in_shape(open_images(self._config.data.path))

    def _in_shape(self, images: ImageSet) -> PackedImages:
        data = self._config.data
        if isinstance(images, PackedImages) and images.array.shape[1:] == (
            data.resolution,
            data.resolution,
            data.channels,
        ):
            return images  # mapped, not read, where it lies on the disk
        return load_packed(images, resolution=data.resolution, channels=data.channels, progress=self._show)

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in the training images."""
        assert self._batches is not None
        return self._batches.steps_per_epoch

    def build_model(self) -> ConvVAE:
        """An encoder and a decoder, on the CPU, initialised from the global generator."""
        model = self._config.model
        assert model.widths is not None and model.norm is not None
        return ConvVAE(
            image_size=self._test.resolution,
            channels=self._test.channels,
            widths=model.widths,
            z_dim=model.z_dim,
            norm=model.norm,
            condition_dim=self._classes if model.conditional else 0,
        )

    def batch(self, step: int) -> tuple[Tensor, Tensor | None]:
        """This process's images of iteration `step`, [B, C, H, W] in [0, 1], and their classes, one-hot."""
        assert self._batches is not None
        images, labels = self._batches.batch(step - 1)
        return images, self._condition(labels)

    def _condition(self, labels: Tensor | None) -> Tensor | None:
        if not self._config.model.conditional:
            return None
        assert labels is not None
        return F.one_hot(labels, self._classes).float()

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
                f"its images were {state['images']}, and {self._config.data.path or 'the data'} holds "
                f"{self._fingerprint}: count, side, channels and checksum"
            )

    def evaluate(self, model: VAEModel, seed: int) -> dict[str, float]:
        """The metrics of :func:`sivae.evaluation.images.evaluate_images`."""
        return evaluate_images(model, self._measured(), seed=seed)

    def _measured(self) -> Iterator[tuple[Tensor, Tensor | None]]:
        for start in range(0, min(len(self._test), _MEASURED), _MEASURED_AT_ONCE):
            yield self._test_images(start, min(start + _MEASURED_AT_ONCE, len(self._test), _MEASURED))

    def _test_images(self, start: int, stop: int) -> tuple[Tensor, Tensor | None]:
        pixels = torch.from_numpy(self._test.array[start:stop].copy())  # uint8 [N, H, W, C]
        images = pixels.to(self._device).permute(0, 3, 1, 2).float() / 255.0
        labels = self._test.labels
        return images, self._condition(
            None if labels is None else torch.from_numpy(labels[start:stop].copy()).to(self._device)
        )

    def picture_samples(self, path: Path, model: VAEModel, step: int) -> list[Path]:
        """Draw samples at fixed noise to `path`, and test images above their reconstructions beside it."""
        from sivae.evaluation.pictures import reconstruction_grid, sample_grid

        generator = torch.Generator().manual_seed(derived_seed(self._config.seed, "pictures"))
        originals, conditions = self._test_images(0, min(_RECONSTRUCTIONS, len(self._test)))
        of_samples = None if conditions is None else conditions.repeat(-(-_SAMPLES // len(conditions)), 1)[:_SAMPLES]
        samples = model.sample(_SAMPLES, generator=generator, condition=of_samples)
        again = model.reconstruct(originals, condition=conditions)
        beside = path.with_name(path.name.replace(path.stem, f"{path.stem}-reconstructions"))
        sample_grid(path, samples)
        reconstruction_grid(beside, originals, again)
        return [path, beside]

    def picture_run(self, folder: Path, model: VAEModel, records: Sequence[Mapping[str, Any]], step: int) -> list[Path]:
        """Draw `samples.png`, `samples-reconstructions.png` and `curves.png`."""
        from sivae.evaluation.plots import plot_curves

        pictures = self.picture_samples(folder / "samples.png", model, step)
        plot_curves(
            folder / "curves.png", records, f"{self._config.preset}, {self._config.objective.name}, {step:,} steps"
        )
        return [*pictures, folder / "curves.png"]

    def close(self) -> None:
        """Stop whatever fetches batches."""
        if self._batches is not None:
            self._batches.close()


def _fingerprint(images: PackedImages) -> str:
    """Count, side, channels and a checksum over at most 4,096 images spread over all of them."""
    array = images.array
    stride = max(1, len(array) // 4096)
    checksum = 0
    for start in range(0, len(array), stride):
        checksum = zlib.crc32(array[start].tobytes(), checksum)
    return f"{len(array)} x {images.resolution} x {images.channels}, {checksum:08x}"
