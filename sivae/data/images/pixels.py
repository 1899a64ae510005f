"""Decode image files, and fit images to one size: crop, antialiased resize, grey or RGB."""

from __future__ import annotations

import contextlib
import io

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from sivae.bounds import PROGRESSIVE_PIXELS
from sivae.data.free_memory import amount, available_memory
from sivae.data.images.crop import Crop, check_crop
from sivae.data.images.kinds import kind_of, readable_kinds
from sivae.data.unpacking import fits_memory
from sivae.errors import DamagedImageError, DataError, reason_of

MAX_RESOLUTION = 16384

_BYTES_PER_PIXEL = 16  # at the most, while an image is decoded: of an RGBA image four copies
_SCAN = b"\xff\xda"  # begins a scan of a JPEG; it may also be in other data, by chance once in 65,536 bytes
_GREY_MODES = ("1", "L", "LA", "La")


def decode(content: bytes, where: str) -> Image.Image:
    """Decode an image file; of an animation the first image.

    EXIF orientations are applied. Palettes, CMYK and other colour spaces become RGB; 16-bit grey is rounded to 8 bits;
    transparent pixels are laid on white.

    Args:
        content: the file's bytes.
        where: name of the file in error messages.

    Returns:
        An image of mode L or RGB.

    Raises:
        DamagedImageError: the file is no image, is cut short, has too many pixels, or has values of unknown range.
        DataError: its pixels do not fit the free memory.
    """
    if not content:
        raise DamagedImageError(f"{where} is empty")
    try:
        picture: Image.Image = Image.open(io.BytesIO(content), formats=readable_kinds())
        limit = Image.MAX_IMAGE_PIXELS
        if limit is not None and picture.width * picture.height > limit:
            raise Image.DecompressionBombError(f"{picture.width}×{picture.height} pixels")
        needed = picture.width * picture.height * _BYTES_PER_PIXEL
        if not fits_memory(needed):
            raise DataError(  # not of a damaged image: with more memory it is read
                f"{where} has {picture.width}×{picture.height} pixels, whose decoding takes {amount(needed)}, more "
                f"than half of the free memory, which is {amount(available_memory())}; free some, or scale it down"
            )
        scans = content.count(_SCAN) if "progressive" in picture.info else 1
        if scans * picture.width * picture.height > PROGRESSIVE_PIXELS:
            raise DamagedImageError(
                f"{where} has {picture.width}×{picture.height} pixels in {scans:,} scans, which would take "
                "long to decode; save it again with another program"
            )
        picture.load()
        if "exif" in picture.info:
            with contextlib.suppress(Exception):  # a damaged EXIF note does not damage the image
                ImageOps.exif_transpose(picture, in_place=True)
        return eight_bit(picture, where)
    except (MemoryError, DataError):
        raise
    except Image.DecompressionBombError as error:
        raise DamagedImageError(
            f"{where} unpacks to more pixels than Pillow's limit of {Image.MAX_IMAGE_PIXELS:,} "
            f"({error}), as a file made to exhaust memory does; if it is meant, scale it down first"
        ) from None
    except UnidentifiedImageError:
        kind = kind_of(content)
        if kind in readable_kinds():
            raise DamagedImageError(f"{where} is damaged: it begins as {kind}, and the rest is no image") from None
        came = f"an image of the kind {kind}, which Pillow cannot read here" if kind else "no image that can be read"
        raise DamagedImageError(f"{where} is {came} ({', '.join(readable_kinds())})") from None
    except Exception as error:  # decoders raise many kinds of errors on damaged files
        raise DamagedImageError(f"{where} is damaged: {reason_of(error)}") from None


def eight_bit(picture: Image.Image, where: str) -> Image.Image:
    """Convert a Pillow image to mode L or RGB, see :func:`decode`.

    Raises:
        DamagedImageError: its values are of unknown range.
    """
    if picture.mode in ("L", "RGB") and not picture.has_transparency_data:
        return picture
    if picture.mode.startswith("I"):
        values = np.asarray(picture)
        if values.size and (values.min() < 0 or values.max() > 0xFFFF):
            raise DamagedImageError(f"{where} has integers from {values.min()} to {values.max()}; expected 16 bits")
        rounded = values.astype(np.uint32)  # rounded v·255/65535, in place
        rounded *= 255
        rounded += 0x7FFF
        rounded //= 0xFFFF
        return Image.fromarray(rounded.astype(np.uint8))
    if picture.mode == "F":
        raise DamagedImageError(f"{where} has floating-point pixels of unknown range; save it with 8 bits")
    grey = picture.mode in _GREY_MODES
    if picture.has_transparency_data:
        layer = picture.convert("RGBA")
        ground = Image.new("RGBA", layer.size, "white")
        ground.alpha_composite(layer)
        picture = ground
    return picture.convert("L" if grey else "RGB")


def as_picture(image: np.ndarray) -> Image.Image:
    """Convert uint8 ``[H, W, 1 or 3]`` to a Pillow image of mode L or RGB."""
    return Image.fromarray(np.ascontiguousarray(image[:, :, 0] if image.shape[2] == 1 else image))


def check_shape_request(resolution: int, crop: Crop, channels: int | None) -> None:
    """Check a wanted resolution, crop and number of channels.

    Raises:
        DataError: naming the argument.
    """
    if not 1 <= resolution <= MAX_RESOLUTION:
        raise DataError(f"resolution = {resolution}: expected 1 to {MAX_RESOLUTION} pixels")
    if channels not in (None, 1, 3):
        raise DataError(f"channels = {channels}: expected 1 (grey) or 3 (RGB)")
    check_crop(crop)


def check_size(width: int, height: int, crop: Crop, where: str) -> None:
    """Check that a crop makes an image square.

    Raises:
        DataError: the image is not square and there is no crop.
        DamagedImageError: the image is too small for the crop.
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

    An image that already has the resolution keeps its exact pixels.

    Args:
        picture: of mode L or RGB.
        resolution: height and width of the result.
        crop: "center", the largest square in the middle; (top, left, height, width); or None for a square image.
        channels: 1 or 3. Grey becomes RGB by repetition, RGB becomes grey by ITU-R 601 luma.
        where: name of the image in error messages.

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


def fit_square(picture: Image.Image, side: int, channels: int, where: str, crop: Crop = "center") -> np.ndarray:
    """Fit a part of an image, by default the largest square in its middle, to a model's size.

    Returns:
        uint8 ``[side, side, channels]``.

    Raises:
        DataError, DamagedImageError: see :func:`check_size`.
    """
    return fit(picture, resolution=side, crop=crop, channels=channels, where=where)
