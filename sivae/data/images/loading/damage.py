"""Leave the damaged images of a set out, or report all of them at once."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from sivae.data.images.base import ImageSet, Notice
from sivae.errors import DamagedImageError, DataError

_SHOWN = 5  # damaged images that are named


def kept_images(images: ImageSet, damaged: Mapping[int, str], remedy: str, notice: Notice) -> np.ndarray:
    """The numbers of the images that are not damaged, int64 ``[N]``.

    Args:
        images: the set.
        damaged: by number, what is wrong with each damaged image.
        remedy: what to do where the set was not opened with `skip_damaged`.
        notice: called with a line about the images that are left out.

    Raises:
        DamagedImageError: some are damaged, and the set was not opened with `skip_damaged`.
        DataError: all are damaged.
    """
    if damaged and not images.skip_damaged:
        raise damaged_error(images, damaged, remedy)
    if len(damaged) == len(images):
        raise DataError(
            f"{images.name}: none of its {len(images):,} images can be read; {next(iter(damaged.values()))}"
        )
    if damaged:
        notice(f"{images.name}: damaged images left out: {len(damaged):,} ({_first(damaged)})")
    return np.delete(np.arange(len(images)), list(damaged))


def damaged_error(images: ImageSet, damaged: Mapping[int, str], remedy: str) -> DamagedImageError:
    """The error for all damaged images of a set: their number, and the first by name."""
    count = f"{len(damaged):,} of {len(images):,} images of {images.name} are damaged: " if len(damaged) > 1 else ""
    return DamagedImageError(f"{count}{_first(damaged)}; {remedy}")


def _first(damaged: Mapping[int, str]) -> str:
    problems = list(damaged.values())
    more = [f"and {len(problems) - _SHOWN:,} more"] if len(problems) > _SHOWN else []
    return "; ".join([*problems[:_SHOWN], *more])
