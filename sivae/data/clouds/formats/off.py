"""Read `.off` files: points, and polygons of them, as text (Geomview's Object File Format)."""

from __future__ import annotations

import re
import struct

import numpy as np
from numpy.typing import NDArray

from sivae.bounds import CLOUD_ITEMS
from sivae.data.clouds.formats.lists import ListColumn, by_length, find_faces
from sivae.data.clouds.formats.surface import numbers, triangles, whole

_MARK = re.compile(rb"\s*(ST)?(C)?(N)?OFF")  # of some files of ModelNet the first number follows at once
_COMMENT = re.compile(rb"#[^\r\n]*")
_FACE = ListColumn(0, struct.Struct("=d"), 8, has_corners=True)


def read_off(content: bytes) -> NDArray[np.float64]:
    """The triangles of a file, [F, 3, 3]; its points, [n, 3], where it has no faces.

    Raises:
        ValueError: it is damaged or breaks a bound; the message does not name the file.
    """
    text = _COMMENT.sub(b"", content)
    mark = _MARK.match(text)
    if mark is None:
        raise ValueError("it does not begin with OFF")
    if text[mark.end() :].split(maxsplit=1)[:1] == [b"BINARY"]:
        raise ValueError("it is the binary form of OFF; write it as text or as PLY")
    values = numbers(text[mark.end() :])
    if len(values) < 3:
        raise ValueError("it lacks its numbers of points, faces and edges")
    points, faces, _ = (int(number) for number in whole(values[:3]))
    if not 0 < points <= CLOUD_ITEMS or faces > CLOUD_ITEMS:
        raise ValueError(f"it states {points:,} points and {faces:,} faces, expected 1 to {CLOUD_ITEMS:,} points")
    extra = (3 if mark[3] else 0) + (2 if mark[1] else 0)
    for colours in (4, 3) if mark[2] else (0,):
        width = 3 + extra + colours
        rest = values[3 + points * width :]
        polygons = _polygons(rest, faces) if len(values) >= 3 + points * width else None
        if polygons is not None:
            return triangles(values[3 : 3 + points * width].reshape(points, width)[:, :3], polygons)
    raise ValueError(f"its {len(values) - 3:,} numbers are not those of {points:,} points and {faces:,} faces")


def _polygons(values: NDArray[np.float64], count: int) -> list[NDArray[np.int64]] | None:
    """Faces by their number of corners; None where the numbers are not those of so many faces.

    A face is its number of corners and the corners. Colours may follow where all faces have equally many corners.
    """
    if count == 0:
        return [] if len(values) == 0 else None
    if len(values) % count == 0:
        rows = values.reshape(count, -1)
        corners = int(rows[0, 0]) if rows.size and 0 <= rows[0, 0] < rows.shape[1] else -1
        if (rows[:, :1] == corners).all():
            return [whole(rows[:, 1 : 1 + corners])]
    body = values.view(np.uint8).data
    try:
        found = find_faces(body, count, [_FACE])
    except ValueError:
        return None
    return [whole(faces) for faces in by_length(body, found, values.dtype)] if found.size == values.nbytes else None
