"""Images as the cells of a picture: their size, their places, what is written beside them, and PNG files."""

from __future__ import annotations

import math
import os
from contextlib import AbstractContextManager
from pathlib import Path

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFont

from sivae.files import atomic_file

Pixels = NDArray[np.uint8]

PAPER, INK, MUTED = (255, 255, 255), (34, 48, 60), (107, 120, 133)
_CELL = 96  # an image smaller than that is enlarged as long as it stays within
_LARGEST_GRID = 4096  # pixels a side


def enlargement(side: int, smallest: int, largest: float) -> int:
    """By how much to enlarge a side; negative: by how much to shrink it."""
    if side > largest:
        return -math.ceil(side / largest)
    return max(1, min(smallest, int(largest)) // side)


def to_cells(pixels: Pixels, columns: int, rows: int) -> Pixels:
    """Images [N, H, W, 3] at the size at which a grid of so many is looked at."""
    side = max(pixels.shape[1:3])
    return scaled(pixels, enlargement(side, _CELL, max(1.0, _LARGEST_GRID / max(columns, rows))))


def scaled(pixels: Pixels, factor: int) -> Pixels:
    """[N, H, W, 3] enlarged by repeating pixels, or by a negative factor shrunk by averaging them."""
    if factor > 1:
        return pixels.repeat(factor, axis=1).repeat(factor, axis=2)
    if factor in (1, -1):
        return pixels
    return np.stack([np.asarray(Image.fromarray(image).reduce(-factor)) for image in pixels])


def tiled(cells: Pixels, columns: int, padding: int) -> Pixels:
    """[N, h, w, 3] to one picture of `columns` columns, with padding between and around; empty places are white."""
    count, height, width, _ = cells.shape
    rows = math.ceil(count / columns)
    picture = np.full(
        (rows * (height + padding) + padding, columns * (width + padding) + padding, 3), PAPER, dtype=np.uint8
    )
    for index, cell in enumerate(cells):
        top, left = (
            place * side + padding
            for place, side in zip(divmod(index, columns), (height + padding, width + padding), strict=True)
        )
        picture[top : top + height, left : left + width] = cell
    return picture


def is_grey(pixels: Pixels) -> bool:
    """Whether [..., 3] has no colour."""
    return bool((pixels[..., 0] == pixels[..., 1]).all() and (pixels[..., 1] == pixels[..., 2]).all())


def font_beside(cell: int) -> ImageFont.FreeTypeFont:
    """What is written beside cells of a size; matplotlib's own, which the other figures are set in."""
    file = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    return ImageFont.truetype(str(file), max(14, cell // 12))


def fitted(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """The text, or as much of its beginning as there is room for."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}…") > width:
        text = text[:-1]
    return f"{text}…" if text else ""


def write_png(path: str | os.PathLike[str], pixels: Pixels) -> None:
    """Write [height, width, 3] whole or not at all, with one channel where it has no colour."""
    picture = Image.fromarray(pixels)
    with opened_target(path) as temporary:
        (picture.convert("L") if is_grey(pixels) else picture).save(temporary, format="PNG")


def opened_target(path: str | os.PathLike[str]) -> AbstractContextManager[Path]:
    """A temporary file that takes its place when it is complete; missing folders are made."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    return atomic_file(target)
