"""Rendered shapes with a known class and content, to learn and test image translation.

A class is an identity: a kind of shape, its colour and the background's colour. A content is a pose: the shape's place
and direction. Every class is rendered in every pose, so the true image of any class in any pose is known.
"""

from __future__ import annotations

import colorsys
import math

import numpy as np
from PIL import Image, ImageDraw

from sivae.data.images.base import PackedImages, Split

# Corners in units of the shape's half side, y downwards. No shape looks the same after a part of a full turn.
_CORNERS: dict[str, tuple[tuple[float, float], ...]] = {
    "triangle": ((0.0, -1.0), (0.7, 0.9), (-0.7, 0.9)),
    "arrow": ((0.0, -1.0), (0.9, 0.0), (0.35, 0.0), (0.35, 1.0), (-0.35, 1.0), (-0.35, 0.0), (-0.9, 0.0)),
    "L": ((-0.8, -1.0), (-0.2, -1.0), (-0.2, 0.4), (0.8, 0.4), (0.8, 1.0), (-0.8, 1.0)),
    "T": ((-0.9, -1.0), (0.9, -1.0), (0.9, -0.4), (0.3, -0.4), (0.3, 1.0), (-0.3, 1.0), (-0.3, -0.4), (-0.9, -0.4)),
    "house": ((0.0, -1.0), (0.9, -0.1), (0.6, -0.1), (0.6, 1.0), (-0.6, 1.0), (-0.6, -0.1), (-0.9, -0.1)),
}
KINDS = tuple(_CORNERS)
CLASSES, TEST_CLASSES = 120, 20
PLACES, TURNS = 4, 4  # places along each side; directions
CONTENTS = PLACES * PLACES * TURNS
RESOLUTION = 32

_SEED = 20210  # seeds the classes' colours
_SMOOTHING = 4  # samples along a pixel's side
_HALF_SIDE = 0.24  # half a shape's side, in sides of the image
_MARGIN = 0.28  # from a border to the nearest centre


def open_shapes(split: Split | None = None, *, resolution: int = RESOLUTION) -> PackedImages:
    """Render all classes in all poses, uint8 [N, R, R, 3], with the class and content of each image.

    Args:
        split: "test" is the last 20 of the 120 classes, "train" the others; None: all. So no training image shows the
            class of a test image.
        resolution: R.
    """
    chosen = {None: range(CLASSES), "train": range(CLASSES - TEST_CLASSES), "test": range(CLASSES)[-TEST_CLASSES:]}
    classes = np.array(chosen[split])
    kinds, colours = _classes()
    coverage = np.stack([_coverage(kind, content, resolution) for kind in KINDS for content in range(CONTENTS)])
    coverage = coverage.reshape(len(KINDS), CONTENTS, resolution, resolution, 1)  # [kind, content, R, R, 1]
    pixels = np.empty((len(classes), CONTENTS, resolution, resolution, 3), np.uint8)
    for row, index in enumerate(classes):
        front, behind = colours[index]
        pixels[row] = np.rint(255.0 * (behind + (front - behind) * coverage[kinds[index]]))
    names = tuple(f"{KINDS[kind]} {index}" for index, kind in enumerate(kinds))
    return PackedImages(
        pixels.reshape(-1, resolution, resolution, 3),
        np.repeat(np.arange(len(classes)), CONTENTS),
        name="shapes",
        class_names=tuple(names[index] for index in classes),
        contents=np.tile(np.arange(CONTENTS), len(classes)),
        content_names=tuple(_content_name(content) for content in range(CONTENTS)),
        part=split,
    )


def _classes() -> tuple[np.ndarray, np.ndarray]:
    """The kind of each class, int [K], and its colours, shape and background, float64 [K, 2, 3] in [0, 1]."""
    stream = np.random.Generator(np.random.Philox(_SEED))
    hues = stream.random(CLASSES)
    across = (hues + stream.uniform(0.25, 0.75, CLASSES)) % 1.0  # never near the shape's hue
    bright, dark = stream.uniform(0.75, 1.0, CLASSES), stream.uniform(0.2, 0.55, CLASSES)
    colours = [
        (colorsys.hsv_to_rgb(hue, 0.75, light), colorsys.hsv_to_rgb(other, 0.75, dim))
        for hue, other, light, dim in zip(hues, across, bright, dark, strict=True)
    ]
    return np.arange(CLASSES) % len(KINDS), np.array(colours)


def _pose(content: int) -> tuple[int, int, int]:
    """Row, column and number of quarter turns of a content."""
    place, turn = divmod(content, TURNS)
    return (*divmod(place, PLACES), turn)


def _content_name(content: int) -> str:
    row, column, turn = _pose(content)
    return f"row {row}, column {column}, turned {turn * 360 // TURNS}°"


def _coverage(kind: str, content: int, resolution: int) -> np.ndarray:
    """The share of each pixel that the shape covers, float64 [R, R]."""
    row, column, turn = _pose(content)
    x, y = (_MARGIN + (1.0 - 2.0 * _MARGIN) * place / (PLACES - 1) for place in (column, row))
    cos, sin = math.cos(math.tau * turn / TURNS), math.sin(math.tau * turn / TURNS)
    side = resolution * _SMOOTHING
    corners = [
        (side * (x + _HALF_SIDE * (cos * u - sin * v)), side * (y + _HALF_SIDE * (sin * u + cos * v)))
        for u, v in _CORNERS[kind]
    ]
    mask = Image.new("L", (side, side))
    ImageDraw.Draw(mask).polygon(corners, fill=255)
    fine = np.asarray(mask, np.float64).reshape(resolution, _SMOOTHING, resolution, _SMOOTHING)
    covered: np.ndarray = fine.mean((1, 3)) / 255.0
    return covered
