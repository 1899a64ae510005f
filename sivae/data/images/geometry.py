"""Crop, antialiased resize and channels: from any image to one of the set's shape."""

from __future__ import annotations

from typing import Literal

import numpy as np
from PIL import Image

from sivae.errors import DamagedImageError, DataError

Crop = Literal["center"] | tuple[int, int, int, int] | None  # (top, left, height, width) in pixels of the source

MAX_RESOLUTION = 16384


def check_shape_request(resolution: int, crop: Crop, channels: int | None) -> None:
    """Refuse what no image could be fitted to.

    Raises:
        DataError: naming the argument.
    """
    if not 1 <= resolution <= MAX_RESOLUTION:
        raise DataError(f"resolution = {resolution}: expected 1 to {MAX_RESOLUTION} pixels")
    if channels not in (None, 1, 3):
        raise DataError(f"channels = {channels}: expected 1 (grey) or 3 (RGB)")
    if crop is None or crop == "center":
        return
    if isinstance(crop, str) or len(crop) != 4:
        raise DataError(f"crop = {crop!r}: expected center, or top, left, height, width in pixels")
    top, left, height, width = crop
    if top < 0 or left < 0 or height < 1 or width < 1:
        raise DataError(f"crop = {crop}: top and left must be 0 or more, height and width 1 or more")
    if height != width:
        raise DataError(f"crop = {crop}: height and width differ, so the resize would distort; give a square")


def check_size(width: int, height: int, crop: Crop, where: str) -> None:
    """Refuse an image that the crop does not make square.

    Raises:
        DataError: it is not square and nothing says what to cut off.
        DamagedImageError: it is too small for the crop.
    """
    if crop is None:
        if width != height:
            raise DataError(
                f"{where} is {width}×{height} (width × height), not square; cut squares out with --crop center, "
                "or --crop TOP,LEFT,HEIGHT,WIDTH"
            )
    elif crop != "center":
        top, left, crop_height, crop_width = crop
        if top + crop_height > height or left + crop_width > width:
            raise DamagedImageError(
                f"{where} is {width}×{height} (width × height), too small for the crop: rows {top} to "
                f"{top + crop_height}, columns {left} to {left + crop_width}"
            )


def fit(picture: Image.Image, *, resolution: int, crop: Crop, channels: int, where: str) -> np.ndarray:
    """Crop, resize by Pillow's antialiased Lanczos filter, and convert between grey and RGB.

    An image that has the resolution already keeps its exact pixels.

    Args:
        picture: mode L or RGB.
        resolution: height and width of the result.
        crop: see :func:`check_shape_request`; "center" is the largest square in the middle.
        channels: 1 or 3. Grey becomes RGB by repetition, RGB grey by ITU-R 601 luma.
        where: what to call the image in errors.

    Returns:
        uint8 ``[resolution, resolution, channels]``.

    Raises:
        DataError, DamagedImageError: see :func:`check_size`.
    """
    width, height = picture.size
    check_size(width, height, crop, where)
    if crop == "center":
        side = min(width, height)
        top, left = (height - side) // 2, (width - side) // 2
        if width != height:
            picture = picture.crop((left, top, left + side, top + side))
    elif crop is not None:
        top, left, side, _ = crop
        picture = picture.crop((left, top, left + side, top + side))
    if picture.width != resolution:
        picture = picture.resize((resolution, resolution), Image.Resampling.LANCZOS)
    mode = "L" if channels == 1 else "RGB"
    if picture.mode != mode:
        picture = picture.convert(mode)
    return np.asarray(picture).reshape(resolution, resolution, channels)


def as_picture(image: np.ndarray) -> Image.Image:
    """uint8 [H, W, 1 or 3] as Pillow's image."""
    return Image.fromarray(np.ascontiguousarray(image[:, :, 0] if image.shape[2] == 1 else image))
