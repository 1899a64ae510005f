"""The colours, the fonts and the files of every picture."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from pathlib import Path

import matplotlib
from PIL import ImageFont

from sivae.files import atomic_file

PAPER, INK, MUTED, RULE = "#ffffff", "#22303c", "#6b7885", "#d5dbe1"
BLUE, ORANGE = "#2a6f97", "#e07a3f"
LIGHT_TO_DARK = ("#ffffff", "#d3e6ec", "#8fc1cf", "#3f8fae", "#1f5f8b", "#1a3a63", "#14213d")
NOT_FINITE = "#f3d9cd"  # the background of a density where it is not finite
NAN = (255, 0, 255)  # a pixel of an image that is not a number; nobody takes magenta for a bad sample


def font(size: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    """The font of matplotlib's charts, for the pictures that Pillow draws; `size` in pixels."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)


def picture_file(path: str | os.PathLike[str]) -> AbstractContextManager[Path]:
    """Yield a temporary file to write to; it becomes `path` when the block ends well. Missing folders are made."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    return atomic_file(target)
