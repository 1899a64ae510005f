"""Sets of images: reading what people have, packing it once, and batches as fast as a step wants them."""

from sivae.data.images.base import ImageSet
from sivae.data.images.batches import ImageBatches
from sivae.data.images.fitted import FittedImages
from sivae.data.images.levels import at_resolution
from sivae.data.images.opening import open_images
from sivae.data.images.packed import PackedImages, verify_packed
from sivae.data.images.packing import load_packed
from sivae.data.images.preparing import prepare
from sivae.errors import DamagedImageError, DataError, NoSuchSplitError

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
