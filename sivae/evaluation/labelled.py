"""Grids of images whose rows and columns mean something: a setting, a resolution, the image that gave the content."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from sivae.evaluation.cells import INK, MUTED, PAPER, Pixels, fitted, font_beside, tiled, to_cells, write_png
from sivae.evaluation.pictures import to_rgb

_PADDING, _GAP = 2, 12  # pixels, between images and between groups of rows


def labelled_grid(
    path: str | os.PathLike[str],
    rows: Sequence[Tensor],
    *,
    row_labels: Sequence[str] = (),
    column_labels: Sequence[str] = (),
    group: int = 1,
    value_range: tuple[float, float] = (0.0, 1.0),
) -> None:
    """Write rows of images as a PNG file, with their names at the left and those of the columns above.

    Args:
        path: file to write; missing folders are made, an existing file is replaced.
        rows: each [N, C, S, S], C 1 or 3. A row of fewer images than the longest has its first places empty; one of
            smaller images is enlarged to the side of the largest, which has to be a multiple of its own.
        row_labels: one for each row, or none at all.
        column_labels: one for each column, or none at all; shortened where there is no room.
        group: so many rows stand close together, with a gap before the next ones.
        value_range: the values that stand for black and for white.

    Raises:
        ValueError: not such images, none, or another number of labels.
    """
    if not rows or any(len(row) == 0 for row in rows):
        raise ValueError("labelled_grid: expected rows of at least one image each")
    pixels = [to_rgb(row, value_range) for row in rows]  # [N, S, S, 3] each
    side = max(images.shape[1] for images in pixels)
    if any(images.shape[1] != images.shape[2] or side % images.shape[1] for images in pixels):
        sides = ", ".join(f"{images.shape[1]} x {images.shape[2]}" for images in pixels)
        raise ValueError(f"labelled_grid: images are {sides}, expected square ones whose sides divide the largest")
    columns = max(map(len, rows))
    for name, labels, count in (("row", row_labels, len(rows)), ("column", column_labels, columns)):
        if labels and len(labels) != count:
            raise ValueError(f"labelled_grid: got {len(labels)} {name} labels, expected {count} or none")
    cells = [to_cells(_enlarged(images, side), columns, len(rows)) for images in pixels]
    cell = cells[0].shape[1]
    font = font_beside(cell)
    left = max((round(font.getlength(text)) for text in row_labels), default=-16) + 16
    above = round(1.8 * font.size) if column_labels else 0
    step = cell + _PADDING
    tops = [above + row * step + row // group * _GAP for row in range(len(rows))]
    picture = Image.new("RGB", (left + columns * step + _PADDING, tops[-1] + step + _PADDING), PAPER)
    draw = ImageDraw.Draw(picture)
    for row, (images, top) in enumerate(zip(cells, tops, strict=True)):
        picture.paste(
            Image.fromarray(tiled(images, len(images), _PADDING)), (left + (columns - len(images)) * step, top)
        )
        if row_labels:
            place = (left - 8, top + _PADDING + cell // 2)
            draw.text(place, row_labels[row], fill=MUTED if row % group else INK, font=font, anchor="rm")
    for column, text in enumerate(column_labels):
        middle = left + _PADDING + cell // 2 + column * step
        draw.text((middle, above // 2), fitted(text, font, cell), fill=INK, font=font, anchor="mm")
    write_png(path, np.asarray(picture))


def translation_grid(
    path: str | os.PathLike[str],
    contents: Tensor,
    classes: Tensor,
    recombined: Tensor,
    *,
    value_range: tuple[float, float] = (0.0, 1.0),
) -> None:
    """Write recombined images as a PNG file, right of what gave their content and below what gave their class.

    Args:
        path: file to write; missing folders are made, an existing file is replaced.
        contents: images that gave the content, [R, C, S, S], C 1 or 3, R at least 1.
        classes: images that gave the class, [K, C, S, S], K at least 1.
        recombined: [R, K, C, S, S].
        value_range: the values that stand for black and for white.

    Raises:
        ValueError: the shapes do not fit one another, or are no square images.
    """
    expected = (len(contents), len(classes), *contents.shape[1:])
    if recombined.shape != expected or classes.shape[1:] != contents.shape[1:]:
        raise ValueError(
            f"translation_grid: recombined images are {list(recombined.shape)} for contents {list(contents.shape)} and "
            f"classes {list(classes.shape)}, expected [R, K, C, S, S] for [R, C, S, S] and [K, C, S, S]"
        )
    rows = [torch.cat([content[None], row]) for content, row in zip(contents, recombined, strict=True)]
    labelled_grid(
        path,
        [classes, *rows],
        row_labels=["class", *[""] * len(contents)],
        column_labels=["content", *[""] * len(classes)],
        group=len(rows) + 1,
        value_range=value_range,
    )


def _enlarged(images: Pixels, side: int) -> Pixels:
    factor = side // images.shape[1]
    return images.repeat(factor, axis=1).repeat(factor, axis=2)
