"""Read arrays of numbers from `.npy` files and from the members of `.npz` files, without unpickling anything."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.lib import format as npy

from sivae.bounds import ARRAY_HEADER
from sivae.data.stores import ZipStore
from sivae.errors import reason_of

MAGIC = b"\x93NUMPY"
_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
_SUFFIX = ".npy"


class Header(NamedTuple):
    """What the beginning of a `.npy` file says about its array."""

    shape: tuple[int, ...]
    by_columns: bool
    dtype: np.dtype[Any]
    offset: int  # of the first number


def read_header(head: bytes, size: int) -> Header:
    """Read the header in a file's first bytes, and compare it with the file's size.

    Args:
        head: the first :data:`sivae.bounds.ARRAY_HEADER` bytes, or the whole file.
        size: bytes of the file.

    Raises:
        ValueError: it is damaged, or describes anything but numbers; the message does not name the file.
    """
    file = io.BytesIO(head)
    version = npy.read_magic(file)
    if version not in _HEADERS:
        raise ValueError(f"it has version {version[0]}.{version[1]} of the format, expected 1.0 or 2.0")
    try:
        shape, by_columns, dtype = _HEADERS[version](file, max_header_size=ARRAY_HEADER)
    except ValueError:
        raise
    except Exception as error:  # NumPy reads it as Python's syntax, which damage breaks in many ways
        raise ValueError(f"its header is damaged: {reason_of(error)}") from None
    if dtype.hasobject:
        raise ValueError("it holds objects, not numbers")
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize > size - file.tell():
        raise ValueError(f"it has {size:,} bytes, too few for {dtype} of shape {list(shape)}")
    return Header(shape, by_columns, dtype, file.tell())


def map_array(path: Path) -> np.ndarray:
    """Map a `.npy` file into memory, for reading only.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is damaged, or holds anything but numbers; the message does not name the file.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        header = read_header(file.read(ARRAY_HEADER), size)
    if 0 in header.shape:
        return np.empty(header.shape, header.dtype)
    order = "F" if header.by_columns else "C"
    return np.memmap(path, header.dtype, "r", header.offset, header.shape, order)  # type: ignore[call-overload]


def read_array(content: bytes) -> np.ndarray:
    """The array in the content of a `.npy` file, for reading only. Raises ValueError as :func:`read_header` does."""
    header = read_header(content[:ARRAY_HEADER], len(content))
    values = np.frombuffer(content, header.dtype, math.prod(header.shape), header.offset)
    return values.reshape(header.shape, order="F" if header.by_columns else "C")


class Arrays(Mapping[str, np.ndarray]):
    """The arrays in a `.npz` file by name; each is read when it is taken.

    Args:
        path: the file.
        content: its bytes, where it is in an archive, so that `path` is only its name in messages.

    Raises:
        DataError: the file or an array is damaged, or unpacks to more than the bounds or the memory allow.
        ValueError: an array is taken that holds anything but numbers.
    """

    def __init__(self, path: Path, content: bytes | None = None) -> None:
        self._store = ZipStore(path, content)
        self._files = {name.removesuffix(_SUFFIX): name for name in self._store.sizes}

    def __getitem__(self, name: str) -> np.ndarray:
        return read_array(self._store.read(self._files[name]))

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)
