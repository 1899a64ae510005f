"""Read a folder of tars that are the shards of one set of image files, as WebDataset and img2dataset write them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from sivae.data.images.base import ImageSet
from sivae.data.images.formats import image_files
from sivae.data.images.formats.table import Found, Request
from sivae.data.images.free_memory import available_memory
from sivae.data.images.stores import FolderStore, Store, TarStore, open_tar
from sivae.errors import DataError
from sivae.words import plural

_SHARD = re.compile(r"(?:.*/)?[^/]*[0-9]\.tar", re.IGNORECASE)
_PART = re.compile(r"(?:.*[-_.])?(train|training|test|testing|val|valid|validation)[-_.]?[0-9]+\.tar", re.IGNORECASE)


class ShardStore(Store):
    """The files in several tars. A name begins with that of its tar.

    Args:
        folder: the folder of the tars.
        shards: their names in it.
    """

    def __init__(self, folder: Path, shards: Sequence[str]) -> None:
        self.path, self.sizes = folder, {}
        self._shards: dict[str, TarStore] = {}
        self._parts: dict[str, str] = {}
        left = available_memory() // 2  # for tars that are compressed in spite of their name
        for shard in shards:
            store = self._shards[shard] = open_tar(folder / shard, budget=left)
            left -= store.bytes_in_memory
            self.sizes |= {f"{shard}/{name}": size for name, size in store.sizes.items()}
            self.lost += tuple(f"{shard}/{name}" for name in store.lost)
            if match := _PART.fullmatch(shard.rpartition("/")[2]):
                self._parts[shard] = match[1]

    def _place(self, name: str) -> tuple[str, str]:
        """The tar of a file, and the file's name in it."""
        shard = name[: name.lower().index(".tar/") + len(".tar")]
        while shard not in self._shards:  # a folder may be named like a tar
            shard = name[: name.lower().index(".tar/", len(shard)) + len(".tar")]
        return shard, name[len(shard) + 1 :]

    def read(self, name: str) -> bytes:
        shard, own = self._place(name)
        return self._shards[shard].read(own)

    def head(self, name: str) -> bytes:
        shard, own = self._place(name)
        return self._shards[shard].head(own)

    def where(self, name: str) -> str:
        shard, own = self._place(name)
        return self._shards[shard].where(own)

    def inside(self, name: str) -> str:
        """A file's name below the folder of its tar; below the part, where the name of every tar has one."""
        shard, own = self._place(name)
        part = f"{self._parts[shard]}/" if len(self._parts) == len(self._shards) else ""
        folder = shard.rpartition("/")[0]
        return f"{folder}/{part}{own}" if folder else part + own


def find(store: Store, only: str | None = None) -> list[Found]:
    """The set whose shards are in a folder: tars whose names end with a number."""
    if only is not None or not isinstance(store, FolderStore):
        return []
    shards = [name for name in store.sizes if _SHARD.fullmatch(name)]
    return [Found(f"tar shards in {store.path}", partial(_open, store.path, shards))] if shards else []


def _open(folder: Path, shards: list[str], request: Request) -> ImageSet:
    found = image_files.find(ShardStore(folder, shards))
    if not found:
        raise DataError(
            f"{folder} holds {plural(len(shards), 'tar')} without image files; name one to read another data set"
        )
    return found[0].open(request)
