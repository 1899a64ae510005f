"""Build surfaces of triangles from rings of points: boxes, cylinders, turned profiles, bent tubes and wings.

A solid here is an array of triangles, float64 [F, 3, 3]. Coordinates are x to the right, y upwards, z to the front.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Triangles = NDArray[np.float64]
Points = NDArray[np.float64]

ROUND = 20  # corners of a circle, which then is at most 1.3 % of its radius inside the true one
_SQUARE = np.array([(1.0, 1.0), (-1.0, 1.0), (-1.0, -1.0), (1.0, -1.0)])


def loft(rings: Points, *, closed: bool = True) -> Triangles:
    """Join rings of equally many points, each with the next.

    Args:
        rings: [K, M, 3], K at least 2; the last point of a ring is joined with its first.
        closed: whether the first and the last ring are filled.
    """
    lower, upper = rings[:-1], rings[1:]
    after = np.roll(lower, -1, axis=1), np.roll(upper, -1, axis=1)
    sides = np.stack(
        [np.stack([lower, after[0], upper], 2), np.stack([upper, after[0], after[1]], 2)]  # [K - 1, M, 3, 3]
    )
    parts = [sides.reshape(-1, 3, 3)]
    if closed:
        parts += [_filled(rings[0]), _filled(rings[-1])]
    return np.concatenate(parts)


def _filled(ring: Points) -> Triangles:
    """The area within a ring that is seen whole from its centre."""
    return np.stack([ring, np.roll(ring, -1, axis=0), np.broadcast_to(ring.mean(0), ring.shape)], 1)


def circle(corners: int = ROUND) -> Points:
    """A circle of radius 1 in the plane, [M, 2]."""
    angles = math.tau * np.arange(corners) / corners
    return np.stack([np.cos(angles), np.sin(angles)], 1)


def superellipse(power: float, corners: int = 36) -> Points:
    """|x|^p + |y|^p = 1 in the plane, [M, 2]: an ellipse for p = 2, nearly a rectangle for 8."""
    unit = circle(corners)
    bent: Points = np.sign(unit) * np.abs(unit) ** (2.0 / power)
    return bent


def box(centre: ArrayLike, size: ArrayLike, *, top: float = 1.0, lean: float = 0.0) -> Triangles:
    """A box with sides along the axes.

    Args:
        centre, size: [3].
        top: width and depth of its upper side, in those of the lower.
        lean: how far the upper side is moved along z.
    """
    middle, (width, height, depth) = np.asarray(centre, float), np.asarray(size, float) / 2
    lower = np.column_stack([_SQUARE[:, 0] * width, np.full(4, -height), _SQUARE[:, 1] * depth])
    upper = lower * (top, -1.0, top) + (0.0, 0.0, lean)
    return loft(np.stack([lower, upper]) + middle)


def beam(
    start: ArrayLike, end: ArrayLike, radius: float, end_radius: float | None = None, *, square: bool = False
) -> Triangles:
    """A straight rod from one point to another, round or square, which may taper."""
    radii = (radius, radius if end_radius is None else end_radius)
    return tube(np.array([start, end], float), radii, square=square)


def tube(path: Points, radii: float | Sequence[float] | Points, *, square: bool = False) -> Triangles:
    """A tube along a path.

    Args:
        path: [K, 3], K at least 2, which has no corner of more than 120 degrees.
        radii: one, or one at each point of the path.
        square: whether it has four corners instead of a round section.
    """
    path = np.asarray(path, float)
    steps = np.diff(path, axis=0)
    along = np.concatenate([steps[:1], steps[:-1] + steps[1:], steps[-1:]])
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    # The axis that the path never runs along keeps the rings from turning against each other.
    aside = np.eye(3)[np.abs(along).max(0).argmin()]
    first = np.cross(along, aside)
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    second = np.cross(along, first)
    section = _SQUARE if square else circle(12)
    scale = np.broadcast_to(np.asarray(radii, float), len(path))[:, None, None]
    rings = path[:, None] + scale * (section[:, :1] * first[:, None] + section[:, 1:] * second[:, None])
    return loft(rings)


def turned(profile: Sequence[tuple[float, float]], *, closed: bool = True, corners: int = ROUND) -> Triangles:
    """A profile of (radius, height) turned about the y axis."""
    radius, height = np.array(profile, float).T
    unit = circle(corners)
    across = radius[:, None, None] * unit  # [K, M, 2]
    rings = np.stack([across[..., 0], np.broadcast_to(height[:, None], across.shape[:2]), across[..., 1]], 2)
    return loft(rings, closed=closed)


def plate(outline: Points, low: float, high: float, size: tuple[float, float] = (1.0, 1.0)) -> Triangles:
    """An outline [M, 2] in x and z, seen whole from its centre, between two heights."""
    flat = outline * size
    rings = [np.insert(flat, 1, height, axis=1) for height in (low, high)]
    return loft(np.stack(rings))


def moved(solid: Triangles, by: ArrayLike) -> Triangles:
    """A solid moved by a vector [3]."""
    shifted: Triangles = solid + np.asarray(by, float)
    return shifted


def spun(solid: Triangles, angle: float) -> Triangles:
    """A solid turned about the y axis by an angle in radians."""
    cos, sin = math.cos(angle), math.sin(angle)
    turn = np.array([[cos, 0.0, -sin], [0.0, 1.0, 0.0], [sin, 0.0, cos]])
    rotated: Triangles = solid @ turn
    return rotated


def tilted(solid: Triangles, angle: float, around: ArrayLike) -> Triangles:
    """A solid turned about the x axis through a point by an angle in radians; upper parts move to the back."""
    cos, sin = math.cos(angle), math.sin(angle)
    turn = np.array([[1.0, 0.0, 0.0], [0.0, cos, -sin], [0.0, sin, cos]])
    centre = np.asarray(around, float)
    rotated: Triangles = (solid - centre) @ turn + centre
    return rotated


def mirrored(solid: Triangles) -> Triangles:
    """A solid and its mirror image at the plane x = 0."""
    return np.concatenate([solid, solid * (-1.0, 1.0, 1.0)])
