"""Read SVHN's cropped digits: MATLAB files with X uint8 [32, 32, 3, N] and y [N, 1], where 10 means the digit 0."""

from __future__ import annotations

import re
from functools import partial

import numpy as np

from sivae.data.images.base import Split
from sivae.data.images.formats.matlab import NewerVersionError, read_arrays
from sivae.data.images.formats.releases import Content, by_folder, found_arrays
from sivae.data.images.formats.table import Found
from sivae.data.stores import Store
from sivae.errors import DataError

_FILE = re.compile(r"(train|test|extra)_32x32\.mat")
_DIGITS = tuple(str(digit) for digit in range(10))


def find(store: Store, only: str | None = None) -> list[Found]:
    """SVHN's files in the folders of a store, by name; a single file may be any MATLAB file.

    `extra_32x32.mat` is read if it is named itself, or if it is alone.
    """
    if only is not None and not only.lower().endswith(".mat"):
        return []
    found = []
    for folder, files in by_folder(store).items():
        parts: dict[Split | None, list[str]] = {}
        for own, name in files.items():
            match = _FILE.fullmatch(own)
            if name == only or (only is None and match):
                word = match[1] if match else ""
                part: Split | None = "train" if word == "train" else "test" if word == "test" else None
                parts[part] = [name]
        if len(parts) > 1:
            parts.pop(None, None)
        if parts:
            found.append(found_arrays(f"SVHN in {store.path / folder}", store, parts, partial(_read, store)))
    return found


def _read(store: Store, files: list[str]) -> Content:
    (name,) = files
    where = store.where(name)
    content = store.read(name)
    try:
        variables = read_arrays(content, ("X", "y"))
    except NewerVersionError:
        raise DataError(f"{where} is a MATLAB 7.3 file; SVHN's are of version 5 (save -v7 writes it)") from None
    except ValueError as error:
        raise DataError(f"{where} is damaged, or no MATLAB file: {error}; fetch it again") from None
    pixels = variables.get("X")
    if pixels is None or pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[2] not in (1, 3):
        came = "no X" if pixels is None else f"X as {pixels.dtype} {list(pixels.shape)}"
        raise DataError(f"{where} holds {came}; expected X as uint8 [height, width, 3, N]")
    pixels = np.ascontiguousarray(pixels.transpose(3, 0, 1, 2))
    labels = variables.get("y")
    if labels is None:
        return pixels, None, None
    if labels.size != len(pixels) or labels.dtype.kind not in "iuf":
        raise DataError(f"{where} has {labels.size:,} labels for {len(pixels):,} images")
    if not np.isin(labels, np.arange(11)).all():
        raise DataError(f"{where}: its labels y are not all whole numbers from 0 to 10")
    return pixels, labels.reshape(-1).astype(np.int64) % 10, _DIGITS
