"""Decode images in threads.

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

from sivae.data.images.base import ImageSet
from sivae.errors import DamagedImageError, DataError
from sivae.progress import counting

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


def for_each(
    images: ImageSet,
    work: Callable[[int], object],
    blocks: Iterable[range],
    *,
    workers: int | None,
    title: str,
    progress: bool,
) -> dict[int, str]:
    """Call `work` with the number of each image, in threads.

    Args:
        images: the set.
        work: may raise a DamagedImageError.
        blocks: ranges of image numbers, one for each call of a thread.
        workers: number of threads; None: one for each core.
        title: of the progress display.
        progress: show progress if it takes long.

    Returns:
        By number, what is wrong with each damaged image.
    """
    damaged: dict[int, str] = {}
    with counting(title, len(images), enabled=progress) as counter:

        def work_on(block: range, stop: threading.Event) -> dict[int, str]:
            problems = {}
            for index in block:
                if stop.is_set():
                    raise Stopped
                try:
                    work(index)
                except DamagedImageError as error:
                    problems[index] = str(error)
                counter.advance()
            return problems

        with contextlib.closing(in_parallel(work_on, blocks, workers_or_default(workers))) as results:
            for problems in results:
                damaged |= problems
    return dict(sorted(damaged.items()))
