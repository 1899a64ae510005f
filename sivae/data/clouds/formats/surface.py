"""Make triangles of a surface's corners and polygons, and numbers of a file's text; errors do not name the file."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sivae.bounds import CLOUD_ITEMS, CLOUD_TEXT
from sivae.data.free_memory import amount
from sivae.data.unpacking import fits_memory

_STRANGE = re.compile(rb"[^0-9eE+\-.naifNAIF \t\r\n\v\f]")  # NumPy would read more, such as 0x1p3
_TRIANGLE_BYTES = 4 * 9 * 8  # nine float64, and three copies of them while the shape is normalised


def triangles(points: NDArray[np.float64], polygons: Sequence[NDArray[np.int64]]) -> NDArray[np.float64]:
    """Divide polygons into triangles around their first corners.

    Args:
        points: [n, 3].
        polygons: numbers of the corners, [F, K] for each number of corners K; those with K below 3 are left out.

    Returns:
        [T, 3, 3]; the points themselves, [n, 3], where there are no triangles.

    Raises:
        ValueError: a corner is no point, or there are too many triangles.
    """
    parts = []
    check_triangles(sum(len(faces) * max(0, faces.shape[1] - 2) for faces in polygons))
    for faces in polygons:
        if faces.size and not 0 <= faces.min() <= faces.max() < len(points):
            wrong = faces.max() if faces.min() >= 0 else faces.min()
            raise ValueError(f"a face has corner {wrong}, and there are points 0 to {len(points) - 1}")
        if faces.shape[1] > 2:
            corners = np.broadcast_arrays(faces[:, 0], faces[:, 1:-1].T, faces[:, 2:].T)
            parts.append(np.stack(corners, -1).reshape(-1, 3))
    chosen = np.concatenate(parts) if parts else np.empty((0, 3), np.int64)
    return points[chosen] if len(chosen) else points


def check_triangles(count: int) -> None:
    """Refuse more triangles than are allowed, or than fit the free memory, before they are made.

    Raises:
        ValueError: there are too many.
    """
    if count > CLOUD_ITEMS:
        raise ValueError(f"its faces have more than {CLOUD_ITEMS:,} triangles")
    needed = count * _TRIANGLE_BYTES
    if not fits_memory(needed):
        raise ValueError(f"its {count:,} triangles take {amount(needed)}, more than half of the free memory")


def numbers(text: bytes) -> NDArray[np.float64]:
    """The numbers of a text, which have white space between them.

    Raises:
        ValueError: the text is too long, or holds anything else.
    """
    if len(text) > CLOUD_TEXT:
        raise ValueError(f"its text has {len(text):,} bytes, more than {CLOUD_TEXT:,}")
    strange = _STRANGE.search(text)
    if strange is not None:
        raise ValueError(f"{strange[0]!r} at byte {strange.start():,} of its numbers is part of no number")
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)  # so do earlier versions of NumPy say what is an error now
        try:
            return np.fromstring(text, np.float64, sep=" ")
        except (ValueError, DeprecationWarning):
            raise ValueError("it holds something between its numbers that is none") from None


def whole(values: NDArray[np.floating]) -> NDArray[np.int64]:
    """Numbers of a text as whole numbers.

    Raises:
        ValueError: some are not whole, or negative.
    """
    if not (np.isfinite(values) & (values == np.floor(values)) & (values >= 0) & (values < 2.0**53)).all():
        raise ValueError("a number of points, faces or corners in it is not whole, or is negative")
    return values.astype(np.int64)
