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
from sivae.data.images.stores import ZipStore

MAGIC = b"\x93NUMPY"
_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
_SUFFIX = ".npy"


class _Header(NamedTuple):
    shape: tuple[int, ...]
    by_columns: bool
    dtype: np.dtype[Any]
    offset: int  # of the first number


def _header(head: bytes, size: int) -> _Header:
    """Read the header in a file's first bytes, and compare it with the file's size."""
    file = io.BytesIO(head)
    version = npy.read_magic(file)
    if version not in _HEADERS:
        raise ValueError(f"it has version {version[0]}.{version[1]} of the format, expected 1.0 or 2.0")
    shape, by_columns, dtype = _HEADERS[version](file, max_header_size=ARRAY_HEADER)
    if dtype.hasobject:
        raise ValueError("it holds objects, not numbers")
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize > size - file.tell():
        raise ValueError(f"it has {size:,} bytes, too few for {dtype} of shape {list(shape)}")
    return _Header(shape, by_columns, dtype, file.tell())


def map_array(path: Path) -> np.ndarray:
    """Map a `.npy` file into memory, for reading only.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is damaged, or holds anything but numbers; the message does not name the file.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        header = _header(file.read(ARRAY_HEADER), size)
    if 0 in header.shape:
        return np.empty(header.shape, header.dtype)
    order = "F" if header.by_columns else "C"
    return np.memmap(path, header.dtype, "r", header.offset, header.shape, order)  # type: ignore[call-overload]


class Arrays(Mapping[str, np.ndarray]):
    """The arrays in a `.npz` file by name; each is read when it is taken.

    Raises:
        DataError: the file or an array is damaged, or unpacks to more than the bounds or the memory allow.
        ValueError: an array is taken that holds anything but numbers.
    """

    def __init__(self, path: Path) -> None:
        self._store = ZipStore(path)
        self._files = {name.removesuffix(_SUFFIX): name for name in self._store.sizes}

    def __getitem__(self, name: str) -> np.ndarray:
        content = self._store.read(self._files[name])
        header = _header(content[:ARRAY_HEADER], len(content))
        values = np.frombuffer(content, header.dtype, math.prod(header.shape), header.offset)
        return values.reshape(header.shape, order="F" if header.by_columns else "C")

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)
