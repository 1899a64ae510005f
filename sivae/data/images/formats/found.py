"""What a reader of a known release tells of it before it reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from sivae.data.images.base import Notice, PackedImages, Split, no_such_split
from sivae.data.images.stores import Store, fingerprint

_DEPTH = 3  # folders below the top; deeper ones are somebody's data, not a release

Content = tuple[np.ndarray, np.ndarray | None, tuple[str, ...] | None]  # pixels, labels, class names


@dataclass(frozen=True)
class Found:
    """A data set in a known format.

    Attributes:
        title: its format and place.
        files: that hold its images, by part; None is the part of a set without parts.
        read: pixels, labels and class names of some of these files.
    """

    title: str
    store: Store
    files: Mapping[Split | None, list[str]]
    read: Callable[[list[str]], Content]

    def open(self, name: str, split: Split | None, notice: Notice) -> PackedImages:
        """Read a part; where none is named the train images, or all where there are no parts.

        Raises:
            DataError: there is no such part, or a file is damaged.
        """
        part = chosen_part(self.title, self.files, split, notice)
        files = self.files[part]
        pixels, labels, class_names = self.read(files)
        mark = fingerprint(self.store, files)
        return PackedImages(pixels, labels, name=name, class_names=class_names, fingerprint=mark, part=part)


def chosen_part(
    title: str, files: Mapping[Split | None, list[str]], split: Split | None, notice: Notice
) -> Split | None:
    """The part to read: the one that is named; else the train images, or all where there are no parts.

    Raises:
        NoSuchSplitError: a part is named that is not there.
    """
    parts = [part for part, names in files.items() if names]
    if split is not None and split not in parts:
        have = " and ".join(part for part in parts if part) or "no parts"
        raise no_such_split(title, split, f"it has {have}")
    if split is None and len(parts) > 1:
        notice(f"{title}: reading its train images, not the test images")
    return split or next(part for part in ("train", None, "test") if part in parts)


def by_folder(store: Store) -> dict[str, dict[str, str]]:
    """Files by their own name, by folder, in folders near the top."""
    folders: dict[str, dict[str, str]] = {}
    for name in store.sizes:
        folder, _, own = name.rpartition("/")
        if folder.count("/") < _DEPTH:
            folders.setdefault(folder, {})[own] = name
    return folders
