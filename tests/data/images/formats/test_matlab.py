"""Arrays of MATLAB files are read as scipy reads them, and hostile files are refused in little time and memory."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from scipy.io import loadmat, savemat

from sivae import bounds
from sivae.data.images.formats.matlab import NewerVersionError, read_arrays

HEADER = b"MATLAB 5.0".ljust(124) + b"\x00\x01IM"
UINT8, INT32, UINT32, DOUBLE, MATRIX, COMPRESSED = 2, 5, 6, 9, 14, 15


def element(kind: int, content: bytes) -> bytes:
    return struct.pack("<II", kind, len(content)) + content + bytes(-len(content) % 8)


def head(name: bytes, shape: tuple[int, ...], kind: int) -> bytes:
    flags, sizes = struct.pack("<II", kind, 0), struct.pack(f"<{len(shape)}i", *shape)
    return element(UINT32, flags) + element(INT32, sizes) + element(1, name)


def array(name: bytes, shape: tuple[int, ...], data: bytes, *, kind: int = 9) -> bytes:
    return element(MATRIX, head(name, shape, kind) + element(UINT8, data))


def packed(content: bytes) -> bytes:
    squeezed = zlib.compress(content)
    return struct.pack("<II", COMPRESSED, len(squeezed)) + squeezed


def saved(**arrays: Any) -> dict[str, bytes]:
    files = {}
    for compressed in (False, True):
        content = io.BytesIO()
        savemat(content, arrays, do_compression=compressed)
        files["compressed" if compressed else "plain"] = content.getvalue()
    return files


@pytest.mark.parametrize("form", ["plain", "compressed"])
def test_arrays_of_every_type(form: str) -> None:
    kinds = [f"{sign}{size}" for sign in "iu" for size in (1, 2, 4, 8)] + ["f4", "f8"]
    arrays = {f"a_{kind}": np.arange(24).reshape(2, 3, 4).astype(kind) for kind in kinds}
    others = {"text": "words", "cell": np.array([[1, "a"]], object), "table": {"a": [1]}}
    others |= {"one": 3, "none": np.empty((0, 2))}
    content = saved(**arrays, **others)[form]
    found = read_arrays(content, [*arrays, "one", "none", "absent"])
    expected = loadmat(io.BytesIO(content))
    assert list(found) == [*arrays, "one", "none"]
    for name, values in found.items():
        assert values.dtype == expected[name].dtype and np.array_equal(values, expected[name])


def test_numbers_may_be_stored_in_a_smaller_type_and_in_the_other_order_of_bytes() -> None:
    small = read_arrays(HEADER + array(b"x", (1, 3), bytes([1, 2, 3]), kind=6), ["x"])["x"]
    assert small.dtype == np.float64 and small.tolist() == [[1, 2, 3]]
    parts = [struct.pack(">II", UINT32, 8), struct.pack(">II", 6, 0), struct.pack(">II", INT32, 8)]
    parts += [struct.pack(">ii", 1, 1), struct.pack(">HH4s", 1, 1, b"x"), struct.pack(">IId", DOUBLE, 8, 2.5)]
    swapped = HEADER[:124] + b"\x01\x00MI" + struct.pack(">II", MATRIX, len(b"".join(parts))) + b"".join(parts)
    assert read_arrays(swapped, ["x"])["x"].tolist() == [[2.5]]


def test_a_newer_version_is_told_apart() -> None:
    with pytest.raises(NewerVersionError):
        read_arrays(b"MATLAB 7.3".ljust(124) + b"\x00\x02IM" + bytes(512), ["x"])


def nested_cells(depth: int) -> bytes:
    content = b""
    for _ in range(depth):
        content = element(MATRIX, head(b"X", (1, 1), 1) + content)
    return content


HOSTILE = {
    "nothing": (b"", "it begins with nothing"),
    "something else": (b"junk" * 100, "it begins with 6a 75 6e 6b"),
    "another version": (HEADER[:124] + b"\x00\x03IM", r"it is of version 3\.0"),
    "a cut element": (HEADER + element(MATRIX, bytes(64))[:-8], "it is cut short: 64 bytes should follow byte 136"),
    "nested cells": (HEADER + nested_cells(300), "X in it is no array of real numbers"),
    "many dimensions": (HEADER + array(b"X", (1,) * 33, b"x"), "it is damaged"),
    "a long name": (HEADER + array(b"X" * 2000, (1, 1), b"x"), "it is damaged"),
    "a shape without its bytes": (HEADER + array(b"X", (9, 9), b"x"), r"X in it has 1 bytes for the shape \[9, 9\]"),
    "a negative shape": (HEADER + array(b"X", (-1, -1), b"x"), "X in it is damaged"),
    "text": (HEADER + array(b"X", (1, 1), b"x", kind=4), "X in it is no array of real numbers"),
    "a long tag": (HEADER + struct.pack("<HHI", UINT8, 5, 0), "it is damaged"),
    "damaged compression": (HEADER + struct.pack("<II", COMPRESSED, 20) + b"x" * 20, "it is damaged"),
    "a wrong checksum": (HEADER + packed(array(b"X", (1, 1), b"x"))[:-1] + b"?", "it is damaged"),
    "cut compression": (HEADER + packed(array(b"X", (1, 1), b"x")[:40]), "it is cut short"),
    "a bomb": (
        HEADER + packed(array(b"X", (1100, 1000), bytes(1_100_000))),
        r"claims to unpack 1\.\d kB to 1\.1 MB",
    ),
    "a bomb of doubles": (
        HEADER + array(b"X", (2000, 1000), bytes(2_000_000), kind=6),
        r"X in it takes 16\.0 MB, more than half of the free memory",
    ),
}


@pytest.mark.parametrize(("content", "message"), HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_file_is_refused(content: bytes, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "ALWAYS_UNPACKED", 1_000_000)
    monkeypatch.setattr("sivae.data.images.formats.matlab.fits_memory", lambda size: size <= 10_000_000)
    with pytest.raises(ValueError, match=message):
        read_arrays(content, ["X"])
