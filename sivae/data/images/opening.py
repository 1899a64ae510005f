"""From a path to a set of images: what lies there is told by its content and layout, never by the user."""

from __future__ import annotations

import os
from pathlib import Path

from sivae.data.images import arrays
from sivae.data.images.base import DataError, ImageSet, Notice, Split, nothing
from sivae.data.images.packed import DESCRIPTION, open_packed
from sivae.data.images.stores import is_archive, open_store
from sivae.data.images.tree import read_tree

SUPPORTED = """\
a folder, zip or tar of image files; a folder that sivae prepare wrote; \
CIFAR-10 and CIFAR-100 (python or binary release); MNIST-like IDX files; SVHN's cropped .mat files; \
uint8 arrays in .npy or .npz"""


def open_images(
    path: str | os.PathLike[str],
    *,
    split: Split | None = None,
    skip_damaged: bool = False,
    notice: Notice = nothing,
) -> ImageSet:
    """Open a data set of images, whatever its format.

    Args:
        path: a folder or a file.
        split: which part, where the data has parts; None: the train images, or all where there are no parts.
        skip_damaged: leave damaged images out of what is loaded or prepared, and count them.
        notice: told what was chosen where there was a choice.

    Raises:
        DataError: nothing is there, it is in no format that is known, it is damaged, or it has no such part.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(f"{path}: there is no such file or folder")
    if split not in (None, "train", "test"):
        raise DataError(f"split = {split!r}: expected train or test")
    name = path.resolve().name
    if path.is_dir() and (path / DESCRIPTION).is_file():
        return open_packed(path, split=split)
    if path.is_file() and not is_archive(path):
        if path.suffix.lower() in arrays.SUFFIXES:
            return arrays.read_arrays(path, name=name, split=split, notice=notice)
        raise _unknown(path, "a file")
    store = open_store(path)
    images = read_tree(store, name=name, split=split, skip_damaged=skip_damaged, notice=notice)
    if images is None:
        raise _unknown(path, _looked_at(list(store.sizes)))
    return images


def _looked_at(names: list[str]) -> str:
    if not names:
        return "no files"
    shown = ", ".join(names[:3]) + (f" … ({len(names):,} files)" if len(names) > 3 else "")
    return f"{shown}, and no images"


def _unknown(path: Path, found: str) -> DataError:
    return DataError(f"{path} holds {found}; what can be read: {SUPPORTED}")
