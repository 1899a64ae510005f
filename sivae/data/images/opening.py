"""Open a data set of images: detect its format from its content and layout."""

from __future__ import annotations

import os
from pathlib import Path

from sivae.data.images.base import ImageSet, Split
from sivae.data.images.builtin import NAMED, check_is_of_images, is_named
from sivae.data.images.formats.table import FORMATS, Found, Request, titles_and_files
from sivae.data.notice import Notice, ignore
from sivae.data.stores import FolderStore, Store, is_archive, open_store
from sivae.errors import DataError


def open_images(
    path: str | os.PathLike[str],
    *,
    split: Split | None = None,
    skip_damaged: bool = False,
    notice: Notice = ignore,
) -> ImageSet:
    """Open a data set of images in any format of :data:`sivae.data.images.formats.table.FORMATS`.

    Args:
        path: a folder or a file; or the name of a built-in set, a key of :data:`sivae.data.images.builtin.NAMED`.
        split: which part, where the data has parts; None: the train images, or all where there are no parts.
        skip_damaged: leave damaged image files out of what is loaded or prepared, and count them.
        notice: called with lines about choices that were made.

    Raises:
        DataError: the path does not exist, its format is unknown, it is damaged, or it has no such part.
    """
    if split not in (None, "train", "test"):
        raise DataError(f"split = {split!r}: expected train or test")
    if is_named(os.fspath(path)):
        return NAMED[os.fspath(path)](split)
    check_is_of_images(os.fspath(path))
    path = Path(path)
    if not path.exists():
        raise DataError(f"{path}: there is no such file or folder")
    store, only = _store_of(path, notice)
    found = _find(store, only)
    if not found:
        raise DataError(f"{path} holds {_content(store, only)}; what can be read: {titles_and_files()}")
    if only is None and len(found) > 1:
        titles = ", ".join(one.title for one in found)
        raise DataError(f"{path} holds several data sets: {titles}; name one of them")
    return found[0].open(Request(path.resolve().name, split, skip_damaged, notice))


def _store_of(path: Path, notice: Notice) -> tuple[Store, str | None]:
    """The files of a folder or archive; or those beside a file, and its name."""
    if not path.is_dir() and not path.is_file():
        raise DataError(f"{path} is neither a folder nor a file, but a pipe or a device; copy its content to a file")
    if path.is_dir() or is_archive(path):
        return open_store(path, notice), None
    store = FolderStore(path.parent, recursive=False)
    store.sizes.setdefault(path.name, path.stat().st_size)  # hidden files are not listed, but may be named
    return store, path.name


def _find(store: Store, only: str | None) -> list[Found]:
    for turn in sorted({row.turn for row in FORMATS}):
        found = [one for row in FORMATS if row.turn == turn for one in row.find(store, only)]
        if found:
            return found
    return []


def _content(store: Store, only: str | None) -> str:
    """What was found instead of images, for the error message."""
    if only is not None:
        return f"a file that begins with {store.head(only)[:8].hex(' ') or 'nothing'}, and has no known name"
    names = list(store.sizes)
    if not names:
        return "no files"
    shown = ", ".join(names[:3]) + (f" … ({len(names):,} files)" if len(names) > 3 else "")
    inside = " (an archive in it can be named itself)" if any(is_archive(Path(name)) for name in names) else ""
    return f"{shown}{inside}, and no images"
