"""Pictures of images: grids of samples, reconstructions under their originals, interpolations; PNG and GIF files.

Every pixel of an image becomes a whole square of pixels where the image is tiny, and whole squares of pixels are
averaged where the picture would become huge. Values are mapped from the model's range and clipped; a pixel with a NaN
in it is magenta, which no one takes for a bad sample. A file appears under its name only when it is complete.
"""

from __future__ import annotations

import math
import os

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

from sivae.evaluation.cells import (
    INK,
    MUTED,
    PAPER,
    Pixels,
    enlargement,
    fitted,
    font_beside,
    is_grey,
    opened_target,
    scaled,
    tiled,
    to_cells,
    write_png,
)
from sivae.models.pixels import to_uint8

_FRAME = 256  # pixels a side; a frame of an animation smaller than that is enlarged as long as it stays within
_LARGEST_FRAME = 512
_NAN = (255, 0, 255)


def to_rgb(images: Tensor, value_range: tuple[float, float] = (0.0, 1.0)) -> Pixels:
    """Images as they are shown.

    Args:
        images: [N, C, H, W], floating point; C is 1 or 3.
        value_range: the values that stand for black and for white; what lies beyond is clipped.

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
    pixels[broken] = _NAN
    return pixels


def image_grid(
    images: Tensor,
    *,
    columns: int | None = None,
    padding: int = 2,
    value_range: tuple[float, float] = (0.0, 1.0),
) -> Pixels:
    """Images row by row, with white between and around them.

    Args:
        images: [N, C, H, W], N at least 1, C 1 or 3.
        columns: images in a row; None makes the grid nearly square.
        padding: pixels between images.
        value_range: the values that stand for black and for white.

    Returns:
        uint8 [height, width, 3].

    Raises:
        ValueError: not such images, none, or columns below 1.
    """
    _check_some(images)
    columns = math.ceil(math.sqrt(len(images))) if columns is None else columns
    if columns < 1:
        raise ValueError(f"image_grid: columns is {columns}, expected at least 1")
    columns = min(columns, len(images))
    cells = to_cells(to_rgb(images, value_range), columns, math.ceil(len(images) / columns))
    return tiled(cells, columns, padding)


def sample_grid(
    path: str | os.PathLike[str],
    images: Tensor,
    *,
    columns: int | None = None,
    value_range: tuple[float, float] = (0.0, 1.0),
) -> None:
    """Write a grid of images as a PNG file.

    Args:
        path: file to write; missing folders are made, an existing file is replaced.
        images, columns, value_range: see :func:`image_grid`.
    """
    write_png(path, image_grid(images, columns=columns, value_range=value_range))


def reconstruction_grid(
    path: str | os.PathLike[str],
    originals: Tensor,
    reconstructions: Tensor,
    *,
    columns: int | None = None,
    value_range: tuple[float, float] = (0.0, 1.0),
) -> None:
    """Write a PNG file with rows of originals, each over the row of their reconstructions.

    Args:
        path: file to write; missing folders are made, an existing file is replaced.
        originals, reconstructions: [N, C, H, W] of one shape, N at least 1, C 1 or 3.
        columns: images in a row; None: 8, or as many as there are.
        value_range: the values that stand for black and for white.

    Raises:
        ValueError: the shapes differ, are no images or none, or columns is below 1.
    """
    _check_some(originals)
    if originals.shape != reconstructions.shape:
        raise ValueError(
            f"reconstruction_grid: reconstructions are {list(reconstructions.shape)}, "
            f"expected {list(originals.shape)} as the originals"
        )
    columns = min(8 if columns is None else columns, len(originals))
    if columns < 1:
        raise ValueError(f"reconstruction_grid: columns is {columns}, expected at least 1")
    rows = 2 * math.ceil(len(originals) / columns)
    above, below = (
        to_cells(to_rgb(images, value_range), columns, rows) for images in (originals, reconstructions)
    )  # [N, h, w, 3]
    blocks = []
    for start in range(0, len(above), columns):
        pair = [tiled(cells[start : start + columns], columns, 2) for cells in (above, below)]
        blocks.append(np.concatenate([pair[0][:-2], pair[1]]))
    labels = [("original", INK), ("reconstruction", MUTED)]
    top, cell = 0, above.shape[1]
    font = font_beside(cell)
    margin = max(round(font.getlength(text)) for text, _ in labels) + 16
    gap = 12
    height = sum(len(block) for block in blocks) + gap * (len(blocks) - 1)
    picture = Image.new("RGB", (margin + blocks[0].shape[1], height), PAPER)
    draw = ImageDraw.Draw(picture)
    for block in blocks:
        picture.paste(Image.fromarray(block), (margin, top))
        for row, (text, colour) in enumerate(labels):
            middle = top + 2 + cell // 2 + row * (cell + 2)
            draw.text((margin - 8, middle), text, fill=colour, font=font, anchor="rm")
        top += len(block) + gap
    write_png(path, np.asarray(picture))


def interpolation_strip(
    path: str | os.PathLike[str],
    images: Tensor,
    *,
    ends: tuple[Tensor, Tensor] | None = None,
    labels: tuple[str, str] | None = None,
    value_range: tuple[float, float] = (0.0, 1.0),
) -> None:
    """Write a PNG file with the images of a path in one row, and where on the path each is below it.

    Args:
        path: file to write; missing folders are made, an existing file is replaced.
        images: [N, C, H, W] at equal steps from the first end to the second, N at least 1, C 1 or 3.
        ends: [C, H, W] each, the originals that the path leads between; they are set apart at its sides.
        labels: what to call the two originals; without originals, the two ends of the path.
        value_range: the values that stand for black and for white.

    Raises:
        ValueError: not such images, or none.
    """
    _check_some(images)
    count = len(images) + (0 if ends is None else 2)
    cells = to_cells(to_rgb(images, value_range), count, 1)  # [N, h, w, 3]
    parts = [cells]
    if ends is not None:
        first, last = (to_cells(to_rgb(end.unsqueeze(0), value_range), count, 1) for end in ends)
        parts = [first, cells, last]
    rows = [tiled(part, len(part), 2) for part in parts]
    places = [(f"{index / max(len(images) - 1, 1):.3g}", MUTED) for index in range(len(images))]
    texts = [places]
    if ends is not None:
        first_label, last_label = labels or ("A", "B")
        texts = [[(first_label, INK)], places, [(last_label, INK)]]
    elif labels is not None:
        places[0], places[-1] = ((label, INK) for label in labels)
    height, cell = rows[0].shape[0], cells.shape[2]
    font = font_beside(cell)
    gap, below = 12, round(1.8 * font.size)
    width = sum(row.shape[1] for row in rows) + gap * (len(rows) - 1)
    picture = Image.new("RGB", (width, height + below), PAPER)
    draw = ImageDraw.Draw(picture)
    left = 0
    for row, names in zip(rows, texts, strict=True):
        picture.paste(Image.fromarray(row), (left, 0))
        for index, (text, colour) in enumerate(names):
            middle = left + 2 + cell // 2 + index * (cell + 2)
            draw.text((middle, height + below // 2 - 2), fitted(text, font, cell), fill=colour, font=font, anchor="mm")
        left += row.shape[1] + gap
    write_png(path, np.asarray(picture))


def animation(
    path: str | os.PathLike[str],
    images: Tensor,
    *,
    seconds: float = 4.0,
    value_range: tuple[float, float] = (0.0, 1.0),
) -> None:
    """Write a GIF file that goes through the images and back, for ever, and rests a moment at both ends.

    Args:
        path: file to write; missing folders are made, an existing file is replaced.
        images: [N, C, H, W], N at least 1, C 1 or 3.
        seconds: the time from one end to the other; a frame lasts at least 0.02, below which viewers slow down.
        value_range: the values that stand for black and for white.

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
    with opened_target(path) as temporary:
        first.save(
            temporary,
            format="GIF",
            save_all=True,
            append_images=others,
            duration=durations if others else rest,
            loop=0,
        )


def write_image(path: str | os.PathLike[str], image: Tensor, *, value_range: tuple[float, float] = (0.0, 1.0)) -> None:
    """Write one image as a PNG file, pixel for pixel; a grey one has one channel.

    Args:
        path: file to write; missing folders are made, an existing file is replaced.
        image: [C, H, W], C 1 or 3.
        value_range: the values that stand for black and for white.

    Raises:
        ValueError: not such an image.
    """
    write_png(path, to_rgb(image.unsqueeze(0), value_range)[0])


def _check_some(images: Tensor) -> None:
    if images.ndim == 4 and len(images) == 0:
        raise ValueError("there is no image to draw")


def _frame(pixels: Pixels) -> Image.Image:
    """One frame of an animation, [H, W, 3], with a palette of its own."""
    factor = enlargement(max(pixels.shape[:2]), _FRAME, _LARGEST_FRAME)
    picture = Image.fromarray(scaled(pixels[None], min(factor, 1))[0])
    if is_grey(pixels):
        flat = picture.convert("L")  # 256 levels: exact
    else:
        palette = picture.quantize(256)
        flat = picture.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG)
    return flat.resize((flat.width * max(factor, 1), flat.height * max(factor, 1)), Image.Resampling.NEAREST)
