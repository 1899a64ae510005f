"""Draw pictures made of images: grids, reconstructions, interpolations and sheets, as PNG and GIF files.

Small images are enlarged by repeating pixels and large ones shrunk by averaging whole squares of pixels. Values are
mapped from the model's range and clipped; a pixel with a NaN is magenta. A file is complete or not there at all.

Every function that writes a file makes missing folders and replaces an existing file. `value_range` is always the pair
of values that stand for black and for white.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from sivae.figures.look import INK, MUTED, NAN, PAPER, font, picture_file
from sivae.models.pixels import to_uint8

Pixels = NDArray[np.uint8]

_CELL = 96  # an image smaller than that is enlarged as long as it stays within
_LARGEST_GRID = 4096  # pixels a side
_FRAME, _LARGEST_FRAME = 256, 512  # likewise, of an animation
_PADDING, _GAP = 2, 12  # pixels, between images and between groups of them
_MARGIN, _LARGEST_FONT = 16, 40  # pixels, of a sheet


def to_rgb(images: Tensor, value_range: tuple[float, float] = (0.0, 1.0)) -> Pixels:
    """Convert images to pixels as they are shown.

    Args:
        images: [N, C, H, W], floating point; C is 1 or 3.
        value_range: values beyond it are clipped.

    Returns:
        uint8 [N, H, W, 3]; a pixel with a NaN in any channel is magenta.

    Raises:
        ValueError: not such images.
    """
    if images.ndim != 4 or images.shape[1] not in (1, 3) or 0 in images.shape[2:]:
        raise ValueError(f"images are {list(images.shape)}, expected [N, C, H, W] with 1 or 3 channels")
    images = images.detach()
    broken = images.isnan().any(dim=1).cpu().numpy()  # [N, H, W]
    pixels: Pixels = to_uint8(images, value_range).expand(-1, 3, -1, -1).permute(0, 2, 3, 1).cpu().numpy().copy()
    pixels[broken] = NAN
    return pixels


def image_grid(
    images: Tensor,
    *,
    columns: int | None = None,
    padding: int = _PADDING,
    value_range: tuple[float, float] = (0.0, 1.0),
) -> Pixels:
    """Arrange images row by row, with white between and around them.

    Args:
        images: [N, C, H, W], N at least 1, C 1 or 3.
        columns: images in a row; None makes the grid nearly square.
        padding: pixels between images.

    Returns:
        uint8 [height, width, 3].

    Raises:
        ValueError: not such images, none, or columns below 1.
    """
    _check_some(images)
    columns = _columns("image_grid", math.ceil(math.sqrt(len(images))) if columns is None else columns, len(images))
    cells = _to_cells(to_rgb(images, value_range), columns, math.ceil(len(images) / columns))
    return _tiled(cells, columns, padding)


def sample_grid(
    path: str | os.PathLike[str],
    images: Tensor,
    *,
    columns: int | None = None,
    value_range: tuple[float, float] = (0.0, 1.0),
) -> None:
    """Write an :func:`image_grid` as a PNG file."""
    _write_png(path, image_grid(images, columns=columns, value_range=value_range))


def reconstruction_grid(
    path: str | os.PathLike[str],
    originals: Tensor,
    reconstructions: Tensor,
    *,
    columns: int | None = None,
    value_range: tuple[float, float] = (0.0, 1.0),
) -> None:
    """Write a PNG file with rows of originals, each row above that of their reconstructions.

    Args:
        path: file to write.
        originals, reconstructions: [N, C, H, W] of one shape, N at least 1, C 1 or 3.
        columns: images in a row; None: 8, or as many as there are.

    Raises:
        ValueError: the shapes differ, are no images or none, or columns is below 1.
    """
    _check_some(originals)
    if originals.shape != reconstructions.shape:
        raise ValueError(
            f"reconstruction_grid: reconstructions are {list(reconstructions.shape)}, "
            f"expected {list(originals.shape)} as the originals"
        )
    columns = _columns("reconstruction_grid", 8 if columns is None else columns, len(originals))
    starts = range(0, len(originals), columns)
    both = [_to_cells(to_rgb(x, value_range), columns, 2 * len(starts)) for x in (originals, reconstructions)]
    rows = [cells[start : start + columns] for start in starts for cells in both]
    labels = ["original", "reconstruction"] * len(starts)
    _write_png(path, _rows_of(rows, row_labels=labels, group=2, gap=_GAP + _PADDING))


def labelled_grid(
    path: str | os.PathLike[str],
    rows: Sequence[Tensor],
    *,
    row_labels: Sequence[str] = (),
    column_labels: Sequence[str] = (),
    group: int = 1,
    value_range: tuple[float, float] = (0.0, 1.0),
) -> None:
    """Write rows of images as a PNG file, with the rows' labels at the left and the columns' above.

    Args:
        path: file to write.
        rows: each [N, C, S, S], C 1 or 3. A row of fewer images than the longest starts further right; one of smaller
            images is enlarged to the side of the largest, which has to be a multiple of its own.
        row_labels: one for each row, or none at all.
        column_labels: one for each column, or none at all; shortened where there is no room.
        group: after so many rows comes a gap.

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
    cells = [_to_cells(_scaled(images, side // images.shape[1]), columns, len(rows)) for images in pixels]
    _write_png(
        path, _rows_of(cells, row_labels=row_labels, column_labels=column_labels, group=group, gap=_GAP, to_right=True)
    )


def translation_grid(
    path: str | os.PathLike[str],
    contents: Tensor,
    classes: Tensor,
    recombined: Tensor,
    *,
    value_range: tuple[float, float] = (0.0, 1.0),
) -> None:
    """Write recombined images as a PNG file: a row for each content, a column for each class.

    Args:
        path: file to write.
        contents: images that gave the content, [R, C, S, S], C 1 or 3, R at least 1; they are drawn at the left.
        classes: images that gave the class, [K, C, S, S], K at least 1; they are drawn above.
        recombined: [R, K, C, S, S].

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


def interpolation_strip(
    path: str | os.PathLike[str],
    images: Tensor,
    *,
    ends: tuple[Tensor, Tensor] | None = None,
    labels: tuple[str, str] | None = None,
    value_range: tuple[float, float] = (0.0, 1.0),
) -> None:
    """Write a PNG file with the images of a path in one row, each above its position on the path, from 0 to 1.

    Args:
        path: file to write.
        images: [N, C, H, W] at equal steps from the first end to the second, N at least 1, C 1 or 3.
        ends: [C, H, W] each, the originals that the path connects; they are drawn at both sides.
        labels: names of the two originals; without originals, of the two ends of the path.

    Raises:
        ValueError: not such images, or none.
    """
    _check_some(images)
    texts = [f"{index / max(len(images) - 1, 1):.3g}" for index in range(len(images))]
    groups = [len(images)]
    if ends is not None:
        images = torch.cat([ends[0][None], images, ends[1][None]])
        labels = labels or ("A", "B")
        texts = ["", *texts, ""]
        groups = [1, *groups, 1]
    cells = _to_cells(to_rgb(images, value_range), len(images), 1)
    height, width = cells.shape[1:3]
    kind = _font_beside(width)
    line = round(1.8 * kind.size)
    parts, words, left, start = [], [], 0, 0
    for count in groups:
        row = _tiled(cells[start : start + count], count, _PADDING)
        parts.append((row, left, 0))
        for index, text in enumerate(texts[start : start + count]):
            middle = left + _PADDING + width // 2 + index * (width + _PADDING)
            words.append(_Text(_shortened(text, kind, width), middle, height + _PADDING + line // 2, MUTED, "mm", kind))
        left, start = left + row.shape[1] + _GAP, start + count
    across, down = left - _GAP, height + 2 * _PADDING + line
    if labels is not None:  # in a line of their own, where each has half of the picture's width
        first, last = (_shortened(label, kind, across // 2 - 2 * _PADDING) for label in labels)
        words.append(_Text(first, _PADDING, down + line // 2 - _PADDING, INK, "lm", kind))
        words.append(_Text(last, across - _PADDING, down + line // 2 - _PADDING, INK, "rm", kind))
        down += line
    _write_png(path, _composed((across, down), parts, words))


def animation(
    path: str | os.PathLike[str],
    images: Tensor,
    *,
    seconds: float = 4.0,
    value_range: tuple[float, float] = (0.0, 1.0),
) -> None:
    """Write a GIF file that goes through the images and back, for ever, and rests a moment at both ends.

    Args:
        path: file to write.
        images: [N, C, H, W], N at least 1, C 1 or 3.
        seconds: the time from one end to the other; a frame takes at least 0.02, below which viewers slow down.

    Raises:
        ValueError: not such images, or none.
    """
    _check_some(images)
    frames = [_frame(pixels) for pixels in to_rgb(images, value_range)]
    order = [*range(len(frames)), *range(len(frames) - 2, 0, -1)]
    each = max(20, round(100 * seconds / max(len(frames) - 1, 1)) * 10)  # milliseconds; the format counts hundredths
    rest = max(each, 500)
    durations = [rest if index in (0, len(frames) - 1) else each for index in order]
    first, *others = (frames[index] for index in order)
    with picture_file(path) as temporary:
        first.save(
            temporary,
            format="GIF",
            save_all=True,
            append_images=others,
            duration=durations if others else rest,
            loop=0,
        )


def write_image(path: str | os.PathLike[str], image: Tensor, *, value_range: tuple[float, float] = (0.0, 1.0)) -> None:
    """Write one image [C, H, W], C 1 or 3, as a PNG file, pixel for pixel; a grey one has one channel.

    Raises:
        ValueError: not such an image.
    """
    _write_png(path, to_rgb(image.unsqueeze(0), value_range)[0])


def write_sheet(path: str | os.PathLike[str], title: str, parts: Sequence[tuple[str, Pixels]]) -> None:
    """Write several grids below each other as a PNG file, each under its caption.

    Args:
        path: file to write.
        title: of the sheet.
        parts: caption and pixels of each, uint8 [height, width, 3], as :func:`image_grid` makes them.

    Raises:
        ValueError: there are none.
    """
    if not parts:
        raise ValueError("write_sheet: no grid is given; expected one or more")
    width = max(pixels.shape[1] for _, pixels in parts) + 2 * _MARGIN
    size = int(np.clip(width // 60, 12, _LARGEST_FONT))
    small, line = font(size), 2 * size
    words = [_Text(title, _MARGIN, _MARGIN, INK, "la", font(size * 3 // 2, bold=True))]
    grids, top = [], line + 2 * _MARGIN
    for caption, pixels in parts:
        words.append(_Text(caption, _MARGIN, top + line // 2, MUTED, "lm", small))
        grids.append((pixels, _MARGIN, top + line))
        top += line + pixels.shape[0] + _MARGIN
    _write_png(path, _composed((width, top), grids, words))


class _Text(NamedTuple):
    """A piece of text at (x, y), which is the point of it that Pillow calls by the anchor."""

    text: str
    x: int
    y: int
    colour: str
    anchor: str
    font: ImageFont.FreeTypeFont


def _rows_of(
    rows: Sequence[Pixels],
    *,
    row_labels: Sequence[str] = (),
    column_labels: Sequence[str] = (),
    group: int,
    gap: int,
    to_right: bool = False,
) -> Pixels:
    """Arrange rows of cells of one size, [N, h, w, 3] each, with labels; short rows start left or end `to_right`."""
    height, width = rows[0].shape[1:3]
    columns = max(map(len, rows))
    kind = _font_beside(height)
    left = max((round(kind.getlength(text)) for text in row_labels), default=-_MARGIN) + _MARGIN
    above = round(1.8 * kind.size) if column_labels else 0
    across, down = width + _PADDING, height + _PADDING
    tops = [above + row * down + row // group * gap for row in range(len(rows))]
    parts = [
        (_tiled(images, len(images), _PADDING), left + (columns - len(images)) * across * to_right, top)
        for images, top in zip(rows, tops, strict=True)
    ]
    words = [
        _Text(text, left - 8, tops[row] + _PADDING + height // 2, MUTED if row % group else INK, "rm", kind)
        for row, text in enumerate(row_labels)
    ] + [
        _Text(
            *(_shortened(text, kind, width), left + _PADDING + width // 2 + column * across, above // 2),
            *(INK, "mm", kind),
        )
        for column, text in enumerate(column_labels)
    ]
    return _composed((left + columns * across + _PADDING, tops[-1] + down + _PADDING), parts, words)


def _composed(size: tuple[int, int], parts: Iterable[tuple[Pixels, int, int]], words: Iterable[_Text]) -> Pixels:
    """White paper of that width and height with pictures, each by its left and upper edge, and text on it."""
    picture = Image.new("RGB", size, PAPER)
    for pixels, left, top in parts:
        picture.paste(Image.fromarray(pixels), (left, top))
    draw = ImageDraw.Draw(picture)
    for one in words:
        draw.text((one.x, one.y), one.text, fill=one.colour, font=one.font, anchor=one.anchor)
    return np.asarray(picture)


def _tiled(cells: Pixels, columns: int, padding: int) -> Pixels:
    """[N, h, w, 3] to one picture of `columns` columns, with padding between and around; empty places are white."""
    count, height, width, _ = cells.shape
    rows = math.ceil(count / columns)
    down, across = height + padding, width + padding
    picture = np.full((rows * down + padding, columns * across + padding, 3), 255, dtype=np.uint8)
    for index, cell in enumerate(cells):
        top, left = index // columns * down + padding, index % columns * across + padding
        picture[top : top + height, left : left + width] = cell
    return picture


def _to_cells(pixels: Pixels, columns: int, rows: int) -> Pixels:
    """Images [N, H, W, 3] at the size that suits a grid of so many."""
    side = max(pixels.shape[1:3])
    return _scaled(pixels, _enlargement(side, _CELL, max(1.0, _LARGEST_GRID / max(columns, rows))))


def _enlargement(side: int, smallest: int, largest: float) -> int:
    """By how much to enlarge a side; negative: by how much to shrink it."""
    if side > largest:
        return -math.ceil(side / largest)
    return max(1, min(smallest, int(largest)) // side)


def _scaled(pixels: Pixels, factor: int) -> Pixels:
    """[N, H, W, 3] enlarged by repeating pixels, or by a negative factor shrunk by averaging them."""
    if factor > 1:
        return pixels.repeat(factor, axis=1).repeat(factor, axis=2)
    if factor in (1, -1):
        return pixels
    return np.stack([np.asarray(Image.fromarray(image).reduce(-factor)) for image in pixels])


def _frame(pixels: Pixels) -> Image.Image:
    """One frame of an animation, [H, W, 3], with a palette of its own."""
    factor = _enlargement(max(pixels.shape[:2]), _FRAME, _LARGEST_FRAME)
    picture = Image.fromarray(_scaled(pixels[None], min(factor, 1))[0])
    if _is_grey(pixels):
        flat = picture.convert("L")  # 256 levels: exact
    else:
        palette = picture.quantize(255)
        palette.putpalette([*(palette.getpalette() or [])[: 3 * 255], *[255] * 3])
        flat = picture.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG)
        # Pillow's search for the nearest colour is coarse, and would make white paper a light grey.
        white = Image.fromarray((np.asarray(picture) == 255).all(2))
        flat.paste(len(palette.getpalette() or []) // 3 - 1, mask=white)
    return flat.resize((flat.width * max(factor, 1), flat.height * max(factor, 1)), Image.Resampling.NEAREST)


def _is_grey(pixels: Pixels) -> bool:
    return bool((pixels[..., 0] == pixels[..., 1]).all() and (pixels[..., 1] == pixels[..., 2]).all())


def _font_beside(cell: int) -> ImageFont.FreeTypeFont:
    return font(max(14, cell // 12))


def _shortened(text: str, kind: ImageFont.FreeTypeFont, width: int) -> str:
    """The text, or as much of its beginning and of its end as there is room for."""
    if kind.getlength(text) <= width:
        return text
    for kept in range(len(text) - 1, 0, -1):
        shorter = f"{text[: kept - kept // 2]}…{text[len(text) - kept // 2 :]}"
        if kind.getlength(shorter) <= width:
            return shorter
    return ""


def _write_png(path: str | os.PathLike[str], pixels: Pixels) -> None:
    """Write [height, width, 3], with one channel where it has no colour."""
    picture = Image.fromarray(pixels)
    with picture_file(path) as temporary:
        (picture.convert("L") if _is_grey(pixels) else picture).save(temporary, format="PNG")


def _check_some(images: Tensor) -> None:
    if images.ndim == 4 and len(images) == 0:
        raise ValueError("there is no image to draw; expected one or more")


def _columns(caller: str, columns: int, count: int) -> int:
    if columns < 1:
        raise ValueError(f"{caller}: columns is {columns}, expected at least 1")
    return min(columns, count)
