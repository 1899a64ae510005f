"""The bounds on numbers and triangles, which files cannot get around."""

from __future__ import annotations

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
