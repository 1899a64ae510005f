"""Read image files in a folder, zip or tar, and find the part and the class of each.

Classes are those that the set states itself, see :mod:`.class_index`. Else the folder directly above an image is its
class, where there is more than one such folder. Folders `train` and `test` at the top are parts. Folders that only
number the images (`00000/00000.png` of FFHQ, `00000/img00000000.png` of StyleGAN, …) are no classes.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from functools import partial

import numpy as np
from PIL import Image

from sivae.data.images.base import ImageSet, Split, no_such_split
from sivae.data.images.formats.class_index import ClassIndex, read_index
from sivae.data.images.formats.releases import choose_part
from sivae.data.images.formats.table import Found, Request
from sivae.data.images.kinds import readable_kinds
from sivae.data.images.listing import Listing, list_images, look
from sivae.data.images.pixels import decode
from sivae.data.notice import Notice
from sivae.data.stores import Store, fingerprint
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
        stated: whether the set states its classes in a file, which may change while the images stay.
    """

    def __init__(
        self,
        store: Store,
        names: Sequence[str],
        labels: np.ndarray | None,
        class_names: tuple[str, ...] | None,
        part: Split | None,
        request: Request,
        stated: bool = False,
    ) -> None:
        self.name, self.skip_damaged = request.name, request.skip_damaged
        self.labels, self.class_names, self.part = labels, class_names, part
        self._store, self._names, self._stated = store, names, stated

    def __len__(self) -> int:
        return len(self._names)

    def picture(self, index: int) -> Image.Image:
        return decode(self._store.read(self._names[index]), self.where(index))

    def read(self, index: int) -> np.ndarray:
        image = np.asarray(self.picture(index))
        return image[:, :, None] if image.ndim == 2 else image

    def stored(self, index: int) -> bytes:
        return self._store.read(self._names[index])

    def where(self, index: int) -> str:
        return self._store.where(self._names[index])

    @property
    def fingerprint(self) -> str:
        """A digest of the files' names and sizes, and of the classes that the set states."""
        of_files = fingerprint(self._store, self._names)
        if not self._stated or self.labels is None:
            return of_files
        return hashlib.sha256(f"{of_files} {self.class_names} {self.labels.tolist()}".encode()).hexdigest()


def find(store: Store, only: str | None = None) -> list[Found]:
    """All image files of a store, as one set.

    Raises:
        DataError: `only` is a single image.
    """
    if only is None:
        listing = list_images(store)
        if listing.images:
            return [Found(f"image files in {store.path}", partial(_open, store, listing))]
        if "unreadable image" in listing.others.values():
            raise DataError(
                f"{store.path} holds no image that can be read ({', '.join(readable_kinds())}); "
                f"{listing.left_out()}; convert them first, to PNG for example"
            )
    elif look(store, only) in ("image", "unreadable image"):
        raise DataError(f"{store.where(only)} is a single image; name the folder that contains it")
    return []


def _open(store: Store, listing: Listing, request: Request) -> EncodedImages:
    paths = {file: _parts(store.inside(file)) for file in listing.images}
    paths = _released_folder(_without_common_folder(paths), request.notice)
    groups = _splits(paths)
    part: Split | None = None
    if groups:
        part = choose_part(str(store.path), groups, request)
        used = (*groups["train"], *groups["test"])
        _say_unused(str(store.path), Counter(parts[0] for parts in paths.values() if parts[0] not in used), request)
        inside = {file: parts[1:] for file, parts in paths.items() if parts[0] in used}
        names = [file for file, parts in paths.items() if parts[0] in groups[part]]
    elif request.split is not None:
        raise no_such_split(str(store.path), request.split, "it has no train and test folders, so leave the split out")
    else:
        inside, names = paths, list(paths)
    if left_out := listing.left_out():
        request.notice(f"{store.path}: {left_out}")
    stated = read_index(store, list(inside))
    classes = stated or _by_folder(inside)
    if classes is None:
        return EncodedImages(store, names, None, None, part, request)
    request.notice(f"{store.path}: {classes}")
    labels = classes.labels
    if labels is not None and part is not None:
        row = {file: number for number, file in enumerate(inside)}
        labels = labels[[row[file] for file in names]]
    return EncodedImages(store, names, labels, classes.class_names, part, request, stated=stated is not None)


def _say_unused(title: str, counts: Counter[str], request: Request) -> None:
    if counts:
        folders = ", ".join(f"{folder} ({count:,})" for folder, count in sorted(counts.items()))
        request.notice(f"{title}: left out: images of {folders}; train and test are read; name the folder to read it")


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


def _by_folder(paths: dict[str, tuple[str, ...]]) -> ClassIndex | None:
    """The folder above each image as its class; None where the folders are no classes."""
    if any(len(parts) < 2 for parts in paths.values()) or _only_numbers(paths):
        return None
    names = tuple(sorted({parts[-2] for parts in paths.values()}))
    if len(names) < 2:
        return None
    number = {name: label for label, name in enumerate(names)}
    labels = np.array([number[parts[-2]] for parts in paths.values()], np.int64)
    return ClassIndex("the folders of the images", labels, names)


def _only_numbers(paths: dict[str, tuple[str, ...]]) -> bool:
    """Whether each folder has five digits that follow from the number of each image in it.

    They are the first number of a thousand (FFHQ), which thousand it is (StyleGAN, EDM), or which ten thousand
    (img2dataset).
    """
    fits = [True, True, True]
    for parts in paths.values():
        match = re.fullmatch(r"(?:img)?([0-9]{5,18})", parts[-1].partition(".")[0])
        if match is None or not re.fullmatch("[0-9]{5}", parts[-2]):
            return False
        number, folder = int(match[1]), int(parts[-2])
        expected = (number // 1000 * 1000, number // 1000, number // 10_000)
        fits = [one and folder == value for one, value in zip(fits, expected, strict=True)]
    return any(fits)
