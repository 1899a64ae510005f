"""Build lamps: on a table, on the floor, on a bent or jointed arm, and hanging, with shades of several forms."""

from __future__ import annotations

import math

import numpy as np

from sivae.data.clouds.builtin.draws import Draws
from sivae.data.clouds.builtin.loft import Triangles, beam, box, moved, tilted, tube, turned


def lamp(draws: Draws) -> Triangles:
    """A lamp; arms reach to the front (+z)."""
    height, wide = draws.size(0.7, 1.5), draws.size(0.16, 0.34)
    tall = wide * draws.size(0.8, 1.9)
    kind = draws.one_of("stem", "stem", "arc", "desk", "pendant")
    return _KINDS[kind](draws, height, wide, tall)


def _shade(draws: Draws, wide: float, tall: float) -> Triangles:
    """A shade that is open below, with the lamp's end at the origin, in the middle of the shade."""
    kind = draws.one_of("cone", "cone", "drum", "dome", "globe", "bell")
    if kind == "globe":
        angles = np.linspace(0.12, math.pi - 0.02, 12)
        radius = 0.8 * wide
        return turned([(radius * math.sin(a), -radius * math.cos(a)) for a in angles], closed=False)
    if kind == "dome":
        angles = np.linspace(0.02, math.pi / 2, 9)
        return turned([(wide * math.sin(a), 0.75 * wide * math.cos(a) - 0.3 * wide) for a in angles], closed=False)
    low, high = -tall / 2, tall / 2
    top = {"cone": draws.between(0.3, 0.7), "drum": draws.between(0.85, 1.0), "bell": draws.between(0.2, 0.4)}[kind]
    steps = np.linspace(0.0, 1.0, 7)
    bend = steps if kind != "bell" else 1.0 - (1.0 - steps) ** 2.2
    rim = [(wide * (1.0 + (top - 1.0) * b), low + (high - low) * s) for b, s in zip(bend, steps, strict=True)]
    ring = turned(rim, closed=False)
    # Spokes hold the shade.
    spokes = [beam((0, high - 0.02, 0), (c * top * wide, high - 0.02, s * top * wide), 0.006) for c, s in _THIRDS]
    return np.concatenate([ring, *spokes])


_THIRDS = [(math.cos(a), math.sin(a)) for a in (0.5, 0.5 + math.tau / 3, 0.5 + 2 * math.tau / 3)]


def _foot(draws: Draws, wide: float) -> Triangles:
    radius, thick = wide * draws.between(0.55, 0.95), draws.between(0.015, 0.04)
    kind = draws.one_of("disc", "cone", "square", "tripod")
    if kind == "disc":
        return turned([(radius, 0.0), (radius, thick), (0.9 * radius, 1.3 * thick)])
    if kind == "cone":
        return turned([(radius, 0.0), (radius, 0.4 * thick), (0.4 * radius, 2.0 * thick), (0.03, 4.0 * thick)])
    if kind == "square":
        return box((0.0, thick / 2, 0.0), (1.7 * radius, thick, 1.7 * radius))
    rise = draws.between(0.12, 0.3)
    legs = [beam((0, rise, 0), (1.1 * radius * c, 0, 1.1 * radius * s), 0.014, 0.01) for c, s in _THIRDS]
    return np.concatenate([*legs, beam((0, 0.9 * rise, 0), (0, 1.1 * rise, 0), 0.02)])


def _stem(draws: Draws, height: float, wide: float, tall: float) -> Triangles:
    """A lamp on a straight or turned stem."""
    thin = draws.between(0.011, 0.02)
    parts = [_foot(draws, wide), moved(_shade(draws, wide, tall), (0.0, height, 0.0))]
    if draws.chance(0.45) and height < 1.15:  # a vase
        belly, place = draws.between(0.35, 0.7) * wide, draws.between(0.2, 0.5)
        top = height - 0.5 * tall
        profile = [(0.45 * belly, 0.0)]
        for share in np.linspace(0.1, 1.0, 9):
            swell = math.exp(-(((share - place) / 0.28) ** 2))
            profile.append((thin + (belly - thin) * swell, share * top))
        parts.append(turned([*profile, (thin, height + 0.3 * tall)]))
    else:
        parts.append(beam((0.0, 0.0, 0.0), (0.0, height + 0.3 * tall, 0.0), thin))
    return np.concatenate(parts)


def _arc(draws: Draws, height: float, wide: float, tall: float) -> Triangles:
    """A floor lamp on a bow."""
    reach = draws.between(0.35, 0.75) * height
    turn = draws.between(0.8, 1.0) * math.pi
    angles = np.linspace(0.0, turn, 14)
    rise = 0.62 * height
    bow = np.stack([np.zeros(14), rise + (height - rise) * np.sin(angles), reach / 2 * (1 - np.cos(angles))], 1)
    path = np.concatenate([[(0.0, 0.0, 0.0)], bow])
    thin = draws.between(0.011, 0.018)
    shade = 0.75 * _shade(draws, wide, tall)
    return np.concatenate([_foot(draws, wide), tube(path, thin), moved(shade, bow[-1] - (0.0, 0.15 * tall, 0.0))])


def _desk(draws: Draws, height: float, wide: float, tall: float) -> Triangles:
    """A lamp with a jointed arm."""
    back, ahead = draws.between(0.1, 0.5), draws.between(0.5, 1.1)
    lower, upper = 0.55 * height, draws.between(0.4, 0.6) * height
    elbow = np.array([0.0, 0.03 + lower * math.cos(back), -lower * math.sin(back)])
    end = elbow + np.array([0.0, upper * math.cos(ahead), upper * math.sin(ahead)])
    thin = draws.between(0.01, 0.017)
    joint = np.array([2.2 * thin, 0.0, 0.0])
    shade = tilted(0.8 * _shade(draws, wide, tall), draws.between(0.0, 0.7), (0.0, 0.0, 0.0))
    arms = [beam((0.0, 0.0, 0.0), elbow, thin), beam(elbow, end, thin)]
    knee = beam(elbow - joint, elbow + joint, 2.2 * thin)
    return np.concatenate([_foot(draws, wide), *arms, knee, moved(shade, end - (0.0, 0.1 * tall, 0.0))])


def _pendant(draws: Draws, height: float, wide: float, tall: float) -> Triangles:
    """A lamp that hangs from the ceiling, maybe with several shades."""
    rose = turned([(0.07, height), (0.07, height - 0.02), (0.02, height - 0.05)])
    if draws.chance(0.65):
        cord = beam((0, height, 0), (0, 0.25 * tall, 0), 0.008)
        return np.concatenate([rose, cord, _shade(draws, wide, tall)])
    arms, reach = draws.count(3, 6), draws.between(1.3, 2.0) * wide
    shade = 0.5 * _shade(draws, wide, tall)
    parts = [rose, beam((0, height, 0), (0, 0.35 * height, 0), 0.014)]
    parts.append(turned([(0.02, 0.3 * height), (0.06, 0.36 * height), (0.02, 0.44 * height)]))
    for index in range(arms):
        angle = math.tau * index / arms
        steps = np.linspace(0.0, 1.0, 8)
        path = np.stack(
            [
                math.cos(angle) * reach * steps,
                0.36 * height - 0.09 * np.sin(math.pi * steps) + 0.05 * steps,
                math.sin(angle) * reach * steps,
            ],
            1,
        )
        parts += [tube(path, 0.01), moved(shade, path[-1] - (0.0, 0.12 * tall, 0.0))]
    return np.concatenate(parts)


_KINDS = {"stem": _stem, "arc": _arc, "desk": _desk, "pendant": _pendant}
