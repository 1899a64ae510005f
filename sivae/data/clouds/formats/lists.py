"""Find faces in rows of bytes with lists of several lengths."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from sivae.bounds import CLOUD_ITEMS
from sivae.data.clouds.formats.surface import check_triangles


class ListColumn(NamedTuple):
    """A list of each row: a number that says how many follow, and these.

    Attributes:
        gap: bytes before it, from the beginning of the row or the end of the list before.
        length: reads the first number.
        size: bytes of each of the others.
        has_corners: they are the corners of a face.
    """

    gap: int
    length: struct.Struct
    size: int
    has_corners: bool


class Faces(NamedTuple):
    """The faces among some rows.

    Attributes:
        starts: byte of the first corner of each, int64 [F].
        lengths: number of corners of each, int64 [F].
        size: bytes of the rows.
    """

    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]
    size: int


def find_faces(body: bytes | memoryview, rows: int, columns: Sequence[ListColumn], rest: int = 0) -> Faces:
    """Go through rows one by one, and note where faces are, but for those of fewer than three corners.

    Args:
        body: begins with the rows.
        rows: how many.
        columns: the lists of a row.
        rest: bytes of a row after its last list.

    Raises:
        ValueError: the rows are cut short, or have too many lists.
    """
    if rows * len(columns) > CLOUD_ITEMS:
        raise ValueError(f"it has {rows * len(columns):,} lists in its rows, more than {CLOUD_ITEMS:,}")
    steps = [(one.gap, one.length.unpack_from, one.length.size, one.size, one.has_corners) for one in columns]
    starts, lengths = array("q"), array("q")  # 8 bytes a number, where a list of ints takes 40
    position, most = 0, len(body)
    try:
        for _ in range(rows):
            for gap, unpack, head, size, has_corners in steps:
                position += gap
                (value,) = unpack(body, position)
                position += head
                if not 0 <= value <= most or value != (length := int(value)):
                    raise ValueError(f"it is cut short, or a list in it claims {value} numbers")
                if has_corners and length > 2:
                    starts.append(position)
                    lengths.append(length)
                position += length * size
            position += rest
    except struct.error:
        raise ValueError("it is cut short") from None
    if position > most:
        raise ValueError("it is cut short")
    return Faces(np.array(starts, np.int64), np.array(lengths, np.int64), position)


def by_length(body: bytes | memoryview, faces: Faces, kind: np.dtype[Any]) -> list[NDArray[Any]]:
    """The corners of faces, [F, K] of a type for each number of corners, in the order in which these numbers come.

    Raises:
        ValueError: the faces have too many triangles.
    """
    check_triangles(int((faces.lengths - 2).sum()))
    counts, firsts = np.unique(faces.lengths, return_index=True)
    order = np.argsort(faces.lengths, kind="stable")
    groups = np.split(faces.starts[order], np.searchsorted(faces.lengths[order], counts[1:]))
    content = np.frombuffer(body, np.uint8)
    return [
        np.ascontiguousarray(sliding_window_view(content, counts[one] * kind.itemsize)[groups[one]]).view(kind)
        for one in np.argsort(firsts)
    ]
