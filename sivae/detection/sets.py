"""Open sets of images, and score them."""

from __future__ import annotations

import os
from typing import NamedTuple

import numpy as np

from sivae.data.images import ImageSet
from sivae.data.images.base import Split, spread
from sivae.data.images.loading.damage import check_damage
from sivae.data.images.parts import open_split
from sivae.detection.detector import Detector, Notice, Scores
from sivae.errors import DamagedImageError, DataError
from sivae.models.base import samples_at_once
from sivae.progress import counting
from sivae.settings.data import Data, ImageData


class NamedImages(NamedTuple):
    """A set of images, and its name for people."""

    name: str
    images: ImageSet


def open_set(
    source: str | os.PathLike[str] | Data,
    *,
    split: Split | None = None,
    skip_damaged: bool = False,
    notice: Notice = lambda text: None,
) -> NamedImages:
    """Open a set of images.

    Args:
        source: any data set that :func:`sivae.data.images.open_images` reads, or a run's data.
        split: the part; None: the test images where there are some, else all (of a run's data the train images).
        skip_damaged: leave out image files that cannot be decoded; else they are an error.
        notice: called with a line about the chosen part, where there was a choice.

    Raises:
        DataError: the set is missing or damaged, or has no such part.
        ConfigError: the run's data is points.
    """
    if isinstance(source, Data):
        images = source.open_split(split, skip_damaged=skip_damaged, notice=notice)
        return NamedImages(images.name if isinstance(source, ImageData) else source.name, images)
    images = open_split(str(source), split, skip_damaged=skip_damaged, notice=notice)
    return NamedImages(images.name, images)


def score_set(
    detector: Detector,
    images: ImageSet,
    count: int,
    *,
    title: str,
    progress: bool = True,
    notice: Notice = lambda text: None,
) -> Scores:
    """Score `count` images spread evenly over a set, or all images where there are fewer.

    Args:
        detector: computes the scores.
        images: the set.
        count: number of images at most.
        title: title of the progress display.
        progress: whether to show it.
        notice: called with a line about damaged images that are left out.

    Returns:
        Scores in the order of the set, float64 [N] each; images that are skipped have none.

    Raises:
        DamagedImageError: images are damaged, and the set was not opened with `skip_damaged`.
        DataError: the set is empty, or none of its images can be read.
    """
    if not len(images):
        raise DataError(f"{images.name} holds no images")
    rows = spread(len(images), count)
    portions: list[Scores] = []
    problems: list[str] = []
    with counting(title, len(rows), enabled=progress) as counter:
        for start in range(0, len(rows), size := samples_at_once(detector.model.sample_shape)):
            pixels = []
            for row in rows[start : start + size]:
                try:
                    pixels.append(detector.fitted(images.picture(row), images.where(row)))
                except DamagedImageError as error:
                    problems.append(str(error))
            if pixels and (images.skip_damaged or not problems):
                portions.append(detector.of_pixels(np.stack(pixels)))
            counter.advance(min(size, len(rows) - start))
    check_damage(images, problems, "--skip-damaged leaves such images out", notice, of=len(rows))
    return {score: np.concatenate([portion[score] for portion in portions]) for score in portions[0]}
