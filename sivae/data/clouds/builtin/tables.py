"""Build tables: rectangular, rounded or round tops on four legs, a turned column, trestles or panels."""

from __future__ import annotations

import math

import numpy as np

from sivae.data.clouds.builtin.draws import Draws
from sivae.data.clouds.builtin.loft import Triangles, beam, box, mirrored, moved, plate, spun, superellipse, turned


def table(draws: Draws) -> Triangles:
    """A table with its longer side along x."""
    length, height = draws.size(0.7, 1.7), draws.size(0.32, 0.8)
    depth = length * draws.size(0.45, 1.0)
    thick = draws.between(0.02, 0.06)
    base = draws.one_of("four legs", "four legs", "four legs", "column", "trestles", "panels")
    power = draws.between(2.0, 2.6) if base == "column" or draws.chance(0.25) else draws.between(8.0, 30.0)
    top = plate(superellipse(power, 48), height - thick, height, (length / 2, depth / 2))
    # Legs of a round top stand where it covers them.
    inside = 2.0 ** (-1.0 / power) if power < 6.0 else 0.97
    return np.concatenate([top, _BASES[base](draws, inside * length / 2, inside * depth / 2, height - thick)])


def _four_legs(draws: Draws, x: float, z: float, height: float) -> Triangles:
    radius, end = draws.between(0.022, 0.05), draws.between(0.45, 1.0)
    out, square, inset = draws.between(0.0, 0.06), draws.chance(0.6), draws.between(0.0, 0.06)
    x, z = x - radius - inset, z - radius - inset
    leg = beam((x, height, z), (x + out, 0.0, z + out), radius, radius * end, square=square)
    parts = [mirrored(leg), mirrored(leg * (1.0, 1.0, -1.0))]
    if draws.chance(0.6):  # the frame below the top
        deep = draws.between(0.05, 0.12)
        parts += [box((0.0, height - deep / 2, side * z), (2 * x, deep, 0.022)) for side in (-1, 1)]
        parts += [box((side * x, height - deep / 2, 0.0), (0.022, deep, 2 * z)) for side in (-1, 1)]
    if draws.chance(0.25):  # a shelf
        y = draws.between(0.15, 0.4) * height
        reach = out * (1 - y / height)
        parts.append(box((0.0, y, 0.0), (2 * (x + reach), 0.022, 2 * (z + reach))))
    elif draws.chance(0.3):  # stretchers in the form of an H
        y = draws.between(0.12, 0.35) * height
        reach = out * (1 - y / height)
        parts.append(mirrored(beam((x + reach, y, -z - reach), (x + reach, y, z + reach), 0.5 * radius, square=True)))
        parts.append(beam((-x - reach, y, 0.0), (x + reach, y, 0.0), 0.5 * radius, square=True))
    return np.concatenate(parts)


def _column(draws: Draws, x: float, z: float, height: float) -> Triangles:
    thin, bulge = draws.between(0.03, 0.06), draws.between(1.0, 2.0)
    foot = draws.between(0.55, 0.95) * min(x, z)
    if draws.chance(0.5):  # a round foot
        profile = [(foot, 0.0), (foot, 0.02), (0.45 * foot, 0.05), (thin, 0.14 * height)]
        profile += [(bulge * thin, 0.35 * height), (thin, 0.65 * height), (1.6 * thin, height)]
        return turned(profile)
    feet = draws.count(3, 4)
    column = turned(
        [(1.4 * thin, 0.16 * height), (bulge * thin, 0.4 * height), (thin, 0.7 * height), (1.6 * thin, height)]
    )
    leg = beam((0.0, 0.24 * height, 0.0), (0.0, 0.02, foot), 0.8 * thin, 0.45 * thin)
    turn = math.pi / 4 if feet == 4 else 0.0
    return np.concatenate([column, *(spun(leg, turn + math.tau * index / feet) for index in range(feet))])


def _trestles(draws: Draws, x: float, z: float, height: float) -> Triangles:
    """Two pairs of crossed or spread legs, joined by a beam."""
    radius, inset = draws.between(0.018, 0.035), draws.between(0.08, 0.25) * x
    spread = 0.85 * z
    upper = -spread if draws.chance(0.5) else draws.between(0.15, 0.5) * spread
    place = x - inset
    legs = [beam((place, height, side * upper), (place, 0.0, side * spread), radius, square=True) for side in (-1, 1)]
    y = height / 2 if upper < 0 else draws.between(0.5, 0.85) * height
    bar = beam((-place, y, 0.0), (place, y, 0.0), 0.8 * radius, square=True)
    parts = [mirrored(np.concatenate(legs)), bar]
    if upper > 0:
        reach = spread + (upper - spread) * y / height
        parts.append(mirrored(beam((place, y, -reach), (place, y, reach), 0.8 * radius, square=True)))
    return np.concatenate(parts)


def _panels(draws: Draws, x: float, z: float, height: float) -> Triangles:
    """Two sides, maybe with a back or drawers, as of a desk."""
    thick, inset = draws.between(0.022, 0.05), draws.between(0.0, 0.12)
    place = x - thick / 2 - inset
    parts = [mirrored(box((place, height / 2, 0.0), (thick, height, 1.9 * z)))]
    kind = draws.one_of("back", "drawers", "shelf")
    if kind == "back":
        share = draws.between(0.4, 0.9)
        parts.append(box((0.0, height * (1 - share / 2), -0.8 * z), (2 * place, height * share, 0.022)))
    elif kind == "drawers":
        wide, share = draws.between(0.35, 0.6) * x, draws.between(0.5, 0.95)
        block = box((0.0, 0.0, 0.0), (wide, height * share, 1.85 * z))
        parts.append(moved(block, (place - wide / 2, height * (1 - share / 2), 0.0)))
    else:
        parts.append(box((0.0, draws.between(0.2, 0.55) * height, 0.0), (2 * place, 0.022, 1.7 * z)))
    return np.concatenate(parts)


_BASES = {"four legs": _four_legs, "column": _column, "trestles": _trestles, "panels": _panels}
