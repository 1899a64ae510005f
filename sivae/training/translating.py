"""Metrics and pictures of a translation model on the images that a run is measured on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sivae.evaluation.lpips import LPIPS
from sivae.evaluation.translation import example_rows, measure_translation
from sivae.figures.grids import translation_grid
from sivae.models.base import device_and_dtype
from sivae.models.translation import TranslationVAE

if TYPE_CHECKING:
    from sivae.training.images import MeasuredImages

SHOWN = 6  # contents, and classes, in a picture


def translation_metrics(
    model: TranslationVAE,
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
        model,
        lambda rows: images.some(rows)[0],
        labels,
        images.images.contents,
        seed=seed,
        count=count,
        lpips=lpips,
    )


def draw_translations(path: Path, model: TranslationVAE, images: MeasuredImages, seed: int) -> None:
    """A grid of the contents of some images with the classes of others, of different classes where these are known."""
    labels, contents = images.images.labels, images.images.contents
    rows = example_rows(len(images.images), labels, contents, SHOWN, seed)
    giving_content, giving_class = (images.some(of.tolist())[0] for of in rows)
    made = model.translations(giving_content, giving_class)
    translation_grid(path, giving_content, giving_class, made, value_range=images.value_range)
