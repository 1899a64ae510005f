"""Surfaces built from rings, by their known areas and places."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sivae.data.clouds.builtin.loft import Triangles, beam, box, mirrored, spun, tilted, tube, turned


def area(solid: Triangles) -> float:
    first, second = solid[:, 1] - solid[:, 0], solid[:, 2] - solid[:, 0]
    return float(np.linalg.norm(np.cross(first, second), axis=1).sum() / 2)


def test_a_box_has_six_sides() -> None:
    solid = box((1.0, 2.0, 3.0), (2.0, 4.0, 6.0))
    assert area(solid) == pytest.approx(2 * (8 + 12 + 24))
    assert solid.min((0, 1)).tolist() == [0.0, 0.0, 0.0]
    assert solid.max((0, 1)).tolist() == [2.0, 4.0, 6.0]


def test_a_square_rod_is_a_box_in_any_direction() -> None:
    # Half the width of a square rod is its radius.
    for end in ((3.0, 0, 0), (0, 3.0, 0), (0, 0, 3.0), (1.0, 2.0, 2.0)):
        assert area(beam((0.0, 0, 0), end, 0.5, square=True)) == pytest.approx(2 + 4 * 3)


def test_a_turned_profile_is_a_cylinder() -> None:
    corners = 20
    side, cap = 2 * corners * math.sin(math.pi / corners), corners / 2 * math.sin(math.tau / corners)
    assert area(turned([(1.0, 0.0), (1.0, 5.0)])) == pytest.approx(5 * side + 2 * cap)
    assert area(turned([(1.0, 0.0), (1.0, 5.0)], closed=False)) == pytest.approx(5 * side)


def test_a_bent_tube_keeps_its_width() -> None:
    angles = np.linspace(0.0, math.pi, 40)
    path = np.stack([np.cos(angles), np.sin(angles), np.zeros(40)], 1)
    solid = tube(path, 0.1)
    distances = np.abs(np.hypot(solid[..., 0], solid[..., 1]) - 1.0)
    assert distances.max() <= 0.1 + 1e-12
    assert np.abs(solid[..., 2]).max() == pytest.approx(0.1)


def test_solids_are_turned_and_mirrored() -> None:
    solid = box((1.0, 0.0, 0.0), (0.2, 0.2, 0.2))
    np.testing.assert_allclose(spun(solid, math.pi / 2).mean((0, 1)), (0.0, 0.0, -1.0), atol=1e-12)
    np.testing.assert_allclose(mirrored(solid).mean((0, 1)), 0.0, atol=1e-12)
    above = tilted(box((0.0, 1.0, 0.0), (0.2, 0.2, 0.2)), math.pi / 2, (0.0, 0.0, 0.0))
    np.testing.assert_allclose(above.mean((0, 1)), (0.0, 0.0, -1.0), atol=1e-12)  # to the back
