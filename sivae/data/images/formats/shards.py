"""Read a folder of tars that are the shards of one set of image files, as WebDataset and img2dataset write them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from sivae.data.free_memory import available_memory
from sivae.data.images.base import ImageSet
from sivae.data.images.formats import image_files
from sivae.data.images.formats.table import Found, Request
from sivae.data.images.listing import list_images
from sivae.data.stores import HEAD, FolderStore, Store, TarStore, open_tar
from sivae.errors import DataError
from sivae.words import plural

_SHARD = re.compile(r"(.*?)[-_.]?([0-9]{1,18})\.tar", re.IGNORECASE)  # its stem and its number
_PART = re.compile(r"(?:(.*)[-_.])?(train|training|test|testing|val|valid|validation)", re.IGNORECASE)  # a stem


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
            if part := _PART.fullmatch(_stem(shard)[1]):
                self._parts[shard] = part[2]

    def _place(self, name: str) -> tuple[str, str]:
        """The tar of a file, and the file's name in it."""
        shard = name[: name.lower().index(".tar/") + len(".tar")]
        while shard not in self._shards:  # a folder may be named like a tar
            shard = name[: name.lower().index(".tar/", len(shard)) + len(".tar")]
        return shard, name[len(shard) + 1 :]

    def read(self, name: str) -> bytes:
        shard, own = self._place(name)
        return self._shards[shard].read(own)

    def head(self, name: str, size: int = HEAD) -> bytes:
        shard, own = self._place(name)
        return self._shards[shard].head(own, size)

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
    """The set whose shards are in a folder that holds no image files.

    Raises:
        DataError: one folder holds shards of several sets.
    """
    if only is not None or not isinstance(store, FolderStore):
        return []
    shards = _shards([name for name in store.sizes if name.lower().endswith(".tar")])
    if not shards:
        return []
    listing = list_images(store)
    if listing.images:
        return []
    _check_one_set(store, shards)
    others = {name: found for name, found in listing.others.items() if name not in set(shards)}
    beside = replace(listing, others=others).left_out()
    return [Found(f"tar shards in {store.path}", partial(_open, store.path, shards, beside))]


def _stem(tar: str) -> tuple[str, str]:
    """The folder of a shard, and its name without the number."""
    folder, _, name = tar.rpartition("/")
    match = _SHARD.fullmatch(name)
    return folder, match[1] if match else name


def _shards(tars: Sequence[str]) -> list[str]:
    """Those tars that are shards: their folder and stem are the same, and their numbers count them.

    The numbers have zeros in front, or have several digits and follow each other. Those of svhn2.tar, or of cifar10.tar
    and cifar100.tar, do not.
    """
    numbers: dict[tuple[str, str], dict[str, str]] = {}
    for tar in tars:
        if match := _SHARD.fullmatch(tar.rpartition("/")[2]):
            numbers.setdefault(_stem(tar), {})[tar] = match[2]
    shards = set[str]()
    for group in numbers.values():
        values = [int(digits) for digits in group.values()]
        follow = 1 < len(values) == max(values) - min(values) + 1
        if any(len(digits) > 1 and (digits[0] == "0" or follow) for digits in group.values()):
            shards |= group.keys()
    return [tar for tar in tars if tar in shards]


def _check_one_set(store: Store, shards: Sequence[str]) -> None:
    """Check that the shards in a folder have one stem, but for the words that name a part."""
    counts: dict[str, Counter[str]] = {}
    for folder, stem in map(_stem, shards):
        part = _PART.fullmatch(stem)
        counts.setdefault(folder, Counter())[(part[1] or "") if part else stem] += 1
    for folder, sets in counts.items():
        if len(sets) > 1:
            came = ", ".join(f"{stem or 'without a name'} ({plural(count, 'tar')})" for stem, count in sets.items())
            raise DataError(
                f"{store.path / folder} holds tar shards of several sets: {came}; move each set into a folder of its "
                "own, and name that"
            )


def _open(folder: Path, shards: Sequence[str], beside: str, request: Request) -> ImageSet:
    found = image_files.find(ShardStore(folder, shards))
    if not found:
        raise DataError(
            f"{folder} holds {plural(len(shards), 'tar')} without image files; name one to read another data set"
        )
    if beside:
        request.notice(f"{folder}: beside the shards {beside}")
    return found[0].open(request)
