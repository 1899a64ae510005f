"""The images that a model is measured on, and its metrics on them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from sivae.data.images.base import spread
from sivae.data.images.parts import Images
from sivae.errors import ConfigError
from sivae.evaluation.against import compare_samples
from sivae.evaluation.fid import inception
from sivae.evaluation.image_metrics import evaluate_images
from sivae.evaluation.translation import measure_translation
from sivae.models import TranslationVAE, VAEModel
from sivae.models.base import device_and_dtype, samples_at_once
from sivae.models.lpips import LPIPS, SMALLEST_COMPARED
from sivae.models.pixels import from_uint8
from sivae.training.tasks.base import NO_FILES, FeatureFiles

MEASURED = 10_000  # number of images at most for the metrics


class MeasuredImages:
    """Images for metrics and for pictures beside a model's own images.

    Args:
        images: images of the model's shape.
        device: device of the returned tensors.
        conditional: whether each image comes with its class, one-hot.
        value_range: the values of black and of white.

    Raises:
        ConfigError: `conditional` is set, and the images have no classes.
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
        """Choose `count` rows spread over all images, which may be ordered by class; all rows if there are fewer."""
        return spread(len(self.images), count)

    def some(self, rows: Sequence[int]) -> tuple[Tensor, Tensor | None]:
        """Read rows: images [N, C, H, W] in the value range, and their conditions [N, classes] or None."""
        pixels = torch.from_numpy(np.stack([self.images.read(row) for row in rows]))  # uint8 [N, H, W, C]
        images = from_uint8(pixels.to(self._device), self.value_range)
        if not self.conditional:
            return images, None
        return images, self.condition(torch.tensor([self.images.label(row) for row in rows]))

    def condition(self, labels: Tensor | None) -> Tensor | None:
        """Turn classes [N] into conditions [N, classes]; None for a model without conditions."""
        if not self.conditional:
            return None
        assert labels is not None
        return F.one_hot(labels.to(self._device), self.classes).float()

    def conditions(self, count: int) -> Tensor | None:
        """Return the conditions of `count` rows spread over all, in turn if there are fewer; None without them."""
        if not self.conditional:
            return None
        rows = self.spread(count)
        labels = torch.tensor([self.images.label(row) for row in rows])
        return self.condition(labels.repeat(-(-count // len(rows)))[:count])

    def batches(self, count: int = MEASURED) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Yield batches of `count` images spread over all, or of all images if there are fewer."""
        rows = self.spread(count)
        size = samples_at_once((self.images.channels, self.images.resolution, self.images.resolution))
        for start in range(0, len(rows), size):
            yield self.some(rows[start : start + size])


def measure(model: VAEModel, images: MeasuredImages, seed: int, files: FeatureFiles = NO_FILES) -> dict[str, float]:
    """Compute all metrics of a model on images.

    These are the metrics of :func:`sivae.evaluation.image_metrics.evaluate_images`, with FID and KID if the file of
    Inception is given, and those of :func:`sivae.evaluation.against.compare_samples` if there are images to compare
    with; for a translation model also those of :func:`sivae.evaluation.translation.measure_translation`, with LPIPS if
    its files are given.

    Raises:
        ConfigError: the files of LPIPS are given for another kind of model, or for images without classes.
    """
    if files.lpips is not None and min(model.sample_shape[1:]) < SMALLEST_COMPARED:
        raise ConfigError(
            f"LPIPS compares images from {SMALLEST_COMPARED}x{SMALLEST_COMPARED} on, and this model's have "
            f"{model.sample_shape[1]}x{model.sample_shape[2]}; leave its weights out"
        )
    # What may be missing comes first, and what takes minutes last.
    features = None if files.fid is None else inception(files.fid)
    translated = translation_metrics(model, images, seed, lpips_files=files.lpips) if model.tells_class else {}
    if files.lpips is not None and not translated:
        raise ConfigError("LPIPS is for translations between images with classes; leave its weights out")
    compared = {}
    if files.against is not None:
        compared = compare_samples(model, files.against, seed=seed, conditions=images.conditions)
    every = images.batches(MEASURED if features is None else max(MEASURED, files.fid_count))
    metrics = evaluate_images(model, every, seed=seed, fid_features=features, fid_count=files.fid_count)
    return metrics | compared | translated


def translation_metrics(
    model: VAEModel,
    images: MeasuredImages,
    seed: int,
    *,
    count: int = 1_000,
    lpips_files: tuple[Path, Path] | None = None,
) -> dict[str, float]:
    """Compute the metrics of :func:`sivae.evaluation.translation.measure_translation`; none for images without classes.

    Args:
        model: a translation model.
        images: images that it was not trained on.
        seed: seed of the pairs and halves.
        count: number of pairs.
        lpips_files: VGG-16's weights and LPIPS' own weights.

    Raises:
        ModelFileError: a file is damaged, or holds other weights.
        OSError: a file cannot be read.
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
