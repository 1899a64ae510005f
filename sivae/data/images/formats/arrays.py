"""Read uint8 arrays from `.npy` and `.npz` files, without unpickling anything."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np

from sivae.data.images.base import PackedImages, Split, no_such_split
from sivae.data.images.formats.cars3d import test_classes
from sivae.data.images.formats.releases import choose_part, numbers_as_names
from sivae.data.images.formats.table import Found, Request
from sivae.data.npy import MAGIC, Arrays, map_array
from sivae.data.stores import Store
from sivae.errors import DataError, reason_of

_SUFFIXES = (".npy", ".npz")
_ZIP = b"PK"

# Common names of the arrays in a .npz file: (images, labels).
_PAIRS = (("images", "labels"), ("x", "y"), ("X", "y"), ("data", "labels"), ("arr_0", "arr_1"), ("imgs", "classes"))
_CONTENTS = "contents"  # the second factor of each image, beside its class
_PART_PAIRS: dict[Split, tuple[tuple[str, str], ...]] = {
    "train": (("x_train", "y_train"), ("X_train", "y_train"), ("train_images", "train_labels")),
    "test": (("x_test", "y_test"), ("X_test", "y_test"), ("test_images", "test_labels")),
}


def find(store: Store, only: str | None = None) -> list[Found]:
    """The arrays of a single file."""
    if only is None or not only.lower().endswith(_SUFFIXES):
        return []
    path = store.path / only
    return [Found(f"arrays in {path}", partial(_open, path, store.head(only)))]


def _open(path: Path, head: bytes, request: Request) -> PackedImages:
    """The images of a file; a `.npy` file is mapped into memory."""
    split = request.split
    try:
        if head.startswith(MAGIC):
            if split is not None:
                raise no_such_split(str(path), split, "one array has no parts, so leave the split out")
            return _checked(map_array(path), _labels_beside(path), request.name, str(path))
        if head.startswith(_ZIP):
            return _read_npz(Arrays(path), path, request)
        raise ValueError(f"it begins with {head[:8].hex(' ') or 'nothing'}")
    except DataError:
        raise
    except Exception as error:  # numpy raises many kinds of errors on damaged files
        raise DataError(f"{path} cannot be read as an array of numbers: {reason_of(error)}") from None


def _read_npz(content: Mapping[str, np.ndarray], path: Path, request: Request) -> PackedImages:
    split, keys = request.split, list(content)
    parts: dict[Split | None, tuple[str, str]] = {}
    for which, pairs in _PART_PAIRS.items():
        for pair in pairs:
            if pair[0] in keys:
                parts.setdefault(which, pair)
    part: Split | None = None
    if parts:
        part = choose_part(str(path), parts, request)
        pair = parts[part]
    else:
        found = next((pair for pair in _PAIRS if pair[0] in keys), None)
        if split is not None and (found is None or not {found[1], _CONTENTS} <= set(keys)):
            raise no_such_split(str(path), split, f"it holds {', '.join(keys)}")
        if found is None and len(keys) != 1:
            known = ", ".join(images for images, _ in (*_PAIRS, *_PART_PAIRS["train"], *_PART_PAIRS["test"]))
            raise DataError(f"{path} holds {', '.join(keys) or 'nothing'}; expected images under one of {known}")
        pair = found or (keys[0], "")
    labels = content[pair[1]] if pair[1] in keys else None
    images = _checked(content[pair[0]], labels, request.name, f"{pair[0]} in {path}", part)
    if _CONTENTS not in keys:
        return images
    if parts or labels is None:
        request.notice(f"{path}: its {_CONTENTS} are left out; they need one array of images with labels")
        return images
    return _with_contents(images, content[_CONTENTS], split, str(path))


def _with_contents(images: PackedImages, contents: np.ndarray, split: Split | None, where: str) -> PackedImages:
    """The images of a part, with their contents. Parts share no class, as in :mod:`.cars3d`."""
    contents, names = _numbered(contents, len(images), "contents", where)
    array, labels = images.array, images.labels
    assert labels is not None
    if split is not None:
        classes = np.unique(labels)
        if len(classes) < 2:
            raise no_such_split(where, split, "all its images are of one class, and parts share no class")
        first = classes[len(classes) - test_classes(len(classes))]
        kept = labels >= first if split == "test" else labels < first
        array, labels, contents = array[kept], labels[kept], contents[kept]
    return PackedImages(
        array,
        labels,
        name=images.name,
        class_names=images.class_names,
        contents=contents,
        content_names=names,
        part=split,
    )


def _labels_beside(path: Path) -> np.ndarray | None:
    names = [f"{path.stem}-labels.npy", f"{path.stem}_labels.npy"] + ["labels.npy"] * (path.stem == "images")
    for name in names:
        if (path.parent / name).is_file():
            return map_array(path.parent / name)
    return None


def _checked(
    array: np.ndarray, labels: np.ndarray | None, name: str, where: str, part: Split | None = None
) -> PackedImages:
    array = _channels_last(array, where)
    class_names = None
    if labels is not None:
        labels, class_names = _numbered(labels, len(array), "labels", where)
    return PackedImages(array, labels, name=name, class_names=class_names, part=part)


def _numbered(values: np.ndarray, count: int, what: str, where: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels or contents, [N] or [N, 1], as int64 [N], and names for them."""
    values = values.reshape(-1) if values.shape[1:] == (1,) else values
    if values.dtype.kind not in "iu" or values.shape != (count,):
        raise DataError(
            f"{where}: its {what} are {values.dtype} of shape {list(values.shape)}; "
            f"expected {count:,} whole numbers, one for each image"
        )
    names = numbers_as_names(values, where, what)
    return values.astype(np.int64), names


def _channels_last(array: np.ndarray, where: str) -> np.ndarray:
    if array.dtype != np.uint8:
        remedy = "; scale to 0 … 255, round and convert to uint8 first" if array.dtype.kind == "f" else ""
        if array.ndim == 3 and array.shape[2] == 3:
            remedy = " images; an array [N, P, 3] is of point clouds, which models of point clouds read"
        raise DataError(f"{where} is {array.dtype} of shape {list(array.shape)}; expected uint8{remedy}")
    if array.ndim == 3:
        return array[:, :, :, None]  # [N, H, W]
    if array.ndim == 4 and array.shape[3] in (1, 3):
        return array  # [N, H, W, C]
    if array.ndim == 4 and array.shape[1] in (1, 3):
        return array.transpose(0, 2, 3, 1)  # [N, C, H, W]
    raise DataError(
        f"{where} has shape {list(array.shape)}; expected [N, H, W], [N, H, W, C] or [N, C, H, W] with 1 or 3 channels"
    )
