"""Faces in rows of bytes, and the bounds on them."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from sivae.data.clouds.formats import lists, surface
from sivae.data.clouds.formats.lists import ListColumn, by_length, find_faces

BYTE = struct.Struct("B")
CORNERS = ListColumn(0, BYTE, 1, has_corners=True)
OTHERS = ListColumn(2, BYTE, 2, has_corners=False)


def test_faces_are_found_between_other_numbers() -> None:
    first = bytes([3, 0, 1, 2]) + b"..\x00" + b"."
    second = bytes([2, 8, 9]) + b"..\x01##" + b"."
    third = bytes([4, 3, 4, 5, 6]) + b"..\x02####" + b"."
    faces = find_faces(first + second + third + b"more", 3, [CORNERS, OTHERS], 1)
    assert faces.size == len(first + second + third)
    found = by_length(first + second + third, faces, np.dtype("u1"))
    assert [own.tolist() for own in found] == [[[0, 1, 2]], [[3, 4, 5, 6]]]


def test_too_many_lists_are_refused_before_they_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lists, "CLOUD_ITEMS", 5)
    with pytest.raises(ValueError, match="it has 6 lists in its rows, more than 5"):
        find_faces(b"", 3, [CORNERS, OTHERS])


def test_too_many_triangles_are_refused_before_faces_are_gathered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(surface, "CLOUD_ITEMS", 3)
    content = bytes([3, 0, 0, 0, 5, 0, 0, 0, 0, 0])
    faces = find_faces(content, 2, [CORNERS])
    with pytest.raises(ValueError, match="more than 3 triangles"):
        by_length(content, faces, np.dtype("u1"))


@pytest.mark.parametrize("length", [b"\xff", b"\x04", b""])
def test_rows_that_are_cut_short_are_refused(length: bytes) -> None:
    with pytest.raises(ValueError, match="cut short"):
        find_faces(bytes([1, 0]) + length + bytes(3 if length else 0), 2, [CORNERS])
