"""Read image files in a folder, zip or tar, and find the part and class of each from the folders around it.

The folder directly above an image is its class, where there is more than one such folder. Folders `train` and `test`
at the top are parts. FFHQ's folders of a thousand images each (`00000/00000.png`, …) are no classes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial

import numpy as np
from PIL import Image

from sivae.data.images.base import ImageSet, Notice, Split, no_such_split
from sivae.data.images.formats.releases import choose_part
from sivae.data.images.formats.table import Found, Request
from sivae.data.images.pixels import SUFFIXES, decode
from sivae.data.images.stores import Store, fingerprint
from sivae.errors import DataError

_TRAIN, _TEST = ("train", "training"), ("test", "testing", "val", "valid", "validation")

# The folder to read of a release with several folders of images, best first.
_RELEASED = ("images1024x1024", "CelebA-HQ-img", "thumbnails128x128")


class EncodedImages(ImageSet):
    """Image files that are decoded when they are read.

    Args:
        store: the files.
        names: names of the image files.
        labels: the class of each, int64 ``[N]``, or None.
        class_names: by label.
        part: "train" or "test", where the data has parts.
        request: how to open the set.
    """

    def __init__(
        self,
        store: Store,
        names: Sequence[str],
        labels: np.ndarray | None,
        class_names: tuple[str, ...] | None,
        part: Split | None,
        request: Request,
    ) -> None:
        self.name, self.skip_damaged = request.name, request.skip_damaged
        self.labels, self.class_names, self.part = labels, class_names, part
        self._store, self._names = store, names

    def __len__(self) -> int:
        return len(self._names)

    def picture(self, index: int) -> Image.Image:
        return decode(self._store.read(self._names[index]), self.where(index))

    def read(self, index: int) -> np.ndarray:
        image = np.asarray(self.picture(index))
        return image[:, :, None] if image.ndim == 2 else image

    def where(self, index: int) -> str:
        return self._store.where(self._names[index])

    @property
    def fingerprint(self) -> str:
        """A digest of the files' names and sizes."""
        return fingerprint(self._store, self._names)


def find(store: Store, only: str | None = None) -> list[Found]:
    """All image files of a store, as one set.

    Raises:
        DataError: `only` is a single image.
    """
    if only is None:
        names = [name for name in store.sizes if name.lower().endswith(SUFFIXES)]
        return [Found(f"image files in {store.path}", partial(_open, store, names))] if names else []
    if only.lower().endswith(SUFFIXES):
        raise DataError(f"{store.where(only)} is a single image; name the folder that contains it")
    return []


def _open(store: Store, files: list[str], request: Request) -> EncodedImages:
    paths = _released_folder(_without_common_folder({file: _parts(file) for file in files}), request.notice)
    groups = _splits(paths)
    part: Split | None = None
    if groups:
        part = choose_part(str(store.path), groups, request)
        inside = {file: parts[1:] for file, parts in paths.items() if parts[0] in (*groups["train"], *groups["test"])}
        names = [file for file, parts in paths.items() if parts[0] in groups[part]]
    elif request.split is not None:
        raise no_such_split(str(store.path), request.split, "it has no train and test folders, so leave the split out")
    else:
        inside, names = paths, list(paths)
    class_of = _classes(inside)
    if class_of is None:
        return EncodedImages(store, names, None, None, part, request)
    class_names = tuple(sorted(set(class_of.values())))
    index = {class_name: label for label, class_name in enumerate(class_names)}
    labels = np.array([index[class_of[file]] for file in names], np.int64)
    return EncodedImages(store, names, labels, class_names, part, request)


def _parts(name: str) -> tuple[str, ...]:
    return tuple(part for part in name.split("/") if part not in ("", ".", ".."))


def _without_common_folder(paths: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """Remove the outer folders that hold everything, as in many archives."""
    while True:
        tops = {parts[0] if len(parts) > 1 else None for parts in paths.values()}
        top = next(iter(tops), None)
        if len(tops) != 1 or top is None or top.lower() in (*_TRAIN, *_TEST):
            return paths
        paths = {name: parts[1:] for name, parts in paths.items()}


def _released_folder(paths: dict[str, tuple[str, ...]], notice: Notice) -> dict[str, tuple[str, ...]]:
    tops = {parts[0] for parts in paths.values() if len(parts) > 1}
    for folder in _RELEASED:
        if folder in tops and len(tops) > 1:
            notice(f"reading {folder} of {', '.join(sorted(tops))}; name another folder itself to read that")
            return {name: parts[1:] for name, parts in paths.items() if len(parts) > 1 and parts[0] == folder}
    return paths


def _splits(paths: dict[str, tuple[str, ...]]) -> dict[Split | None, list[str]]:
    """The folders at the top by part; empty where there are also others."""
    tops = {parts[0] if len(parts) > 1 else "" for parts in paths.values()}
    if not tops <= {top for top in tops if top.lower() in (*_TRAIN, *_TEST)}:
        return {}
    train = [top for top in tops if top.lower() in _TRAIN]
    tests = {top.lower(): top for top in tops if top.lower() in _TEST}
    best = next((name for name in _TEST if name in tests), None)  # val is the test part only without a folder test
    return {"train": train, "test": [tests[best]] if best else []}


def _classes(paths: dict[str, tuple[str, ...]]) -> dict[str, str] | None:
    """The class of each image; None where the folders are no classes."""
    if any(len(parts) < 2 for parts in paths.values()) or _is_ffhq(paths):
        return None
    class_of = {name: parts[-2] for name, parts in paths.items()}
    return class_of if len(set(class_of.values())) > 1 else None


def _is_ffhq(paths: dict[str, tuple[str, ...]]) -> bool:
    """Whether each folder is named after the first number of the thousand images in it."""

    def fits(parts: tuple[str, ...]) -> bool:
        stem = parts[-1].rsplit(".", 1)[0]
        return bool(re.fullmatch(r"[0-9]{5}", stem) and parts[-2] == f"{int(stem) // 1000 * 1000:05d}")

    return all(fits(parts) for parts in paths.values())
