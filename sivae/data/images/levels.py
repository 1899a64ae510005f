"""A set of images at a lower resolution, for growing models: mapped from the disk if it is there, else computed."""

from __future__ import annotations

import contextlib
import threading

import numpy as np

from sivae.data.free_memory import amount, available_memory
from sivae.data.images.base import PackedImages
from sivae.data.images.halving import averaged, halvings_between
from sivae.data.images.loading.fitting import FittedImages
from sivae.data.images.loading.threads import Stopped, in_parallel, workers_or_default
from sivae.errors import DataError
from sivae.progress import counting

_BLOCK_BYTES = 8 << 20


def at_resolution(
    images: PackedImages | FittedImages,
    resolution: int,
    *,
    budget_bytes: int | None = None,
    progress: bool = False,
) -> PackedImages | FittedImages:
    """The same images at a lower resolution: each pixel is a square's mean, rounded once, a half to the even number.

    A lower resolution that `sivae prepare` wrote is mapped from the disk. Otherwise a packed set is averaged once, into
    memory, and a fitted set at every read.

    Args:
        images: a set of side R.
        resolution: R divided by 1, 2, 4, 8 …
        budget_bytes: the most that computed pixels may take; None: half of the free memory.
        progress: show progress if it takes long.

    Returns:
        A set of the same class, with the same order, labels and name; `images` itself at its own resolution.

    Raises:
        DataError: the images are not square, the resolution is not allowed, or the set does not fit the budget.
    """
    halvings = halvings_between(images.resolution, resolution)
    if halvings is None:
        raise DataError(
            f"{images.name}: resolution = {resolution}, where the images have {images.resolution}; expected "
            f"{images.resolution} divided by 1, 2, 4, 8 … without a remainder; sivae prepare makes other sizes"
        )
    if halvings == 0:
        return images
    if isinstance(images, FittedImages):
        return images.halved(halvings)
    array = images.levels.get(resolution)
    if array is None:
        array = _averaged_in_memory(images, resolution, halvings, budget_bytes, progress)
    return images.as_level(array)


def _averaged_in_memory(
    images: PackedImages, resolution: int, halvings: int, budget: int | None, progress: bool
) -> np.ndarray:
    count = len(images)
    shape = (count, resolution, resolution, images.channels)
    budget = available_memory() // 2 if budget is None else budget
    size = int(np.prod(shape, dtype=np.int64))
    if size > budget:
        raise DataError(
            f"{images.name}: {count:,} images of {resolution}×{resolution}×{images.channels} take {amount(size)}, more "
            f"than the {amount(budget)} allowed in memory; prepare the set with its lower resolutions, as sivae "
            "prepare does by default where the side is a power of two"
        )
    array = np.empty(shape, np.uint8)
    step = max(1, _BLOCK_BYTES // int(np.prod(images.array.shape[1:])))
    blocks = [range(start, min(start + step, count)) for start in range(0, count, step)]
    title = f"averaging {images.name} to {resolution}×{resolution}"
    with counting(title, count, enabled=progress) as counter:

        def work(block: range, stop: threading.Event) -> None:
            if stop.is_set():
                raise Stopped
            array[block.start : block.stop] = averaged(images.array[block.start : block.stop], halvings)
            counter.advance(len(block))

        with contextlib.closing(in_parallel(work, blocks, workers_or_default(None))) as results:
            for _ in results:
                pass
    return array
