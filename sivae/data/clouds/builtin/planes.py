"""Build planes: a fuselage, wings that are swept, tapered and raised, tails, and engines or propellers."""

from __future__ import annotations

import math

import numpy as np

from sivae.data.clouds.builtin.draws import Draws
from sivae.data.clouds.builtin.loft import Triangles, circle, loft, mirrored, moved

# A profile of a wing from its front edge over the upper side and back, (along the chord, up) for thickness 1.
_ALONG = np.array([0.0, 0.03, 0.12, 0.3, 0.6, 1.0])
_UP = np.array([0.0, 0.25, 0.43, 0.5, 0.34, 0.02])
_WING = np.concatenate([np.stack([_ALONG, _UP], 1), np.stack([_ALONG, -0.7 * _UP], 1)[-1:0:-1]])


def plane(draws: Draws) -> Triangles:
    """A plane that flies to the front (+z)."""
    span, chord = draws.size(0.9, 1.8), draws.size(0.16, 0.34)
    sweep = draws.size(-0.02, 0.42)
    kind = draws.one_of("jet", "jet", "propeller")
    radius = draws.between(0.05, 0.085)
    length = draws.between(1.0, 1.5) if kind == "jet" else draws.between(0.85, 1.15)
    high = draws.chance(0.6 if kind == "propeller" else 0.2)
    if kind == "propeller":
        sweep *= 0.25
    taper = draws.between(0.25, 0.6) if kind == "jet" else draws.between(0.55, 1.0)
    rise = draws.between(0.02, 0.12) * (0.3 if high else 1.0)
    y, nose = (0.8 if high else -0.55) * radius, draws.between(0.3, 0.46) * length
    wing = _wing(span / 2, chord, taper, sweep * span / 1.5, rise * span / 2, 0.12)
    front = length / 2 - nose
    parts = [_fuselage(draws, length, radius, kind == "jet"), mirrored(moved(wing, (0.0, y, front)))]
    t_tail = draws.chance(0.25)
    parts.append(_tail(draws, length, radius, span, chord, sweep, t_tail))
    parts += _engines(draws, kind, length, radius, span, chord, (y, front, sweep), t_tail)
    return np.concatenate(parts)


def _fuselage(draws: Draws, length: float, radius: float, jet: bool) -> Triangles:
    """Rings along z, whose centres rise towards the tail."""
    nose, tail = draws.between(0.1, 0.2), draws.between(0.3, 0.45)
    place = np.array([0.0, 0.02, 0.07, 0.18, 0.4, 0.7, 1.0])
    ahead = np.sqrt(1.0 - (1.0 - place) ** 2) if jet else 0.35 + 0.65 * np.sqrt(1.0 - (1.0 - place) ** 2)
    behind = np.linspace(0.0, 1.0, 7)
    along = np.concatenate([nose * place, 1.0 - tail + tail * behind])
    wide = np.concatenate([np.clip(ahead, 0.04, None), 1.0 - 0.88 * behind**1.6])
    rise = np.concatenate([-0.15 * (1.0 - place), 0.75 * behind**1.6])
    unit = circle()
    deep = draws.between(1.0, 1.25)
    rings = np.stack(
        [
            radius * wide[:, None] * unit[:, 0],
            radius * (deep * wide[:, None] * unit[:, 1] + rise[:, None]),
            np.broadcast_to(length * (0.5 - along)[:, None], (len(along), len(unit))),
        ],
        2,
    )
    return loft(rings)


def _wing(reach: float, chord: float, taper: float, sweep: float, rise: float, thick: float) -> Triangles:
    """The right wing, its front edge at the origin where it meets the fuselage."""
    rings = []
    for share in (0.0, 0.45, 0.93, 1.0):
        size = chord * (1.0 - (1.0 - taper) * share) * (0.7 if share == 1.0 else 1.0)
        back = sweep * share + (0.15 * chord * taper if share == 1.0 else 0.0)
        profile = _WING * (1.0, thick)
        x = np.full(len(profile), reach * share)
        rings.append(np.stack([x, rise * share + size * profile[:, 1], -back - size * profile[:, 0]], 1))
    return loft(np.stack(rings))


