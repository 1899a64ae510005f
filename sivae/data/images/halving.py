"""Halve the resolution of images, once or several times: each pixel is the mean of a square of pixels.

Sums of whole numbers are exact, so the mean is rounded only once.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

LEAST = 4  # side of the smallest level, with which growing models begin
_SMALLEST_WITH_LEVELS = 2 * LEAST
_HALVINGS_IN_UINT16 = 4  # 255·4⁴ and the rounding term are below 2¹⁶


def lower_levels(resolution: int) -> list[int]:
    """The sides of the lower resolutions that a packed set holds: each half of the one before, down to 4.

    Empty where the side is below 8 or no power of two: models do not grow on such images.
    """
    if resolution < _SMALLEST_WITH_LEVELS or resolution & (resolution - 1):
        return []
    return [resolution >> halvings for halvings in range(1, (resolution // LEAST).bit_length())]


def halvings_between(resolution: int, lower: int) -> int | None:
    """How many halvings lead from a side to a lower one; None where no number does."""
    ratio, rest = divmod(resolution, lower) if lower > 0 else (0, 0)
    return None if rest or ratio < 1 or ratio & (ratio - 1) else ratio.bit_length() - 1


def averages(pixels: np.ndarray, halvings: int) -> Iterator[np.ndarray]:
    """Yield the means of 2×2 pixels, of 4×4, of 8×8 and so on, each rounded once, a half to the even number.

    Rounding a half up would brighten images: a quarter of the means of four random pixels end in a half.

    Args:
        pixels: uint8 ``[..., H, W, C]``; H and W are divisible by 2^halvings.
        halvings: how many arrays to yield.

    Yields:
        uint8 ``[..., H/2, W/2, C]``, then ``[..., H/4, W/4, C]`` and so on.
    """
    sums = pixels
    for halving in range(1, halvings + 1):
        sums = _sums_of_squares(sums, np.dtype(np.uint16 if halving <= _HALVINGS_IN_UINT16 else np.uint64))
        yield _rounded_quotients(sums, 2 * halving)


def _sums_of_squares(values: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
    """[..., H, W, C] -> [..., H/2, W/2, C]."""
    rows = np.add(values[..., 0::2, :, :], values[..., 1::2, :, :], dtype=dtype)  # [..., H/2, W, C]
    sums = np.empty((*rows.shape[:-2], rows.shape[-2] // 2, rows.shape[-1]), dtype)
    for channel in range(rows.shape[-1]):  # numpy's innermost loop over only three values takes 7 times as long
        np.add(rows[..., 0::2, channel], rows[..., 1::2, channel], out=sums[..., channel])
    return sums


def _rounded_quotients(sums: np.ndarray, bits: int) -> np.ndarray:
    """sums / 2^bits as uint8; the added term carries at a half where the quotient is odd, else only above a half."""
    quotients = sums >> bits
    quotients &= 1
    quotients += (1 << (bits - 1)) - 1
    quotients += sums
    quotients >>= bits
    return quotients.astype(np.uint8)


def averaged(pixels: np.ndarray, halvings: int) -> np.ndarray:
    """The last array of :func:`averages`; the pixels themselves for no halvings."""
    for pixels in averages(pixels, halvings):  # noqa: B007, B020
        pass
    return pixels
