"""Read a pickle of plain containers, numbers, strings and numpy arrays without executing any of it.

A pickle is a program that calls functions by name. Here the few names that pickled arrays need are bound to inert
classes, which only keep their arguments; every other name is refused.
"""

from __future__ import annotations

import io
import math
import pickle
from typing import Any

import numpy as np

from sivae.errors import DataError
from sivae.pickles import check_pickle

_BYTE_TYPES = ("u1", "|u1", "uint8")


class _Inert:
    """Keeps its arguments and state. State is set on instances only: a pickle must not change the class."""

    __slots__ = ("arguments", "state")

    def __init__(self, *arguments: object) -> None:
        self.arguments, self.state = arguments, None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Dtype(_Inert):
    __slots__ = ()

    def is_bytes(self) -> bool:
        name = self.arguments[0] if self.arguments else None
        return (name.decode("latin1") if isinstance(name, bytes) else name) in _BYTE_TYPES


class _Array(_Inert):
    """For numpy's array class, and for the function that makes an array whose state follows."""

    __slots__ = ()

    def parts(self) -> tuple[Any, Any, Any, Any]:
        """Shape, dtype, whether the order is by columns, bytes."""
        if not isinstance(self.state, tuple) or len(self.state) != 5:
            raise ValueError("an array without content")
        _, shape, dtype, column_order, content = self.state
        return shape, dtype, column_order, content


class _ArrayOfBuffer(_Inert):
    __slots__ = ()

    def parts(self) -> tuple[Any, Any, Any, Any]:
        content, dtype, shape, order = self.arguments
        return shape, dtype, order == "F", content


class _Latin1(_Inert):
    """Bytes, as Python 3 writes them for Python 2."""

    __slots__ = ()

    def __new__(cls, text: str, _encoding: str = "latin1") -> Any:
        return text.encode("latin1")


_INERT_CLASSES: dict[tuple[str, str], type] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _Latin1,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _Array for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _ArrayOfBuffer for core in ("core", "_core")},
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> type:
        try:
            return _INERT_CLASSES[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which no such file needs") from None


def read_pickle(content: bytes, where: str) -> dict[str, Any]:
    """Read the dictionary in a pickle. Its arrays stay inert; :func:`byte_array` converts them.

    Args:
        content: the file's bytes.
        where: name of the file in error messages.

    Raises:
        DataError: the file is damaged, holds no dictionary, breaks a bound, or names anything but arrays.
    """
    try:
        check_pickle(io.BytesIO(content), len(content))
        loaded = _Unpickler(io.BytesIO(content), encoding="bytes").load()
        if not isinstance(loaded, dict):
            raise ValueError(f"it holds a {type(loaded).__name__}, not a dictionary")
        return {key.decode() if isinstance(key, bytes) else str(key): value for key, value in loaded.items()}
    except Exception as error:  # damaged pickles raise many kinds of errors
        raise DataError(
            f"{where} is damaged, or no pickle of images: {error}; nothing of it was executed; fetch it again"
        ) from None


def byte_array(value: object, where: str) -> np.ndarray:
    """Convert an inert array of :func:`read_pickle` to uint8.

    Raises:
        DataError: the value is no array of uint8.
    """
    try:
        if not isinstance(value, (_Array, _ArrayOfBuffer)):
            raise ValueError(f"a {type(value).__name__.lstrip('_')}")
        shape, dtype, column_order, content = value.parts()
        if not isinstance(dtype, _Dtype) or not dtype.is_bytes():
            raise ValueError("an array of another type")
        if not isinstance(content, (bytes, bytearray)) or math.prod(shape) != len(content) or min(shape) < 0:
            raise ValueError("an array whose bytes do not fit its shape")
        return np.frombuffer(content, np.uint8).reshape(shape, order="F" if column_order else "C")
    except (ValueError, TypeError) as error:
        raise DataError(f"{where} holds {error}; expected an array of uint8") from None
