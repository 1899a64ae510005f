"""The bounds on numbers and triangles, which files cannot get around."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from sivae.data.clouds.formats import surface


def test_a_long_text_is_refused_before_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(surface, "CLOUD_TEXT", 10)
    assert surface.numbers(b"1 2 3 4 5 ").tolist() == [1.0, 2.0, 3.0, 4.0, 5.0]
    with pytest.raises(ValueError, match="its text has 11 bytes, more than 10"):
        surface.numbers(b"1 2 3 4 5 6")


def test_too_many_triangles_are_refused_before_they_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(surface, "CLOUD_ITEMS", 3)
    faces = np.zeros((2, 4), np.int64)
    with pytest.raises(ValueError, match="more than 3 triangles"):
        surface.triangles(np.zeros((1, 3)), [faces])


def test_triangles_that_do_not_fit_the_memory_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(surface, "fits_memory", lambda size: size < 2 * 288)
    surface.check_triangles(1)
    with pytest.raises(ValueError, match="its 2 triangles take 576 bytes, more than half of the free memory"):
        surface.check_triangles(2)


def test_a_face_of_many_corners_takes_no_more_memory_than_its_triangles() -> None:
    count = 20_000
    tracemalloc.start()
    try:
        found = surface.triangles(np.zeros((1, 3)), [np.zeros((1, count), np.int64)])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found.shape == (count - 2, 3, 3)
    assert peak < 160 * count  # 72 bytes of coordinates, 24 of corners twice, and less than 40 for the rest
