"""The metrics of a model on images."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from sivae.errors import ConfigError
from sivae.evaluation.image_metrics import evaluate_images
from sivae.evaluation.lpips import LPIPS, SMALLEST_COMPARED
from sivae.evaluation.translation import measure_translation
from sivae.models import TranslationVAE, VAEModel
from sivae.models.base import device_and_dtype
from sivae.training.feature_files import NO_FILES, FeatureFiles
from sivae.training.measured_images import MEASURED, MeasuredImages


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
