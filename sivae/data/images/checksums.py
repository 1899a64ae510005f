"""Compute a checksum of every image of a set, so that a resumed run notices images that have changed.

Images that are packed are read as pixels; of a set beyond `_MOST_BYTES`, which may be larger than the memory, only the
middle rows of each image. Images that are decoded at every read are read as files, which takes less time than decoding.
"""

from __future__ import annotations

import zlib
from typing import NamedTuple

import numpy as np

from sivae.data.images.base import PackedImages
from sivae.data.images.loading.fitting import FittedImages
from sivae.data.images.loading.threads import for_each

_MOST_BYTES = 4 << 30  # of pixels: seconds
_BLOCK = 256  # images


class Checksums(NamedTuple):
    """The checksums of a set.

    Attributes:
        kind: what was read; only checksums of one kind can be compared.
        values: CRC-32 of each image, int64 [N].
    """

    kind: str
    values: np.ndarray


def checksums(images: PackedImages | FittedImages, *, progress: bool = False) -> Checksums:
    """Compute the checksums of a set.

    Args:
        images: packed, or decoded when they are read. An image that cannot be read counts as an empty one.
        progress: show progress if it takes long.
    """
    kind, rows = "files", slice(None)
    if isinstance(images, PackedImages):
        count = min(images.height, max(1, _MOST_BYTES * images.height // max(1, images.array.nbytes)))
        top = (images.height - count) // 2
        kind, rows = f"{count} rows of pixels", slice(top, top + count)
    values = np.zeros(len(images), np.int64)
    blocks = [range(start, min(start + _BLOCK, len(images))) for start in range(0, len(images), _BLOCK)]

    def read(index: int) -> None:
        if isinstance(images, PackedImages):
            values[index] = zlib.crc32(np.ascontiguousarray(images.array[index, rows]).data)
        else:
            values[index] = zlib.crc32(images.stored(index))

    for_each(images, read, blocks, workers=None, title=f"checking {images.name}", progress=progress)
    return Checksums(kind, values)
