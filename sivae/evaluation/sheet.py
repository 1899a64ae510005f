"""Several grids of images on one sheet, each under a caption: a PNG file that shows what a model can do."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from sivae.evaluation.cells import Pixels
from sivae.evaluation.style import INK, MUTED
from sivae.files import atomic_file

_MARGIN = 16  # pixels
_LARGEST_FONT = 40


def write_sheet(path: str | os.PathLike[str], title: str, parts: Sequence[tuple[str, Pixels]]) -> None:
    """Write grids below each other.

    Args:
        path: file to write; missing folders are made, an existing file is replaced.
        title: of the sheet.
        parts: caption and pixels of each, uint8 [height, width, 3], as
            :func:`sivae.evaluation.pictures.image_grid` makes them.

    Raises:
        ValueError: there are none.
    """
    if not parts:
        raise ValueError("write_sheet: there is nothing to show")
    width = max(pixels.shape[1] for _, pixels in parts) + 2 * _MARGIN
    size = int(np.clip(width // 60, 12, _LARGEST_FONT))
    large, small = _font(size * 3 // 2, bold=True), _font(size, bold=False)
    head, line = 2 * size + 2 * _MARGIN, size * 2
    height = head + sum(line + pixels.shape[0] + _MARGIN for _, pixels in parts)
    picture = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(picture)
    draw.text((_MARGIN, _MARGIN), title, fill=INK, font=large, anchor="la")
    top = head
    for caption, pixels in parts:
        draw.text((_MARGIN, top + line // 2), caption, fill=MUTED, font=small, anchor="lm")
        picture.paste(Image.fromarray(pixels), (_MARGIN, top + line))
        top += line + pixels.shape[0] + _MARGIN
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(target) as temporary:
        picture.save(temporary, format="PNG")


def _font(size: int, *, bold: bool) -> ImageFont.FreeTypeFont:
    # matplotlib's own, which the other figures are set in
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)
