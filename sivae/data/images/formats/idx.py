"""Read IDX files, the format of MNIST, Fashion-MNIST and similar sets, compressed by gzip or not."""

from __future__ import annotations

import io
import math
import re
import struct
import zlib
from functools import partial

import numpy as np

from sivae.data.free_memory import amount, available_memory
from sivae.data.images.base import Split
from sivae.data.images.formats.releases import Content, by_folder, found_arrays, numbers_as_names
from sivae.data.images.formats.table import Found
from sivae.data.stores import Store
from sivae.data.unpacking import Unpacked, is_compressed
from sivae.errors import DataError
from sivae.words import plural

_IMAGES = re.compile(r"(?P<stem>.*?)images(?P<mark>[-.])idx3-ubyte(\.gz)?")
_PARTS: tuple[tuple[str, Split], ...] = (("train", "train"), ("t10k", "test"), ("test", "test"))
_UNSIGNED_BYTE = 8
_MAGIC = 4  # bytes


def find(store: Store, only: str | None = None) -> list[Found]:
    """The sets of IDX files in the folders of a store, by MNIST's file names: one file of images for each part.

    A single file may have any name, if its first bytes are those of IDX images.
    """
    if only is not None and not (_begins_idx(store.head(only)) or "idx3" in only):
        return []
    sets: dict[tuple[str, str], dict[Split | None, list[str]]] = {}
    for folder, files in by_folder(store).items():
        for own, name in files.items():
            match = _IMAGES.fullmatch(own)
            if name != only and (only is not None or match is None):
                continue
            stem = match["stem"] if match else own
            word, part = next(((word, part) for word, part in _PARTS if word in stem), ("", None))
            beside = sets.setdefault((folder, stem.replace(word, "")), {}).setdefault(part, [])
            if own.endswith(".gz") and beside:
                continue  # the same file, compressed
            beside[:] = [name]
    return [
        found_arrays(f"IDX files in {store.path / folder}", store, parts, partial(_read, store))
        for (folder, _), parts in sets.items()
    ]


def _begins_idx(content: bytes) -> bool:
    """Whether a file's first bytes are those of IDX images, compressed or not."""
    if content[:2] == b"\x1f\x8b":
        try:
            content = zlib.decompressobj(wbits=31).decompress(content, 4)
        except zlib.error:
            return False
    return content[:4] == bytes((0, 0, _UNSIGNED_BYTE, 3))


def _read(store: Store, files: list[str]) -> Content:
    (name,) = files
    pixels = _array(store, name, 3)[:, :, :, None]
    beside = _labels_name(store, name)
    if beside is None:
        return pixels, None, None
    labels = _array(store, beside, 1)
    if len(labels) != len(pixels):
        raise DataError(
            f"{store.where(beside)} has {len(labels):,} labels, where {store.where(name)} has {len(pixels):,} images"
        )
    return pixels, labels, numbers_as_names(labels, store.where(beside))


def _labels_name(store: Store, name: str) -> str | None:
    folder, slash, own = name.rpartition("/")
    match = _IMAGES.fullmatch(own)
    if match is None:
        return None
    plain = f"{folder}{slash}{match['stem']}labels{match['mark']}idx1-ubyte"
    return next((other for other in (plain, f"{plain}.gz") if other in store.sizes), None)


def _array(store: Store, name: str, dimensions: int) -> np.ndarray:
    where = store.where(name)
    content = store.read(name)
    plain = io.BytesIO(content)
    is_packed = is_compressed(content[:16])
    stream = Unpacked(plain, where, remedy="; unpack it with another program") if is_packed else plain
    head = stream.read(_MAGIC + 4 * dimensions)
    if len(head) < _MAGIC or head[:3] != bytes((0, 0, _UNSIGNED_BYTE)) or head[3] != dimensions:
        raise DataError(
            f"{where} begins with {head[:4].hex(' ') or 'nothing'}; an IDX file of bytes in "
            f"{plural(dimensions, 'dimension')} begins with 00 00 08 0{dimensions}"
        )
    if len(head) < _MAGIC + 4 * dimensions:
        raise DataError(f"{where} is cut short in its header")
    shape = struct.unpack(f">{dimensions}I", head[_MAGIC:])
    size = math.prod(shape)
    if size > available_memory() // 2:
        raise DataError(f"{where} claims to hold {amount(size)}, which do not fit into memory")
    if 0 in shape:
        raise DataError(f"{where} holds nothing: its shape is {list(shape)}")
    values = stream.read(size + 1)
    if len(values) != size:
        came = f"only {len(values):,}" if len(values) < size else "more"
        raise DataError(f"{where} claims to hold {size:,} bytes of shape {list(shape)}, and has {came}")
    return np.frombuffer(values, np.uint8).reshape(shape)