def _tail(
    draws: Draws, length: float, radius: float, span: float, chord: float, sweep: float, t_tail: bool
) -> Triangles:
    height, wide = draws.between(0.16, 0.28), draws.between(0.16, 0.24) * span
    root = draws.between(0.55, 0.85) * chord
    lean = draws.between(0.4, 0.9) * height
    flat = _wing(wide, 0.75 * root, draws.between(0.45, 0.8), 0.6 * sweep * wide + 0.03, 0.0, 0.1)
    start = -length / 2 + root + 0.02
    fin = _wing(height, root, draws.between(0.35, 0.65), lean, 0.0, 0.1)
    fin = np.stack([fin[..., 1], fin[..., 0], fin[..., 2]], -1)  # stands up
    base = 0.7 * radius
    place = (0.0, base + height - 0.01, start - lean) if t_tail else (0.0, base, start - 0.1 * root)
    return np.concatenate([moved(fin, (0.0, base, start)), mirrored(moved(flat, place))])


def _engines(
    draws: Draws,
    kind: str,
    length: float,
    radius: float,
    span: float,
    chord: float,
    wing: tuple[float, float, float],
    t_tail: bool,
) -> list[Triangles]:
    y, front, sweep = wing
    size = draws.between(0.028, 0.045)
    long = draws.between(0.16, 0.24)
    if kind == "jet" and (t_tail or draws.chance(0.2)):  # at the tail
        return [mirrored(moved(_nacelle(size, long), (radius + 0.8 * size, 0.5 * radius, -0.22 * length)))]
    if kind == "jet":
        places = [0.34] if draws.chance(0.65) else [0.28, 0.52]
        parts = []
        for share in places:
            x = share * span / 2
            z = front - sweep * span / 1.5 * share
            parts.append(mirrored(moved(_nacelle(size, long), (x, y - 1.25 * size, z + 0.3 * long))))
        return parts
    if draws.chance(0.6):  # one propeller at the nose
        return [moved(_propeller(draws, 0.03), (0.0, -0.15 * radius, length / 2))]
    x = 0.32 * span / 2
    engine = np.concatenate([_nacelle(0.8 * size, 1.2 * long), moved(_propeller(draws, 0.02), (0.0, 0.0, 0.6 * long))])
    return [mirrored(moved(engine, (x, y, front - 0.05 * chord)))]


def _nacelle(radius: float, length: float) -> Triangles:
    """An open engine around z."""
    along, wide = np.array([0.5, 0.44, 0.15, -0.5]), np.array([0.86, 1.0, 1.0, 0.6])
    unit = circle(14)
    rings = np.concatenate(
        [radius * wide[:, None, None] * unit, np.broadcast_to(length * along[:, None, None], (4, 14, 1))], 2
    )
    return loft(rings, closed=False)


def _propeller(draws: Draws, hub: float) -> Triangles:
    blades, reach = draws.count(2, 4), draws.between(0.13, 0.2)
    unit = circle(12)
    along, wide = np.array([-0.02, 0.0, 0.025, 0.045]), np.array([1.0, 1.0, 0.75, 0.1])
    spinner = loft(
        np.concatenate([hub * wide[:, None, None] * unit, np.broadcast_to(along[:, None, None], (4, 12, 1))], 2)
    )
    blade = _wing(reach, 0.04, 0.6, 0.0, 0.0, 0.2)
    blade = np.stack([blade[..., 0], -blade[..., 2] - 0.02, blade[..., 1] + 0.01], -1)
    parts = [spinner]
    for index in range(blades):
        angle = math.tau * index / blades + 0.3
        turn = np.array([[math.cos(angle), math.sin(angle), 0], [-math.sin(angle), math.cos(angle), 0], [0, 0, 1]])
        parts.append(blade @ turn)
    return np.concatenate(parts)
