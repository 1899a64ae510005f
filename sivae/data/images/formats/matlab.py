"""Read plain arrays of numbers from MATLAB files of version 5.

Only the arrays that are asked for are read, and of them only those of whole or floating-point numbers: cells,
structures and other containers, which may be nested without end, are not entered. (The format is defined in MathWorks'
"MAT-File Format".)
"""

from __future__ import annotations

import io
import math
import zlib
from collections.abc import Collection
from typing import IO, NamedTuple

import numpy as np

from sivae.bounds import MATLAB_DIMENSIONS, unpacked_limit
from sivae.data.free_memory import amount
from sivae.data.unpacking import Unpacked, fits_memory

_HEADER = 128  # bytes
_TAG = 8
_VERSION_5, _VERSION_7_3 = 0x0100, 0x0200
_INT8, _INT32, _UINT32, _MATRIX, _COMPRESSED = 1, 5, 6, 14, 15
_STORED = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}  # by type
_CLASSES = dict(enumerate(("f8", "f4", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8"), 6))  # of arrays of numbers
_COMPLEX = 0x0800
_LONGEST_NAME = 1024  # bytes


class NewerVersionError(ValueError):
    """A file of MATLAB 7.3, which is one of HDF5."""


class _Tag(NamedTuple):
    kind: int
    size: int
    content: bytes | None  # of up to four bytes, which a tag itself may hold


def read_arrays(content: bytes, names: Collection[str]) -> dict[str, np.ndarray]:
    """Read the arrays of some names.

    Args:
        content: the file's bytes.
        names: names of variables; those that the file lacks are left out.

    Returns:
        Arrays in MATLAB's type and shape.

    Raises:
        NewerVersionError: the file is of MATLAB 7.3.
        ValueError: the file is damaged or no MATLAB file, an array holds anything but real numbers, or it is larger
            than the bounds of :mod:`sivae.bounds` or the memory allow. The message does not name the file.
    """
    if len(content) < _HEADER or content[126:128] not in (b"IM", b"MI"):
        raise ValueError(f"it begins with {content[:8].hex(' ') or 'nothing'}")
    order = "<" if content[126:128] == b"IM" else ">"
    version = int.from_bytes(content[124:126], "little" if order == "<" else "big")
    if version == _VERSION_7_3:
        raise NewerVersionError
    if version != _VERSION_5:
        raise ValueError(f"it is of version {version >> 8}.{version & 255}")
    found = {}
    position = _HEADER
    while position < len(content):
        tag = _tag(io.BytesIO(content[position : position + _TAG]), order)
        start, position = position + _TAG, position + _TAG + tag.size
        if position > len(content):
            raise ValueError(f"it is cut short: {tag.size:,} bytes should follow byte {start:,}")
        if tag.kind == _COMPRESSED:
            packed = io.BytesIO(content[start:position])
            stream = Unpacked(packed, "it", make=zlib.decompressobj, remedy="")
            inner = _tag(stream, order)
            if inner.kind == _MATRIX and inner.size <= unpacked_limit(tag.size):
                found.update(_array(stream, inner.size, order, names))
            elif inner.kind == _MATRIX:
                raise ValueError(f"it claims to unpack {amount(tag.size)} to {amount(inner.size)}")
        else:
            position += -tag.size % _TAG
            if tag.kind == _MATRIX:
                found.update(_array(io.BytesIO(content[start : start + tag.size]), tag.size, order, names))
    return found


def _tag(stream: IO[bytes] | Unpacked, order: str) -> _Tag:
    head = stream.read(_TAG)
    if len(head) < _TAG:
        raise ValueError("it is cut short")
    kind, size = (int(value) for value in np.frombuffer(head, f"{order}u4"))
    if kind >> 16:
        size = kind >> 16
        if size > 4:
            raise ValueError("it is damaged")
        return _Tag(kind & 0xFFFF, size, head[4 : 4 + size])
    return _Tag(kind, size, None)


def _part(stream: IO[bytes] | Unpacked, order: str, kind: int, most: int) -> bytes:
    """A short part of an array's head."""
    tag = _tag(stream, order)
    if tag.kind != kind or tag.size > most:
        raise ValueError("it is damaged")
    if tag.content is not None:
        return tag.content
    return stream.read(tag.size + -tag.size % _TAG)[: tag.size]


def _array(stream: IO[bytes] | Unpacked, size: int, order: str, names: Collection[str]) -> dict[str, np.ndarray]:
    """The array that follows, by its name; nothing if its name is not asked for."""
    if size == 0:
        return {}
    flags = np.frombuffer(_part(stream, order, _UINT32, 8), f"{order}u4")
    if len(flags) != 2:
        raise ValueError("it is damaged")
    kind = int(flags[0]) & 0xFF
    if kind not in _CLASSES and kind not in (1, 2, 3, 4, 5):  # others have no dimensions and names here
        return {}
    shape = tuple(np.frombuffer(_part(stream, order, _INT32, 4 * MATLAB_DIMENSIONS), f"{order}i4").tolist())
    name = _part(stream, order, _INT8, _LONGEST_NAME).decode("latin1")
    if name not in names:
        return {}
    if kind not in _CLASSES or int(flags[0]) & _COMPLEX:
        raise ValueError(f"{name} in it is no array of real numbers")
    tag = _tag(stream, order)
    if tag.kind not in _STORED or len(shape) < 2 or min(shape) < 0:
        raise ValueError(f"{name} in it is damaged")
    stored, own = np.dtype(order + _STORED[tag.kind]), np.dtype(_CLASSES[kind])
    count = math.prod(shape)
    if count * stored.itemsize != tag.size or tag.size > size:
        raise ValueError(f"{name} in it has {tag.size:,} bytes for the shape {list(shape)}")
    if not fits_memory(count * max(stored.itemsize, own.itemsize)):
        raise ValueError(f"{name} in it takes {amount(count * own.itemsize)}, more than half of the free memory")
    values = stream.read(tag.size) if tag.content is None else tag.content
    if len(values) != tag.size:
        raise ValueError("it is cut short")
    stream.read(2 * _TAG)  # up to the end, where compressed bytes have their checksum
    return {name: np.frombuffer(values, stored).astype(own, copy=False).reshape(shape, order="F")}
