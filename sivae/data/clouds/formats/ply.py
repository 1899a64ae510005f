"""Read `.ply` files, as text or binary, and write point clouds as binary ones (the Stanford polygon format, 1.0).

A file has a header that describes elements, which are rows of numbers and of lists of numbers, and then the rows. Text
is read as if it were a binary file whose every number is a float64.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sivae.bounds import CLOUD_HEADER, CLOUD_ITEMS, CLOUD_PROPERTIES
from sivae.data.clouds.formats.lists import ListColumn, by_length, find_faces
from sivae.data.clouds.formats.surface import numbers, triangles, whole
from sivae.files import atomic_file

_TYPES = {
    "char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4", "float": "f4",
    "double": "f8", "int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2", "int32": "i4", "uint32": "u4",
    "float32": "f4", "float64": "f8",
}  # fmt: skip
_CODES = {"i1": "b", "u1": "B", "i2": "h", "u2": "H", "i4": "i", "u4": "I", "f4": "f", "f8": "d"}
_SIZES = {kind: np.dtype(kind).itemsize for kind in _CODES}  # bytes
_ORDERS = {"ascii": "<", "binary_little_endian": "<", "binary_big_endian": ">"}
_CORNERS = ("vertex_indices", "vertex_index")
_END = b"end_header"


@dataclass(frozen=True)
class _Property:
    """A number of each row; or a list, whose length has the type `length`."""

    name: str
    type: str
    length: str | None = None


@dataclass
class _Element:
    name: str
    count: int
    properties: list[_Property] = field(default_factory=list)

    @property
    def has_lists(self) -> bool:
        return any(one.length for one in self.properties)


def read_ply(content: bytes) -> NDArray[np.float64]:
    """The triangles of a file, [F, 3, 3]; its points, [n, 3], where it has no faces.

    Raises:
        ValueError: it is damaged or breaks a bound; the message does not name the file.
    """
    order, elements, start = _header(content)
    body: bytes | memoryview = memoryview(content)[start:]
    if order == "ascii":
        body = numbers(content[start:]).view(np.uint8).data
        for element in elements:
            element.properties = [_Property(one.name, "f8", one.length and "f8") for one in element.properties]
    points: NDArray[np.float64] | None = None
    polygons: list[NDArray[np.int64]] = []
    for element in elements:
        columns, used = _rows(body, element, _ORDERS[order])
        body = body[used:]
        if element.name == "vertex":
            if not {"x", "y", "z"} <= set(columns) or any(columns[name].ndim != 1 for name in "xyz"):
                raise ValueError("its points have no x, y and z")
            with np.errstate(invalid="ignore"):  # a NaN is refused with the file's name, without a warning before
                points = np.stack([columns[name] for name in "xyz"], 1).astype(np.float64)
        elif element.name == "face":
            polygons = _polygons(columns)
    if points is None or not len(points):
        raise ValueError("it has no points")
    return triangles(points, polygons)


def _polygons(columns: dict[str, Any]) -> list[NDArray[np.int64]]:
    corners = next((columns[name] for name in _CORNERS if name in columns), None)
    if corners is None:
        return []
    by_count = corners if isinstance(corners, list) else [corners]
    if any(faces.ndim != 2 for faces in by_count):
        raise ValueError("the corners of its faces are no lists")
    return [whole(faces) if faces.dtype.kind == "f" else faces.astype(np.int64) for faces in by_count]


def _header(content: bytes) -> tuple[str, list[_Element], int]:
    """The format, the elements, and where the rows begin."""
    if not content.startswith((b"ply\n", b"ply\r")):
        raise ValueError("it does not begin with ply")
    end = content.find(_END, 0, CLOUD_HEADER)
    if end < 0:
        raise ValueError(f"its header does not end within {CLOUD_HEADER:,} bytes")
    start = end + len(_END)
    start += 2 if content[start : start + 2] == b"\r\n" else 1
    order, elements = "", list[_Element]()
    for row in content[:end].splitlines()[1:]:  # as bytes, since those of UTF-8 are also line ends of Latin-1
        line = row.decode("latin1")
        words = [word.decode("latin1") for word in row.split()]
        if not words or words[0] in ("comment", "obj_info"):
            continue
        if words[0] == "format" and words[1:2] and words[1] in _ORDERS:
            order = words[1]
        elif words[0] == "element" and len(words) == 3 and words[2].isascii() and words[2].isdigit():
            elements.append(_Element(words[1], int(words[2][:20])))
            if sum(one.count for one in elements) > CLOUD_ITEMS:
                raise ValueError(f"it states more than {CLOUD_ITEMS:,} points, faces and other rows")
        elif words[0] == "property" and elements:
            elements[-1].properties.append(_property(words, line))
            if len(elements[-1].properties) > CLOUD_PROPERTIES:
                raise ValueError(f"it describes more than {CLOUD_PROPERTIES} properties of one element")
        else:
            raise ValueError(f"its header has the line {line[:60]!r}")
    if not order:
        raise ValueError(f"its header states no format, expected one of {', '.join(_ORDERS)}")
    return order, elements, start


def _property(words: list[str], line: str) -> _Property:
    if len(words) == 5 and words[1] == "list" and words[2] in _TYPES and words[3] in _TYPES:
        return _Property(words[4], _TYPES[words[3]], _TYPES[words[2]])
    if len(words) == 3 and words[1] in _TYPES:
        return _Property(words[2], _TYPES[words[1]])
    raise ValueError(f"its header has the line {line[:60]!r}")


def _rows(body: bytes | memoryview, element: _Element, order: str) -> tuple[dict[str, Any], int]:
    """The columns of an element by name, and its bytes.

    A column is [rows], or [rows, K] of lists of K numbers each. Lists of several lengths are a list of such arrays, one
    for each length, and only those of faces' corners are kept.
    """
    if not element.properties or not element.count:
        return {one.name: np.empty((0, 0) if one.length else 0) for one in element.properties}, 0
    lengths = _first_lengths(body, element, order)
    fields: list[tuple[Any, ...]] = []
    for index, one in enumerate(element.properties):
        if one.length:
            fields += [(f"n{index}", order + one.length), (f"v{index}", order + one.type, (lengths[index],))]
        else:
            fields.append((f"v{index}", order + one.type))
    row = np.dtype(fields)
    size = row.itemsize * element.count
    if size <= len(body):
        table = np.frombuffer(body, row, element.count)
        if all((table[f"n{index}"] == length).all() for index, length in lengths.items()):
            return {one.name: table[f"v{index}"] for index, one in enumerate(element.properties)}, size
    if not element.has_lists:
        raise ValueError(f"it is cut short: its {element.count:,} of {element.name[:40]!r} need {size:,} bytes")
    return _walk(body, element, order)


def _first_lengths(body: bytes | memoryview, element: _Element, order: str) -> dict[int, int]:
    """The lengths of the lists in the first row, by the property's number."""
    lengths = {}
    position = 0
    for index, one in enumerate(element.properties):
        if one.length:
            lengths[index], position = _length(body, position, one, order)
            position += lengths[index] * _SIZES[one.type]
        else:
            position += _SIZES[one.type]
    return lengths


