"""Build chairs: with four legs, a star base or runners, backs of panels, slats, rails or a frame, and arms."""

from __future__ import annotations

import math

import numpy as np

from sivae.data.clouds.builtin.draws import Draws
from sivae.data.clouds.builtin.loft import (
    Triangles,
    beam,
    box,
    loft,
    mirrored,
    moved,
    plate,
    spun,
    superellipse,
    tilted,
    tube,
)


def chair(draws: Draws) -> Triangles:
    """A chair that looks to the front (+z)."""
    width, depth = draws.size(0.42, 0.66), draws.between(0.42, 0.6)
    back_height, seat_height = draws.size(0.3, 0.75), draws.size(0.3, 0.55)
    thick = draws.between(0.025, 0.08)
    base = draws.one_of("four legs", "four legs", "four legs", "star", "runners")
    parts = [_seat(draws, width, depth, seat_height, thick), _BASES[base](draws, width, depth, seat_height - thick)]
    kind = draws.one_of("panel", "slats", "rails", "frame")
    lean = draws.between(0.02, 0.28)
    back = _BACKS[kind](draws, width, back_height)
    hinge = (0.0, seat_height, -depth / 2)
    parts.append(tilted(moved(back, (0.0, seat_height - thick / 2, -depth / 2 + 0.02)), lean, hinge))
    if draws.chance(0.4):
        parts.append(_arms(draws, width, depth, seat_height, min(0.24, 0.7 * back_height), lean))
    return np.concatenate(parts)


def _seat(draws: Draws, width: float, depth: float, height: float, thick: float) -> Triangles:
    outline = superellipse(draws.between(3.0, 12.0))
    narrow = 1.0 - draws.between(0.0, 0.18) * (0.5 - outline[:, 1] / 2)  # towards the back
    outline = outline * np.stack([narrow, np.ones_like(narrow)], 1)
    return plate(outline, height - thick, height, (width / 2, depth / 2))


def _four_legs(draws: Draws, width: float, depth: float, height: float) -> Triangles:
    radius, end = draws.between(0.016, 0.032), draws.between(0.55, 1.0)
    out, square = draws.between(-0.01, 0.07), draws.chance(0.5)
    x, z = width / 2 - radius - 0.02, depth / 2 - radius - 0.02
    x_back = x - 0.03
    front = beam((x, height, z), (x + out, 0.0, z + out), radius, radius * end, square=square)
    back = beam((x_back, height, -z), (x_back + out, 0.0, -z - 1.3 * out), radius, radius * end, square=square)
    parts = [mirrored(front), mirrored(back)]
    if draws.chance(0.45):  # stretchers
        y = draws.between(0.25, 0.5) * height
        left, middle = x + out * (1 - y / height), z + out * (1 - y / height)
        parts.append(mirrored(beam((left, y, middle), (left - 0.03, y, -middle), 0.6 * radius)))
        if draws.chance(0.5):
            parts.append(beam((-left + 0.015, y, 0.0), (left - 0.015, y, 0.0), 0.6 * radius))
    return np.concatenate(parts)


def _star(draws: Draws, width: float, depth: float, height: float) -> Triangles:
    feet, radius = draws.count(4, 5), draws.between(0.6, 0.75) * min(width, depth)
    column = draws.between(0.025, 0.045)
    top = 0.3 * height
    foot = beam((0.0, top * 0.75, 0.0), (0.0, 0.035, radius), column, 0.6 * column)
    wheel = beam((-0.02, 0.025, radius), (0.02, 0.025, radius), 0.028)
    one = np.concatenate([foot, wheel])
    parts = [spun(one, math.tau * index / feet) for index in range(feet)]
    parts.append(beam((0.0, 0.4 * top, 0.0), (0.0, height, 0.0), 1.15 * column, column))
    return np.concatenate(parts)


def _runners(draws: Draws, width: float, depth: float, height: float) -> Triangles:
    """Two loops of bent tube at the sides, joined below the seat."""
    radius, x, z = draws.between(0.013, 0.022), width / 2 - 0.03, depth / 2 - 0.03
    front, behind = draws.between(-0.02, 0.05), draws.between(0.0, 0.08)
    corner = 0.06
    path = np.array([
        (x, height, z),
        (x, corner, z + front),
        (x, 0.3 * corner, z + front - 0.3 * corner),
        (x, 0.0, z + front - corner),
        (x, 0.0, -z - behind + corner),
        (x, 0.3 * corner, -z - behind + 0.3 * corner),
        (x, corner, -z - behind),
        (x, height, -z),
    ])  # fmt: skip
    bars = [beam((-x, height, side * z), (x, height, side * z), radius) for side in (-1, 1)]
    return np.concatenate([mirrored(tube(path, radius)), *bars])


