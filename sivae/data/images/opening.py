"""From a path to a set of images: what lies there is told by its content and layout, never by the user."""

from __future__ import annotations

import os
from pathlib import Path

from sivae.data.images.base import ImageSet, Notice, Split, ignore
from sivae.data.images.formats.arrays import SUFFIXES as ARRAYS
from sivae.data.images.formats.arrays import read_arrays
from sivae.data.images.formats.cars3d import find_cars3d, is_cars3d
from sivae.data.images.formats.cifar import find_cifar
from sivae.data.images.formats.found import Found
from sivae.data.images.formats.idx import find_idx, is_idx
from sivae.data.images.formats.image_files import read_tree
from sivae.data.images.formats.kth import find_kth, is_kth
from sivae.data.images.formats.sequences import FoundSequences
from sivae.data.images.formats.svhn import find_svhn
from sivae.data.images.formats.tfrecords import FoundRecords, find_records, is_records
from sivae.data.images.pixels import SUFFIXES
from sivae.data.images.prepared import DESCRIPTION, RESUME, open_packed
from sivae.data.images.stores import FolderStore, is_archive, open_store
from sivae.errors import DataError

AnyFound = Found | FoundRecords | FoundSequences

SUPPORTED = (
    "a folder, zip or tar of image files (FFHQ's and CelebA-HQ's among them), a folder that sivae prepare wrote, "
    "CIFAR-10 and CIFAR-100 (python or binary release), IDX files as MNIST's, SVHN's cropped .mat files, "
    "Cars3D's .mat files, KTH's .avi videos of actions, TFRecords as those of FFHQ and CelebA-HQ, and uint8 arrays in "
    ".npy or .npz"
)


def open_images(
    path: str | os.PathLike[str],
    *,
    split: Split | None = None,
    skip_damaged: bool = False,
    notice: Notice = ignore,
) -> ImageSet:
    """Open a data set of images, whatever its format.

    Args:
        path: a folder or a file.
        split: which part, where the data has parts; None: the train images, or all where there are no parts.
        skip_damaged: leave damaged image files out of what is loaded or prepared, and count them.
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
    if path.is_dir() and (path / RESUME).is_file():
        raise DataError(f"{path} is unfinished; run the sivae prepare command that began it again, and it goes on")
    if path.is_file() and not is_archive(path):
        return _open_file(path, name, split, skip_damaged, notice)
    store = open_store(path, notice)
    found: list[AnyFound] = [*find_cifar(store), *find_idx(store), *find_svhn(store), *find_records(store)]
    found += [*find_cars3d(store), *find_kth(store)]
    if len(found) > 1:
        titles = ", ".join(one.title for one in found)
        raise DataError(f"{path} holds several data sets: {titles}; name one of them")
    if found:
        return _open_found(found[0], name, split, skip_damaged, notice)
    images = read_tree(store, name=name, split=split, skip_damaged=skip_damaged, notice=notice)
    if images is None:
        raise _unknown(path, _looked_at(list(store.sizes)))
    return images


def _open_found(found: AnyFound, name: str, split: Split | None, skip_damaged: bool, notice: Notice) -> ImageSet:
    if isinstance(found, Found):
        return found.open(name, split, notice)
    return found.open(name, split, notice, skip_damaged=skip_damaged)


def _open_file(path: Path, name: str, split: Split | None, skip_damaged: bool, notice: Notice) -> ImageSet:
    if path.suffix.lower() in ARRAYS:
        return read_arrays(path, name=name, split=split, notice=notice)
    store = FolderStore(path.parent, recursive=False)
    store.sizes.setdefault(path.name, path.stat().st_size)  # a hidden file, named all the same
    found: list[AnyFound] = [*find_cifar(store, path.name)]
    if is_records(path.name):
        found = [*find_records(store, path.name)]
    elif is_cars3d(path.name):
        found = [*find_cars3d(store, path.name)]
    elif is_kth(path.name):
        found = [*find_kth(store, path.name)]
    with path.open("rb") as file:
        head = file.read(64)
    if not found and (is_idx(head) or "idx3" in path.name):
        found = [*find_idx(store, path.name)]
    if not found and path.suffix.lower() == ".mat":
        found = [*find_svhn(store, path.name)]
    if found:
        return _open_found(found[0], name, split, skip_damaged, notice)
    if path.name.lower().endswith(SUFFIXES):
        raise DataError(f"{path} is a single image; name the folder that it lies in")
    raise _unknown(path, f"a file that begins with {head[:8].hex(' ') or 'nothing'}, and is called nothing known")


def _looked_at(names: list[str]) -> str:
    if not names:
        return "no files"
    shown = ", ".join(names[:3]) + (f" … ({len(names):,} files)" if len(names) > 3 else "")
    inside = " (an archive in it can be named itself)" if any(is_archive(Path(name)) for name in names) else ""
    return f"{shown}{inside}, and no images"


def _unknown(path: Path, found: str) -> DataError:
    return DataError(f"{path} holds {found}; what can be read: {SUPPORTED}")