def _length(body: bytes | memoryview, position: int, one: _Property, order: str) -> tuple[int, int]:
    """The length of a list that begins at a position, and the position of its first number."""
    assert one.length is not None
    start = position + _SIZES[one.length]
    if start > len(body):
        raise ValueError("it is cut short")
    (value,) = struct.unpack_from(order + _CODES[one.length], body, position)
    if not 0 <= value <= (len(body) - start) // _SIZES[one.type] or value != int(value):
        raise ValueError(f"it is cut short, or a list in it claims {value} numbers")
    return int(value), start


def _walk(body: bytes | memoryview, element: _Element, order: str) -> tuple[dict[str, Any], int]:
    """Read rows one by one, as their lists have several lengths; only the corners of faces are kept."""
    least = sum(_SIZES[one.length or one.type] for one in element.properties)  # all lists empty
    if least * element.count > len(body):
        raise ValueError(f"it is cut short: its {element.count:,} of {element.name[:40]!r} need {least:,} bytes each")
    corners = next((one for one in element.properties if one.length and one.name in _CORNERS), None)
    lists: list[ListColumn] = []
    gap = 0
    for one in element.properties:
        if one.length:
            length = struct.Struct(order + _CODES[one.length])
            lists.append(ListColumn(gap, length, _SIZES[one.type], has_corners=one is corners))
            gap = 0
        else:
            gap += _SIZES[one.type]
    faces = find_faces(body, element.count, lists, gap)
    if corners is None:
        return {}, faces.size
    return {corners.name: by_length(body, faces, np.dtype(order + corners.type))}, faces.size


def write_ply(path: Path, points: Tensor) -> None:
    """Write a cloud as a binary `.ply` file of float32, which is complete or not there at all.

    Args:
        path: file to write, in a folder that exists.
        points: [N, 3], floating point.

    Raises:
        ValueError: not such points.
    """
    if points.ndim != 2 or points.shape[1] != 3:
        raise ValueError(f"write_ply: points are {list(points.shape)}, expected [N, 3]")
    values = points.detach().cpu().float().numpy().astype("<f4")
    properties = "".join(f"property float {name}\n" for name in "xyz")
    header = f"ply\nformat binary_little_endian 1.0\nelement vertex {len(values)}\n{properties}end_header\n"
    with atomic_file(path) as temporary:
        temporary.write_bytes(header.encode() + values.tobytes())
