"""Say which part of each image is kept: the largest square in its middle, or a square of given pixels."""

from __future__ import annotations

from typing import Literal

from sivae.errors import DataError

Crop = Literal["center"] | tuple[int, int, int, int] | None  # (top, left, height, width) in pixels of the source

CROP_WORDS = "center (the largest square in the middle), or TOP,LEFT,HEIGHT,WIDTH in pixels"
CROP_VALUES = "{center|T,L,H,W}"


def parse_crop(text: str | None) -> Crop:
    """Read "center" or "TOP,LEFT,HEIGHT,WIDTH"; None stays None.

    Raises:
        DataError: it is neither, or no square.
    """
    if text is None:
        return None
    if text in ("center", "centre"):
        return "center"
    try:
        top, left, height, width = map(int, text.split(","))
    except ValueError:
        raise DataError(f"crop = {text!r}: expected {CROP_WORDS}") from None
    check_crop((top, left, height, width))
    return top, left, height, width


def crop_text(crop: Crop) -> str | None:
    """The inverse of :func:`parse_crop`."""
    return ",".join(map(str, crop)) if isinstance(crop, tuple) else crop


def is_crop(text: str) -> bool:
    """Whether :func:`parse_crop` can read it."""
    try:
        parse_crop(text)
    except DataError:
        return False
    return True


def check_crop(crop: Crop) -> None:
    """Refuse what is no crop.

    Raises:
        DataError: it is no square of pixels.
    """
    if crop is None or crop == "center":
        return
    if isinstance(crop, str) or len(crop) != 4:
        raise DataError(f"crop = {crop!r}: expected {CROP_WORDS}")
    top, left, height, width = crop
    if top < 0 or left < 0 or height < 1 or width < 1:
        raise DataError(f"crop = {crop}: top and left must be 0 or more, height and width 1 or more")
    if height != width:
        raise DataError(f"crop = {crop}: height and width differ, so the resize would distort; give a square")
