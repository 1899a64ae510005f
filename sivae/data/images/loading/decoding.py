"""Decode a whole set into memory, in threads."""

from __future__ import annotations

import numpy as np

from sivae.data.free_memory import amount, available_memory
from sivae.data.images.base import ImageSet, PackedImages
from sivae.data.images.crop import Crop
from sivae.data.images.loading.damage import kept_images
from sivae.data.images.loading.fitting import REMEDY, choose_shape, fit_image, nearest
from sivae.data.images.loading.threads import for_each
from sivae.data.images.pixels import check_shape_request
from sivae.data.notice import Notice, ignore
from sivae.errors import DataError
from sivae.words import plural


def load_packed(
    source: ImageSet,
    *,
    resolution: int | None = None,
    channels: int | None = None,
    crop: Crop = None,
    budget_bytes: int | None = None,
    workers: int | None = None,
    progress: bool = True,
    notice: Notice = ignore,
) -> PackedImages:
    """Decode and resize a set into memory.

    Args:
        source: the images. Where it was opened with `skip_damaged`, damaged images are left out and counted.
        resolution: None takes the resolution of the images, which must be the same for all.
        channels: None takes RGB where images are RGB, else grey.
        crop: None refuses images that are not square.
        budget_bytes: the most that the pixels may take; None: half of the free memory.
        workers: number of threads; None: one for each core.
        progress: show progress if it takes long.
        notice: called with a line about the resize and one about damaged images, where there are such.

    Returns:
        The set in memory; `source` itself where it already is in memory at this shape.

    Raises:
        DamagedImageError: images are damaged, and the source was not opened with `skip_damaged`.
        DataError: the set does not fit the budget, or an image does not fit the shape.
    """
    if isinstance(source, PackedImages) and crop is None and source.height == source.width:
        asked = (resolution or source.resolution, channels or source.channels)
        if asked == (source.resolution, source.channels) and not isinstance(source.array, np.memmap):
            check_shape_request(asked[0], crop, channels)
            return source
    source = nearest(source, resolution, crop)
    shape = choose_shape(source, resolution=resolution, crop=crop, channels=channels, notice=notice)
    budget = available_memory() // 2 if budget_bytes is None else budget_bytes
    size = len(source) * shape.image_bytes
    if size > budget:
        raise DataError(
            f"{source.name}: {plural(len(source), 'image')} of {shape.resolution}×{shape.resolution}×{shape.channels} "
            f"take {amount(size)}, more than the {amount(budget)} allowed in memory; pack them once with sivae "
            "prepare, and name the folder that it wrote"
        )
    array = np.empty((len(source), shape.resolution, shape.resolution, shape.channels), np.uint8)

    def read(index: int) -> None:
        array[index] = fit_image(source, index, shape)

    damaged = for_each(
        source, read, shape.blocks(len(source)), workers=workers, title=f"reading {source.name}", progress=progress
    )
    kept = kept_images(source, damaged, REMEDY, notice)
    labels, contents = source.labels, source.contents
    if damaged:
        array = array[kept]
        labels = None if labels is None else labels[kept]
        contents = None if contents is None else contents[kept]
    return PackedImages(
        array,
        labels,
        name=source.name,
        class_names=source.class_names,
        contents=contents,
        content_names=source.content_names,
        skipped=source.skipped + len(damaged),
        fingerprint=source.fingerprint,
        part=source.part,
    )
