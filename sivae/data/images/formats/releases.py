"""Helpers for readers of released data sets: their parts, folders and class names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from sivae.data.images.base import ImageSet, PackedImages, Split, no_such_split
from sivae.data.images.formats.table import Found, Request
from sivae.data.stores import Store, fingerprint
from sivae.errors import DataError

_DEPTH = 3  # folders below the top; a release is not deeper

Files = Mapping[Split | None, list[str]]  # file names by part; None is the part of a set without parts
Content = tuple[np.ndarray, np.ndarray | None, tuple[str, ...] | None]  # pixels, labels, class names


def found_parts(title: str, files: Files, open_part: Callable[[list[str], Split | None, Request], ImageSet]) -> Found:
    """A data set that may have parts; `open_part` opens the files of one."""

    def open_chosen(request: Request) -> ImageSet:
        part = choose_part(title, files, request)
        return open_part(files[part], part, request)

    return Found(title, open_chosen)


def found_arrays(title: str, store: Store, files: Files, read: Callable[[list[str]], Content]) -> Found:
    """A data set that may have parts; `read` reads the files of one into memory."""

    def open_part(names: list[str], part: Split | None, request: Request) -> PackedImages:
        pixels, labels, class_names = read(names)
        digest = fingerprint(store, names)
        return PackedImages(pixels, labels, name=request.name, class_names=class_names, fingerprint=digest, part=part)

    return found_parts(title, files, open_part)


def choose_part(title: str, files: Mapping[Split | None, Sequence[str]], request: Request) -> Split | None:
    """The requested part; else the train images, or all where there are no parts.

    Raises:
        NoSuchSplitError: the requested part is missing.
    """
    split, parts = request.split, [part for part, names in files.items() if names]
    if split is not None and split not in parts:
        have = " and ".join(part for part in parts if part) or "no parts"
        raise no_such_split(title, split, f"it has {have}")
    if split is None and len(parts) > 1:
        request.notice(f"{title}: reading its train images, not the test images")
    return split or next(part for part in ("train", None, "test") if part in parts)


def by_folder(store: Store) -> dict[str, dict[str, str]]:
    """The files in folders near the top: full names by file name, by folder."""
    folders: dict[str, dict[str, str]] = {}
    for name in store.sizes:
        folder, _, own = name.rpartition("/")
        if folder.count("/") < _DEPTH:
            folders.setdefault(folder, {})[own] = name
    return folders


def numbers_as_names(labels: np.ndarray, where: str, what: str = "labels") -> tuple[str, ...]:
    """Names for classes without names: their numbers.

    Args:
        labels: whole numbers.
        where: their place, for messages.
        what: their name, for messages.

    Raises:
        DataError: a label is negative, or too large for a class.
    """
    low, high = (int(labels.min()), int(labels.max())) if labels.size else (0, 0)
    if low < 0 or high > 0xFFFF:
        raise DataError(f"{where}: its {what} span {low} to {high}; expected classes from 0 to {0xFFFF}")
    return tuple(str(label) for label in range(high + 1))
