"""Draw point clouds as balls on a floor, seen from above and the side: grids as PNG, animations as GIF.

Balls are darker the nearer they are, and throw a soft shadow on the floor below the lowest of them. Every picture is
drawn larger and averaged, which smooths the edges. All clouds of one picture have one scale. Points that are not finite
are left out, and the picture of such a cloud has a magenta frame.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageColor, ImageDraw, ImageFilter
from torch import Tensor

from sivae.figures.grids import animation, labelled_grid, sample_grid
from sivae.figures.look import NAN, PAPER

Up = Literal["y", "z"]

_SIDE, _FRAME = 256, 320  # pixels of a cloud in a grid, and of a frame
_FINER = 4  # drawn so many times larger
_YAW, _PITCH = math.radians(-38.0), math.radians(24.0)  # the viewer stands to the right, and looks down
_SWING = math.radians(25.0)  # how far the viewer of an animation walks to each side
_DISTANCE = 3.2  # of the viewer, in extents of the clouds
_FILLED = 0.44  # extent of the clouds on the picture, in its sides
_BALL, _POINTS = 0.0155, 2048  # radius of a ball in extents, where a cloud has so many points
_FAINT = 28  # of 255: so faint a shadow is left out, whose edge the few colours of a GIF would show
_SHADES = 64  # from near to far
_NEAR, _MIDDLE, _FAR, _SHADOW = "#16405f", "#3a86ab", "#b9dbe4", "#dfe3e8"


def draw_clouds(
    clouds: Tensor, *, side: int = _SIDE, up: Up = "y", yaws: Sequence[float] | None = None, extent: float | None = None
) -> Tensor:
    """Draw clouds, each on a white picture of its own.

    Args:
        clouds: [N, P, 3], floating point, N and P at least 1.
        side: of a picture in pixels.
        up: the coordinate that points upwards: "y" in ShapeNet and the built-in shapes, "z" in ModelNet.
        yaws: angle in radians by which the viewer walks around each cloud from the usual place; None: 0.
        extent: distance from 0 that the pictures show; None: that of almost all points of the clouds.

    Returns:
        float32 [N, 3, side, side] in [0, 1], as the functions of :mod:`sivae.figures.grids` take images.

    Raises:
        ValueError: not such clouds, or none.
    """
    if clouds.ndim != 3 or clouds.shape[2] != 3 or 0 in clouds.shape:
        raise ValueError(f"draw_clouds: clouds are {list(clouds.shape)}, expected [N, P, 3] with at least one point")
    if up not in ("y", "z"):
        raise ValueError(f"draw_clouds: up = {up!r}, expected y or z")
    values = clouds.detach().cpu().double().numpy()
    if up == "z":
        values = values[..., [0, 2, 1]] * (1.0, 1.0, -1.0)
    reach = _extent(values) if extent is None else extent
    pictures = np.stack(
        [_picture(cloud / reach, side, 0.0 if yaws is None else yaws[row]) for row, cloud in enumerate(values)]
    )
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255.0


def cloud_grid(
    clouds: Tensor, path: str | os.PathLike[str], *, columns: int | None = None, side: int = _SIDE, up: Up = "y"
) -> None:
    """Write clouds row by row as a PNG file.

    Args:
        clouds: [N, P, 3], N and P at least 1.
        path: file to write.
        columns: clouds in a row; None makes the grid nearly square.
        side, up: as for :func:`draw_clouds`.

    Raises:
        ValueError: not such clouds, none, or columns below 1.
    """
    sample_grid(path, draw_clouds(clouds, side=side, up=up), columns=columns)


def cloud_rows(
    rows: Sequence[Tensor],
    path: str | os.PathLike[str],
    *,
    row_labels: Sequence[str] = (),
    group: int = 1,
    side: int = _SIDE,
    up: Up = "y",
) -> None:
    """Write rows of clouds with labels at the left as a PNG file, such as originals above their reconstructions.

    Args:
        rows: [N, P, 3] each, with any N and P from 1; all are drawn in one scale.
        path: file to write.
        row_labels: one for each row, or none at all.
        group: after so many rows comes a gap.
        side, up: as for :func:`draw_clouds`.

    Raises:
        ValueError: not such clouds, none, or another number of labels.
    """
    reach = max((_extent(row.detach().cpu().double().numpy()) for row in rows if row.numel()), default=1.0)
    pictures = [draw_clouds(row, side=side, up=up, extent=reach) for row in rows]
    labelled_grid(path, pictures, row_labels=row_labels, group=group)


def cloud_gif(
    clouds: Tensor, path: str | os.PathLike[str], *, seconds: float = 4.0, side: int = _FRAME, up: Up = "y"
) -> None:
    """Write a GIF file that goes through the clouds and back, for ever, while the viewer walks to the other side.

    Args:
        clouds: [T, P, 3], T and P at least 1.
        path: file to write.
        seconds: the time from the first cloud to the last.
        side, up: as for :func:`draw_clouds`.

    Raises:
        ValueError: not such clouds, or none.
    """
    yaws = [float(yaw) for yaw in -_SWING * np.cos(np.linspace(0.0, math.pi, len(clouds)))] if len(clouds) > 1 else None
    animation(path, draw_clouds(clouds, side=side, up=up, yaws=yaws), seconds=seconds)


def _extent(clouds: NDArray[np.float64]) -> float:
    """The distance from 0 within which all but the farthest hundredth of each cloud is."""
    distances = np.linalg.norm(clouds, axis=-1)
    distances[~np.isfinite(distances)] = 0.0
    return max(1.04 * float(np.quantile(distances, 0.99, axis=-1).max()), 1e-12)


def _picture(cloud: NDArray[np.float64], side: int, yaw: float) -> NDArray[np.uint8]:
    """Draw a cloud whose extent is 1: uint8 [side, side, 3]."""
    finite = np.isfinite(cloud).all(1) & (np.abs(cloud) < 1e3).all(1)
    points = cloud[finite]
    large = side * _FINER
    picture = Image.new("RGB", (large, large), PAPER)
    if len(points):
        radius = _BALL * min(2.0, max(0.5, math.sqrt(_POINTS / len(points))))
        floor = points.copy()
        floor[:, 1] = float(np.quantile(points[:, 1], 0.005)) - radius
        _draw_shadow(picture, _seen(floor, yaw), radius)
        _draw_balls(picture, _seen(points, yaw), radius)
    picture = picture.resize((side, side), Image.Resampling.BOX)
    if not finite.all():
        ImageDraw.Draw(picture).rectangle((0, 0, side - 1, side - 1), outline=NAN, width=3)
    return np.asarray(picture)


def _seen(points: NDArray[np.float64], yaw: float) -> NDArray[np.float64]:
    """Where points are for the viewer, [n, 3]: right, down, and the factor of sizes, which is larger when nearer."""
    cos, sin = math.cos(_YAW + yaw), math.sin(_YAW + yaw)
    right, back = cos * points[:, 0] + sin * points[:, 2], -sin * points[:, 0] + cos * points[:, 2]
    cos, sin = math.cos(_PITCH), math.sin(_PITCH)
    above, near = cos * points[:, 1] - sin * back, sin * points[:, 1] + cos * back
    nearer = _DISTANCE / np.maximum(_DISTANCE - near, 0.1)
    return np.stack([right * nearer, -above * nearer, nearer], 1)


def _circles(seen: NDArray[np.float64], radius: float, large: int) -> NDArray[np.float64]:
    """Boxes around circles in pixels, [n, 4]."""
    centre = large / 2 + _FILLED * large * seen[:, :2]
    reach = (_FILLED * large * radius * seen[:, 2])[:, None]
    return np.concatenate([centre - reach, centre + reach], 1)


def _draw_shadow(picture: Image.Image, seen: NDArray[np.float64], radius: float) -> None:
    coarse = picture.width // _FINER
    mask = Image.new("L", (coarse, coarse))
    draw = ImageDraw.Draw(mask)
    for circle in _circles(seen, 1.6 * radius, coarse).tolist():
        draw.ellipse(circle, fill=255)
    mask = mask.filter(ImageFilter.GaussianBlur(0.028 * coarse))
    mask = mask.point([max(0, level - _FAINT) * 255 // (255 - _FAINT) for level in range(256)])
    mask = mask.resize(picture.size, Image.Resampling.BILINEAR)
    picture.paste(Image.new("RGB", picture.size, _SHADOW), mask=mask)


def _draw_balls(picture: Image.Image, seen: NDArray[np.float64], radius: float) -> None:
    """Draw from far to near; each ball has a darker rim and a light upper left."""
    draw = ImageDraw.Draw(picture)
    order = np.argsort(seen[:, 2], kind="stable")
    farthest, nearest = _DISTANCE / (_DISTANCE + 0.8), _DISTANCE / (_DISTANCE - 0.8)
    place = np.clip((seen[order, 2] - farthest) / (nearest - farthest), 0.0, 1.0)
    whole = _circles(seen[order], radius, picture.width)
    size = (whole[:, 2:] - whole[:, :2]) / 2
    inner = whole + np.concatenate([0.1 * size, -0.3 * size], 1)
    spark = whole + np.concatenate([0.45 * size, -1.0 * size], 1)
    colours = _shades()
    for shade, rim, body, light in zip(
        (place * (_SHADES - 1)).round().astype(int).tolist(),
        whole.tolist(),
        inner.tolist(),
        spark.tolist(),
        strict=True,
    ):
        dark, plain, bright = colours[shade]
        draw.ellipse(rim, fill=dark)
        draw.ellipse(body, fill=plain)
        draw.ellipse(light, fill=bright)


def _shades() -> list[tuple[tuple[int, int, int], ...]]:
    """The colours of a ball's rim, body and light, from the farthest to the nearest."""
    anchors = np.array([ImageColor.getrgb(colour)[:3] for colour in (_FAR, _MIDDLE, _NEAR)], float)
    places = np.linspace(0.0, 1.0, _SHADES)
    body = np.stack([np.interp(places, (0.0, 0.5, 1.0), anchors[:, channel]) for channel in range(3)], 1)
    three = np.stack([0.82 * body, body, body + 0.3 * (255.0 - body)], 1).round().astype(int)
    return [tuple((int(r), int(g), int(b)) for r, g, b in shade) for shade in three]
