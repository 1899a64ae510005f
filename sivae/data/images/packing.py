"""Decoding a set once, in parallel, into images of one shape.

Threads do it: Pillow's decoders and its resize let go of Python's lock, and unlike processes threads need nothing sent
to them, and end with the program however that ends.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from sivae.data.images.base import ImageSet
from sivae.data.images.geometry import Crop, as_picture, check_shape_request, check_size, fit
from sivae.data.images.memory import amount, available_memory
from sivae.data.images.packed import PackedImages
from sivae.errors import DamagedImageError, DataError
from sivae.progress import counting

_PROBED = 64  # images that are looked at before the others
_BLOCK_BYTES = 8 << 20
_BLOCK_IMAGES = (16, 1024)

Result = TypeVar("Result")


@dataclass(frozen=True)
class Shape:
    """What every image of a set becomes."""

    resolution: int
    channels: int
    crop: Crop
    channels_given: bool
    exact: bool  # no resize: an image of another size is an error

    @property
    def image_bytes(self) -> int:
        """Of one image."""
        return self.resolution**2 * self.channels

    def blocks(self, count: int) -> list[range]:
        """The images in portions that are worth a thread's while."""
        least, most = _BLOCK_IMAGES
        size = min(max(_BLOCK_BYTES // self.image_bytes, least), most)
        return [range(start, min(start + size, count)) for start in range(0, count, size)]


def workers_or_default(workers: int | None) -> int:
    """A number of threads.

    Raises:
        DataError: it is below 1.
    """
    if workers is None:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if workers < 1:
        raise DataError(f"workers = {workers}: expected 1 or more")
    return workers


def skips_damaged(images: ImageSet) -> bool:
    """Whether the set was opened such that damaged images are left out."""
    return bool(getattr(images, "skip_damaged", False))


def where(images: ImageSet, index: int) -> str:
    """An image of a set, for messages."""
    name: Callable[[int], str] | None = getattr(images, "where", None)
    return f"image {index} of {images.name}" if name is None else name(index)


def nearest(images: ImageSet, resolution: int | None, crop: Crop) -> ImageSet:
    """The set from its files of the smallest images that are large enough, where it lies in several sizes."""
    at_least: Callable[[int], ImageSet] | None = getattr(images, "at_least", None)
    if at_least is None or resolution is None or isinstance(crop, tuple):  # a crop is in pixels of the largest
        return images
    return at_least(resolution)


def plan(images: ImageSet, *, resolution: int | None, crop: Crop = None, channels: int | None = None) -> Shape:
    """Decide the shape from what is asked for and from a look at some images, evenly spread.

    A set is RGB where one of them is, and grey where none is.

    Args:
        images: the source.
        resolution: None takes the images' own.

    Raises:
        DataError: the set is empty, or images do not fit the request.
    """
    check_shape_request(1 if resolution is None else resolution, crop, channels)
    if not len(images):
        raise DataError(f"{images.name} holds no images")
    count = min(_PROBED, len(images))
    probed = sorted({round(i * (len(images) - 1) / max(1, count - 1)) for i in range(count)})
    grey, side = True, resolution
    failure: DamagedImageError | None = None
    seen = 0
    for index in probed:
        try:
            picture = _picture(images, index)
            check_size(picture.width, picture.height, crop, where(images, index))
        except DamagedImageError as error:
            failure = error
            if not skips_damaged(images):
                raise
            continue
        seen += 1
        grey = grey and picture.mode == "L"
        side = side or (min(picture.size) if crop == "center" or crop is None else crop[2])
        if images.uniform:
            break
    if not seen and failure is not None and side is None:
        raise failure
    return Shape(
        resolution=side or 1,
        channels=channels or (1 if grey and seen else 3),
        crop=crop,
        channels_given=channels is not None,
        exact=resolution is None,
    )


def fit_image(images: ImageSet, index: int, shape: Shape) -> np.ndarray:
    """An image of the set in its shape, uint8 [R, R, C].

    Raises:
        DamagedImageError: it is damaged, or too small for the crop.
        DataError: it does not fit the shape otherwise.
    """
    picture = _picture(images, index)
    if shape.exact and shape.crop is None and picture.size != (shape.resolution, shape.resolution):
        raise DataError(
            f"{where(images, index)} is {picture.width}×{picture.height} (width × height), where the first image is "
            f"{shape.resolution}×{shape.resolution}; bring all to one size with sivae prepare"
        )
    if picture.mode == "RGB" and shape.channels == 1 and not shape.channels_given:
        raise DataError(
            f"{where(images, index)} is RGB, where the images before it are grey; "
            "say with --channels 3 or --channels 1 what all shall be"
        )
    return fit(
        picture, resolution=shape.resolution, crop=shape.crop, channels=shape.channels, where=where(images, index)
    )


def _picture(images: ImageSet, index: int) -> Any:
    picture = getattr(images, "picture", None)
    return as_picture(images.read(index)) if picture is None else picture(index)


class Stopped(Exception):
    """Another thread has failed, or the user has had enough."""


def in_parallel(
    work: Callable[[range, threading.Event], Result], blocks: Iterable[range], workers: int
) -> Generator[Result, None, None]:
    """Results of blocks as they are ready, at most a few ahead of who takes them.

    The first error, in the work or at the taker's, stops all threads before it is passed on.

    Args:
        work: called in threads with a block and an event that is set when it had better stop by raising `Stopped`.
    """
    stop = threading.Event()
    remaining = iter(blocks)
    with ThreadPoolExecutor(workers, thread_name_prefix="sivae-pack") as pool:
        pending: set[Future[Result]] = set()
        try:
            while True:
                while len(pending) < workers + 2 and (block := next(remaining, None)) is not None:
                    pending.add(pool.submit(work, block, stop))
                if not pending:
                    return
                ready, pending = wait(pending, return_when=FIRST_COMPLETED)
                for future in ready:
                    yield future.result()
        finally:
            stop.set()
            for future in pending:
                future.cancel()


def load_packed(
    source: ImageSet,
    *,
    resolution: int | None = None,
    channels: int | None = None,
    crop: Crop = None,
    budget_bytes: int | None = None,
    workers: int | None = None,
    progress: bool = True,
) -> PackedImages:
    """Decode and resize a set into memory.

    Args:
        source: the images. Where it was opened with `skip_damaged`, damaged ones are left out and counted.
        resolution: None takes that of the images, which must be the same for all.
        channels: None takes RGB where images are, else grey.
        crop: None refuses images that are not square.
        budget_bytes: the most that pixels may take; None: half of the free memory.
        workers: threads; None: one for each core.
        progress: show it where it takes long.

    Returns:
        The set in memory; the source itself where it is that already.

    Raises:
        DamagedImageError: an image is damaged, and the source was not opened with `skip_damaged`.
        DataError: the set does not fit the budget, or an image the shape.
    """
    if isinstance(source, PackedImages) and crop is None and source.height == source.width:
        asked = (resolution or source.resolution, channels or source.channels)
        if asked == (source.resolution, source.channels) and not isinstance(source.array, np.memmap):
            check_shape_request(asked[0], crop, channels)
            return source
    source = nearest(source, resolution, crop)
    shape = plan(source, resolution=resolution, crop=crop, channels=channels)
    budget = available_memory() // 2 if budget_bytes is None else budget_bytes
    size = len(source) * shape.image_bytes
    if size > budget:
        raise DataError(
            f"{source.name}: {len(source):,} images of {shape.resolution}×{shape.resolution}×{shape.channels} take "
            f"{amount(size)}, more than the {amount(budget)} allowed in memory; pack them once with sivae prepare, "
            "and name what it wrote"
        )
    array = np.empty((len(source), shape.resolution, shape.resolution, shape.channels), np.uint8)
    damaged: list[int] = []
    may_skip = skips_damaged(source)
    with counting(f"reading {source.name}", len(source), enabled=progress) as counter:

        def work(block: range, stop: threading.Event) -> list[int]:
            bad = []
            for index in block:
                if stop.is_set():
                    raise Stopped
                try:
                    array[index] = fit_image(source, index, shape)
                except DamagedImageError:
                    if not may_skip:
                        raise
                    bad.append(index)
                counter.advance()
            return bad

        with contextlib.closing(in_parallel(work, shape.blocks(len(source)), workers_or_default(workers))) as results:
            for bad in results:
                damaged += bad
    labels, contents = all_labels(source), all_contents(source)
    if damaged:
        if len(damaged) == len(source):
            raise DataError(f"{source.name}: none of its {len(source):,} images can be read")
        kept = np.delete(np.arange(len(source)), damaged)
        array = array[kept]
        labels = None if labels is None else labels[kept]
        contents = None if contents is None else contents[kept]
    return PackedImages(
        array,
        labels,
        name=source.name,
        class_names=source.class_names,
        contents=contents,
        content_names=None if contents is None else content_names(source),
        skipped=source.skipped + len(damaged),
        fingerprint=getattr(source, "fingerprint", None),
        part=getattr(source, "part", None),
    )


def all_labels(images: ImageSet) -> np.ndarray | None:
    """int64 [N], or None where the set, or one of its images, has no labels."""
    if images.class_names is None:
        return None
    if isinstance(images, PackedImages):
        return images.labels
    return _every(images.label, len(images))


def content_names(images: ImageSet) -> tuple[str, ...] | None:
    """The names of a set's contents by number; None for the many kinds of set that have none."""
    return getattr(images, "content_names", None)


def all_contents(images: ImageSet) -> np.ndarray | None:
    """int64 [N], or None where the set, or one of its images, has no contents."""
    if content_names(images) is None:
        return None
    if isinstance(images, PackedImages):
        return images.contents
    content: Callable[[int], int | None] = images.content  # type: ignore[attr-defined]
    return _every(content, len(images))


def _every(value: Callable[[int], int | None], count: int) -> np.ndarray | None:
    values = [value(index) for index in range(count)]
    return None if None in values else np.array(values, np.int64)
