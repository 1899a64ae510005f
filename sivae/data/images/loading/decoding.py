"""Decode a whole set into memory, in threads.

Threads suffice: Pillow's decoders and its resize release Python's lock. Unlike processes, threads need no copies of the
images and end with the program.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TypeVar

import numpy as np

from sivae.data.images.base import ImageSet, Notice, PackedImages, ignore
from sivae.data.images.crop import Crop
from sivae.data.images.free_memory import amount, available_memory
from sivae.data.images.loading.fitting import choose_shape, fit_image, nearest
from sivae.data.images.pixels import check_shape_request
from sivae.errors import DamagedImageError, DataError
from sivae.progress import counting
from sivae.words import plural

Result = TypeVar("Result")


def workers_or_default(workers: int | None) -> int:
    """The number of threads; None gives one for each core.

    Raises:
        DataError: the number is below 1.
    """
    if workers is None:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if workers < 1:
        raise DataError(f"workers = {workers}: expected 1 or more")
    return workers


class Stopped(Exception):
    """A thread gives up its work, because another failed or the user interrupted."""


def in_parallel(
    work: Callable[[range, threading.Event], Result], blocks: Iterable[range], workers: int
) -> Generator[Result, None, None]:
    """Yield the results of blocks as they are ready; only a few blocks are worked on ahead of the caller.

    The first error, in the work or in the caller, stops all threads before it is raised.

    Args:
        work: called in threads with a block and an event; when the event is set it should raise `Stopped`.
        blocks: ranges of image numbers.
        workers: number of threads.
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
        notice: called with a line about the resize, where there is one.

    Returns:
        The set in memory; `source` itself where it already is in memory at this shape.

    Raises:
        DamagedImageError: an image is damaged, and the source was not opened with `skip_damaged`.
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
    damaged: list[int] = []
    with counting(f"reading {source.name}", len(source), enabled=progress) as counter:

        def work(block: range, stop: threading.Event) -> list[int]:
            bad = []
            for index in block:
                if stop.is_set():
                    raise Stopped
                try:
                    array[index] = fit_image(source, index, shape)
                except DamagedImageError:
                    if not source.skip_damaged:
                        raise
                    bad.append(index)
                counter.advance()
            return bad

        with contextlib.closing(in_parallel(work, shape.blocks(len(source)), workers_or_default(workers))) as results:
            for bad in results:
                damaged += bad
    labels, contents = source.labels, source.contents
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
        content_names=source.content_names,
        skipped=source.skipped + len(damaged),
        fingerprint=source.fingerprint,
        part=source.part,
    )
