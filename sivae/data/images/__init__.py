"""Sets of images: read what people have, prepare it once, load batches. Names load on first use, without torch."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sivae.data.images.base import ImageSet, PackedImages
    from sivae.data.images.levels import at_resolution
    from sivae.data.images.loading.batches import ImageBatches
    from sivae.data.images.loading.decoding import load_packed
    from sivae.data.images.loading.fitting import FittedImages
    from sivae.data.images.opening import open_images
    from sivae.data.images.prepared import verify_packed
    from sivae.data.images.write_prepared import prepare
    from sivae.errors import DamagedImageError, DataError, NoSuchSplitError

_HOMES = {
    "DamagedImageError": "sivae.errors",
    "DataError": "sivae.errors",
    "FittedImages": "sivae.data.images.loading.fitting",
    "ImageBatches": "sivae.data.images.loading.batches",
    "ImageSet": "sivae.data.images.base",
    "NoSuchSplitError": "sivae.errors",
    "PackedImages": "sivae.data.images.base",
    "at_resolution": "sivae.data.images.levels",
    "load_packed": "sivae.data.images.loading.decoding",
    "open_images": "sivae.data.images.opening",
    "prepare": "sivae.data.images.write_prepared",
    "verify_packed": "sivae.data.images.prepared",
}

__all__ = [
    "DamagedImageError",
    "DataError",
    "FittedImages",
    "ImageBatches",
    "ImageSet",
    "NoSuchSplitError",
    "PackedImages",
    "at_resolution",
    "load_packed",
    "open_images",
    "prepare",
    "verify_packed",
]


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(home), name)
