"""Images at a lower resolution, each of whose pixels is the mean of a square of pixels.

That is the mean of 2×2 pixels, again and again, without a rounding in between: sums of whole numbers are exact.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

LEAST = 4  # side of the smallest level: where models that grow begin
_SMALLEST_WITH_LEVELS = 2 * LEAST
_HALVINGS_IN_UINT16 = 4  # 255·4⁴ and what is added to round are below 2¹⁶


def lower_levels(resolution: int) -> list[int]:
    """The sides that a set keeps beside its own: each half of the one before, down to 4.

    Empty where the side is below 8 or no power of two: such images are not what models grow on.
    """
    if resolution < _SMALLEST_WITH_LEVELS or resolution & (resolution - 1):
        return []
    return [resolution >> halvings for halvings in range(1, (resolution // LEAST).bit_length())]


def halvings_between(resolution: int, lower: int) -> int | None:
    """How often a side is to be halved to be the lower one; None where that never happens."""
    ratio, rest = divmod(resolution, lower) if lower > 0 else (0, 0)
    return None if rest or ratio < 1 or ratio & (ratio - 1) else ratio.bit_length() - 1


def averages(pixels: np.ndarray, halvings: int) -> Iterator[np.ndarray]:
    """Means of 2×2 pixels, of 4×4, of 8×8 and so on, each rounded once, a half to the even number.

    Rounding a half up instead would brighten images: of four random pixels' means every fourth is a half.

    Args:
        pixels: uint8 ``[..., H, W, C]``; H and W are divisible by 2^halvings.
        halvings: how many to give.

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
    for channel in range(rows.shape[-1]):  # else numpy's innermost loop is over three values, and takes 7 times as long
        np.add(rows[..., 0::2, channel], rows[..., 1::2, channel], out=sums[..., channel])
    return sums


def _rounded_quotients(sums: np.ndarray, bits: int) -> np.ndarray:
    """sums / 2^bits, uint8: what is added carries from a half on where the quotient is odd, and else from above it."""
    quotients = sums >> bits
    quotients &= 1
    quotients += (1 << (bits - 1)) - 1
    quotients += sums
    quotients >>= bits
    return quotients.astype(np.uint8)


def averaged(pixels: np.ndarray, halvings: int) -> np.ndarray:
    """The last of :func:`averages`; the pixels themselves where nothing is to be halved."""
    for pixels in averages(pixels, halvings):  # noqa: B007, B020
        pass
    return pixels
