"""The images that a model is measured on, and its metrics on them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from sivae.data.images.parts import Images
from sivae.errors import ConfigError
from sivae.evaluation.image_metrics import evaluate_images
from sivae.evaluation.lpips import LPIPS, SMALLEST_COMPARED
from sivae.evaluation.translation import measure_translation
from sivae.models import TranslationVAE, VAEModel
from sivae.models.base import device_and_dtype, samples_at_once
from sivae.models.pixels import from_uint8
from sivae.training.tasks.base import NO_FILES, FeatureFiles

MEASURED = 10_000  # images at most that the metrics look at


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
        """The numbers of `count` images spread over all, since these may be ordered by class; or of all."""
        return spread(len(self.images), count)

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

    def batches(self, count: int = MEASURED) -> Iterator[tuple[Tensor, Tensor | None]]:
        """`count` images spread over all, or all where there are fewer."""
        rows = self.spread(count)
        size = samples_at_once((self.images.channels, self.images.resolution, self.images.resolution))
        for start in range(0, len(rows), size):
            yield self.some(rows[start : start + size])


def spread(total: int, count: int) -> list[int]:
    """`count` numbers spread over those below `total`; all of them where there are fewer."""
    return [int(row) for row in np.linspace(0, total - 1, min(count, total)).round()]


def measure(model: VAEModel, images: MeasuredImages, seed: int, files: FeatureFiles = NO_FILES) -> dict[str, float]:
    """The metrics of :func:`sivae.evaluation.image_metrics.evaluate_images`, FID and KID where Inception is named.

    Of a translation model also those of :func:`sivae.evaluation.translation.measure_translation`, with LPIPS where its
    files are named.

    Raises:
        ConfigError: LPIPS is asked of another model, or of images without classes.
    """
    if files.lpips is not None and min(model.sample_shape[1:]) < SMALLEST_COMPARED:
        raise ConfigError(
            f"LPIPS compares images from {SMALLEST_COMPARED}x{SMALLEST_COMPARED} on, and this model's have "
            f"{model.sample_shape[1]}x{model.sample_shape[2]}; leave its weights out"
        )
    translated = translation_metrics(model, images, seed, lpips_files=files.lpips) if model.tells_class else {}
    if files.lpips is not None and not translated:
        raise ConfigError("LPIPS is for translations between images with classes; leave its weights out")
    if files.fid is None:
        return evaluate_images(model, images.batches(), seed=seed) | translated
    from sivae.evaluation.fid import inception

    features = inception(files.fid)
    every = images.batches(max(MEASURED, files.fid_count))
    return evaluate_images(model, every, seed=seed, fid_features=features, fid_count=files.fid_count) | translated


def translation_metrics(
    model: VAEModel,
    images: MeasuredImages,
    seed: int,
    *,
    count: int = 1_000,
    lpips_files: tuple[Path, Path] | None = None,
) -> dict[str, float]:
    """See :func:`sivae.evaluation.translation.measure_translation`; nothing where the images have no classes.

    Args:
        model: to measure.
        images: to measure it on.
        seed: of the pairs and halves.
        count: pairs.
        lpips_files: VGG-16's weights and LPIPS' own.

    Raises:
        ModelFileError: a file is damaged, or another's.
        OSError: it cannot be read.
    """
    labels = images.images.labels
    if labels is None:
        return {}
    lpips = None if lpips_files is None else LPIPS.from_files(*lpips_files).to(device_and_dtype(model)[0])
    return measure_translation(
        cast(TranslationVAE, model),
        lambda rows: images.some(rows)[0],
        labels,
        images.images.contents,
        seed=seed,
        count=count,
        lpips=lpips,
    )
