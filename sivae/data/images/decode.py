"""From the bytes of an image file to 8-bit grey or RGB."""

from __future__ import annotations

import contextlib
import io

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from sivae.errors import DamagedImageError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm")

# No other of Pillow's formats, whatever a file is called: some of them start other programs, and many are little used.
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
_GREY_MODES = ("1", "L", "LA", "La")


def decode(content: bytes, where: str) -> Image.Image:
    """Decode an image, the first one of an animation.

    Images are turned as their EXIF orientation says. Palettes, CMYK and other colour spaces become RGB; 16-bit grey is
    rounded to 8 bits; what is transparent is laid on white.

    Args:
        content: a file's bytes.
        where: what to call it in errors.

    Returns:
        An image of mode L or RGB.

    Raises:
        DamagedImageError: it is no image, is cut short, has too many pixels, or has values without a known range.
    """
    if not content:
        raise DamagedImageError(f"{where} is empty")
    try:
        picture: Image.Image = Image.open(io.BytesIO(content), formats=_FORMATS)
        limit = Image.MAX_IMAGE_PIXELS
        if limit is not None and picture.width * picture.height > limit:
            raise Image.DecompressionBombError(f"{picture.width}×{picture.height} pixels")
        picture.load()
        if "exif" in picture.info:
            with contextlib.suppress(Exception):  # a damaged note about an image is no damage to the image
                ImageOps.exif_transpose(picture, in_place=True)
        return _eight_bit(picture, where)
    except (MemoryError, DamagedImageError):
        raise
    except Image.DecompressionBombError as error:
        raise DamagedImageError(
            f"{where} unpacks to more pixels than Pillow's limit of {Image.MAX_IMAGE_PIXELS:,} "
            f"({error}), as a file made to exhaust memory does; if it is meant, scale it down first"
        ) from None
    except UnidentifiedImageError:
        raise DamagedImageError(
            f"{where} is no image that can be read (PNG, JPEG, WebP, BMP, GIF, TIFF, PPM)"
        ) from None
    except Exception as error:  # what a decoder raises on damaged input depends on the format and on the damage
        raise DamagedImageError(f"{where} is damaged: {' '.join(str(error).split()) or type(error).__name__}") from None


def _eight_bit(picture: Image.Image, where: str) -> Image.Image:
    if picture.mode in ("L", "RGB") and not picture.has_transparency_data:
        return picture
    if picture.mode.startswith("I"):
        values = np.asarray(picture).astype(np.int64)
        if values.size and (values.min() < 0 or values.max() > 0xFFFF):
            raise DamagedImageError(f"{where} has integers from {values.min()} to {values.max()}; expected 16 bits")
        return Image.fromarray(((values * 255 + 0x7FFF) // 0xFFFF).astype(np.uint8))  # rounded v·255/65535
    if picture.mode == "F":
        raise DamagedImageError(f"{where} has floating-point pixels, whose range nothing tells; save it with 8 bits")
    grey = picture.mode in _GREY_MODES
    if picture.has_transparency_data:
        layer = picture.convert("RGBA")
        ground = Image.new("RGBA", layer.size, "white")
        ground.alpha_composite(layer)
        picture = ground
    return picture.convert("L" if grey else "RGB")