def _panel(draws: Draws, width: float, height: float) -> Triangles:
    """A panel that is bent about the sitter, with round upper corners."""
    bend, thick = draws.between(0.0, 0.09), draws.between(0.02, 0.05)
    power, lowest = draws.between(2.6, 9.0), draws.between(0.0, 0.3)
    rows = np.linspace(0.0, 1.0, 13)
    half = np.clip(1.0 - np.clip((rows - 0.45) / 0.55, 0.0, 1.0) ** power, 0.02, None) ** (1.0 / power) * width / 2
    across = np.linspace(-1.0, 1.0, 9)
    y = height * (lowest + (1.0 - lowest) * rows)
    front = _bent(half[:, None] * across, y, width, bend)
    behind = front[:, ::-1] - (0.0, 0.0, thick)
    return loft(np.concatenate([front, behind], axis=1))


def _bent(x: np.ndarray, y: np.ndarray, width: float, bend: float) -> np.ndarray:
    """Points of a back at x [K, M] and heights y [K]: its sides come forward by `bend`."""
    z = bend * (2.0 * x / width) ** 2
    bent: np.ndarray = np.stack([x, np.broadcast_to(y[:, None], x.shape), z], 2)
    return bent


def _posts(draws: Draws, width: float, height: float) -> tuple[list[Triangles], float]:
    radius = draws.between(0.014, 0.026)
    x = width / 2 - radius - 0.02
    square = draws.chance(0.5)
    return [mirrored(beam((x, 0.0, 0.0), (x, height, 0.0), radius, square=square))], x


def _slats(draws: Draws, width: float, height: float) -> Triangles:
    parts, x = _posts(draws, width, height)
    rail = draws.between(0.05, 0.12)
    thin, count, low = 0.012, draws.count(3, 7), draws.between(0.05, 0.25) * height
    parts.append(box((0.0, height - rail / 2, 0.0), (2 * x, rail, 0.03)))
    parts.append(box((0.0, low, 0.0), (2 * x, 0.04, 0.025)))
    slat = draws.between(0.3, 0.6) * 2 * x / (count + 1)
    for place in np.linspace(-x, x, count + 2)[1:-1]:
        parts.append(box((place, (low + height - rail) / 2, 0.0), (slat, height - rail - low, thin)))
    return np.concatenate(parts)


def _rails(draws: Draws, width: float, height: float) -> Triangles:
    parts, x = _posts(draws, width, height)
    count, share, bend = draws.count(2, 5), draws.between(0.35, 0.7), draws.between(0.0, 0.07)
    pitch = 0.85 * height / count
    across = np.linspace(-x, x, 9)
    for place in np.arange(count):
        top = height - 0.01 - place * pitch
        y = np.array([top - share * pitch, top])
        front = _bent(np.stack([across, across]), y, 2 * x, bend) - (0.0, 0.0, bend)
        parts.append(loft(np.concatenate([front, front[:, ::-1] - (0.0, 0.0, 0.016)], axis=1)))
    return np.concatenate(parts)


def _frame(draws: Draws, width: float, height: float) -> Triangles:
    """A bent tube around a panel of cloth."""
    radius, corner = draws.between(0.014, 0.024), draws.between(0.05, 0.14)
    x = width / 2 - radius
    angles = np.linspace(0.0, math.pi / 2, 6)
    bend = np.stack([x - corner + corner * np.cos(angles), height - corner + corner * np.sin(angles)], 1)
    side = np.concatenate([[(x, 0.0)], bend])
    outline = np.concatenate([side, side[::-1] * (-1.0, 1.0)])
    low = draws.between(0.1, 0.55)
    cloth = box((0.0, height * (1 + low) / 2 - 0.01, 0.0), (2 * x, height * (1 - low) - 0.04, 0.018))
    return np.concatenate([tube(np.insert(outline, 2, 0.0, axis=1), radius), cloth])


def _arms(draws: Draws, width: float, depth: float, seat: float, rise: float, lean: float) -> Triangles:
    radius, wide = draws.between(0.014, 0.022), draws.between(0.03, 0.07)
    x, y = width / 2 + 0.5 * wide - 0.01, seat + rise
    front = depth / 2 - draws.between(0.03, 0.14)
    behind = -depth / 2 - math.tan(lean) * rise + 0.01
    rest = box((x, y, (front + behind) / 2), (wide, 0.03, front - behind + 0.02))
    post = beam((x, seat - 0.05, front - 0.03), (x, y, front - 0.03), radius)
    parts = [rest, post, beam((x - 0.04, seat - 0.03, front - 0.03), (x, seat - 0.03, front - 0.03), radius)]
    if draws.chance(0.3):  # closed sides, as of an armchair
        parts.append(box((x, (seat + y) / 2 - 0.02, (front + behind) / 2), (0.7 * wide, y - seat, front - behind)))
    return np.concatenate([mirrored(part) for part in parts])


_BASES = {"four legs": _four_legs, "star": _star, "runners": _runners}
_BACKS = {"panel": _panel, "slats": _slats, "rails": _rails, "frame": _frame}
