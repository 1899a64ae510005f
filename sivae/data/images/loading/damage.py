"""Leave the damaged images of a set out, or report all of them at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from sivae.data.images.base import ImageSet
from sivae.data.notice import Notice
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
    check_damage(images, list(damaged.values()), remedy, notice)
    return np.delete(np.arange(len(images)), list(damaged))


def check_damage(
    images: ImageSet, problems: Sequence[str], remedy: str, notice: Notice, *, of: int | None = None
) -> None:
    """Say what is left out of a set, or refuse the set.

    Args:
        images, remedy, notice: see :func:`kept_images`.
        problems: what is wrong with each damaged image.
        of: number of images that were looked at; None: all of the set.

    Raises: as :func:`kept_images` does.
    """
    looked_at = len(images) if of is None else of
    if problems and not images.skip_damaged:
        raise damaged_error(images.name, looked_at, problems, remedy)
    if len(problems) == looked_at:
        raise DataError(f"{images.name}: none of its {looked_at:,} images can be read; {problems[0]}")
    if problems:
        notice(f"{images.name}: damaged images left out: {len(problems):,} ({_first(problems)})")


def damaged_error(name: str, of: int, problems: Sequence[str], remedy: str) -> DamagedImageError:
    """The error for all damaged ones of so many images of a set: their number, and the first by name."""
    count = f"{len(problems):,} of {of:,} images of {name} are damaged: " if len(problems) > 1 else ""
    return DamagedImageError(f"{count}{_first(problems)}; {remedy}")


def _first(problems: Sequence[str]) -> str:
    more = [f"and {len(problems) - _SHOWN:,} more"] if len(problems) > _SHOWN else []
    return "; ".join([*problems[:_SHOWN], *more])
