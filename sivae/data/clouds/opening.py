"""Open a set of point clouds: the built-in shapes by name, or files by their path."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from sivae.data.clouds.base import CloudSet, Normalize, Part
from sivae.data.clouds.builtin import NAME, is_named
from sivae.data.clouds.builtin.shapes import BuiltinShapes
from sivae.data.clouds.stored import SUFFIXES, StoredClouds
from sivae.data.images.builtin import NAMED as IMAGES
from sivae.data.notice import Notice, ignore
from sivae.data.stores import FolderStore, is_archive, open_store
from sivae.errors import DataError


def open_clouds(
    path: str | os.PathLike[str],
    *,
    part: Part = "train",
    classes: Sequence[str] | None = None,
    points: int = 2048,
    normalize: Normalize = "sphere",
    seed: int = 0,
    show: bool = False,
    notice: Notice = ignore,
) -> CloudSet:
    """Open a set of point clouds or surfaces.

    Args:
        path: "shapes" for the built-in set, or "shapes:chair" for one class of it; else a folder, a zip, a tar or a
            file of :data:`sivae.data.clouds.stored.SUFFIXES`. A folder of that name is "./shapes".
        part: "train" or "test", as folders and names of files state it. A set that states no test part but a
            validation part gives that; in a set without parts the last tenth of each class, by name, is the test part.
        classes: names of the classes to take, or ShapeNet's numbers; labels follow their order. None: all.
        points: number of points in a cloud.
        normalize: "sphere", "cube" or "none", see :class:`CloudSet`.
        seed: of the built-in shapes; sets in files do not depend on it.
        show: show progress while files are read.
        notice: called with lines about what takes long and what is left out.

    Raises:
        DataError: the path does not exist, holds no point clouds, is damaged, or lacks a class.
        NoSuchSplitError: there is no such part.
    """
    if part not in ("train", "test"):
        raise DataError(f"part = {part!r}: expected train or test")
    text = os.fspath(path)
    if is_named(text):
        _, colon, kind = text.partition(":")
        if colon and classes is not None and list(classes) != [kind]:
            raise DataError(
                f"{text} names one class, and classes are {', '.join(classes) or 'none'}; expected {kind} alone; leave "
                f"the classes out, or take them from {NAME}"
            )
        return BuiltinShapes(part, [kind] if colon else classes, points=points, normalize=normalize, seed=seed)
    place = Path(path)
    if not place.is_dir() and not place.is_file():
        if text in IMAGES:
            raise DataError(
                f"{text}: these are built-in images, expected point clouds; name a folder, an archive or a file of "
                f"clouds, or {NAME!r}; a model of images is trained by sivae train mnist-small --data {text}"
            )
        reason = "is neither a folder nor a file" if place.exists() else "does not exist"
        raise DataError(f"{place} {reason}; name a folder, an archive or a file of point clouds, or {NAME!r}")
    only = None
    if place.is_dir() or is_archive(place):
        store = open_store(place, notice)
    elif place.suffix.lower() in SUFFIXES:
        store = FolderStore(place.parent, recursive=False)
        store.sizes.setdefault(place.name, place.stat().st_size)
        only = place.name
    else:
        raise DataError(f"{place} is no file of point clouds by its name; expected {', '.join(SUFFIXES)}, .zip or .tar")
    return StoredClouds(
        store, only, part=part, classes=classes, points=points, normalize=normalize, show=show, notice=notice
    )
