"""Read the pixels of coming steps while the current step computes: from an array in threads, else in processes.

CUDA is called only in the caller's thread: a call from another thread would spoil a CUDA graph that is being captured.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from sivae.data.images.base import ImageSet
from sivae.data.images.loading.order import Order
from sivae.errors import DamagedImageError, DataError


class Prefetcher(Protocol):
    """Returns pixels by step and reads the next steps ahead. One thread may use it."""

    def take(self, step: int) -> Tensor:
        """Return uint8 ``[B, H, W, C]`` on the CPU; it belongs to the caller until :meth:`give_back`.

        Raises:
            DataError: an image cannot be used.
        """

    def give_back(self, pixels: Tensor) -> None:
        """Reuse the memory of a batch."""

    def close(self) -> None:
        """End threads and processes."""


def tensor_of(array: np.ndarray) -> Tensor:
    """A tensor that shares an array's memory, for reading only."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*not writable")  # torch has no read-only tensors
        return torch.from_numpy(array)


class Buffers:
    """Buffers that are reused, because pinning memory (which copies to a GPU need) is slow."""

    def __init__(self, shape: tuple[int, ...], *, pinned: bool) -> None:
        self._shape, self._pinned = shape, pinned
        self._free: list[Tensor] = []

    def take(self) -> Tensor:
        """A free buffer, or a new one."""
        return self._free.pop() if self._free else torch.empty(self._shape, dtype=torch.uint8, pin_memory=self._pinned)

    def give_back(self, buffer: Tensor) -> None:
        """Make a buffer free again."""
        self._free.append(buffer)


class ArrayPrefetcher:
    """Gathers rows of an array, in memory or mapped from a file, in threads.

    Args:
        data: uint8 ``[N, H, W, C]`` on the CPU.
        order: which images each step has.
        batch_size: images of a step.
        ahead: number of steps to read ahead.
        threads: number of threads; several hide the latency of a disk.
        pinned: whether a GPU copies from the results.
    """

    def __init__(self, data: Tensor, order: Order, *, batch_size: int, ahead: int, threads: int, pinned: bool) -> None:
        self._data, self._order, self._ahead = data, order, ahead
        self._buffers = Buffers((batch_size, *data.shape[1:]), pinned=pinned)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="sivae-data")
        self._coming: dict[int, tuple[Future[None], Tensor]] = {}

    def take(self, step: int) -> Tensor:
        for other in [other for other in self._coming if not step <= other <= step + self._ahead]:
            future, buffer = self._coming.pop(other)  # the caller jumped to another step
            if not future.cancel():
                future.exception()  # waits
            self.give_back(buffer)
        for coming in range(step, step + self._ahead + 1):
            if coming not in self._coming:
                buffer = self._buffers.take()
                future = self._pool.submit(_gather, self._data, self._order, coming, buffer)
                self._coming[coming] = future, buffer
        future, buffer = self._coming.pop(step)
        future.result()
        return buffer

    def give_back(self, pixels: Tensor) -> None:
        self._buffers.give_back(pixels)

    def close(self) -> None:
        self._coming.clear()
        self._pool.shutdown(wait=True, cancel_futures=True)


def _gather(data: Tensor, order: Order, step: int, out: Tensor) -> None:
    torch.index_select(data, 0, torch.from_numpy(order.indices(step)), out=out)


class ProcessPrefetcher:
    """Decodes images in worker processes.

    Args:
        images: a set whose images all have one shape.
        shape: that shape, (H, W, C).
        order: which images each step has.
        batch_size: images of a step.
        ahead: least number of steps to read ahead.
        workers: number of processes.
        pinned: whether a GPU copies from the results.
    """

    def __init__(
        self,
        images: ImageSet,
        shape: tuple[int, ...],
        order: Order,
        *,
        batch_size: int,
        ahead: int,
        workers: int,
        pinned: bool,
    ) -> None:
        self._rows, self._order = _Rows(images, shape), order
        self._workers, self._prefetch = workers, max(1, math.ceil(ahead / workers))
        self._buffers = Buffers((batch_size, *shape), pinned=pinned) if pinned else None
        self._next = -1
        self._batches: Any = None  # the DataLoader's iterator

    def take(self, step: int) -> Tensor:
        try:
            if self._batches is None or step != self._next:
                self._start(step)
            pixels = next(self._batches)
        except RuntimeError as error:  # raised by the DataLoader itself
            self.close()
            raise DataError(
                f"a process that reads images has died: {' '.join(str(error).split())}; it may have run out of "
                "memory: use fewer workers, or pack the images with sivae prepare"
            ) from None
        if isinstance(pixels, str):
            self.close()
            raise DataError(pixels)
        self._next = step + 1
        if self._buffers is None:
            return pixels
        # The DataLoader would pin memory in another thread, which calls CUDA.
        buffer = self._buffers.take()
        buffer.copy_(pixels)
        return buffer

    def _start(self, step: int) -> None:
        self.close()
        loader = DataLoader(
            self._rows,
            batch_sampler=_Steps(self._order, step),
            num_workers=self._workers,
            prefetch_factor=self._prefetch,
            collate_fn=_stack,
            worker_init_fn=_one_thread,
        )
        self._batches = iter(loader)

    def give_back(self, pixels: Tensor) -> None:
        if self._buffers is not None:
            self._buffers.give_back(pixels)

    def close(self) -> None:
        if self._batches is not None:
            batches, self._batches = self._batches, None
            batches._shutdown_workers()  # else this waits for the garbage collector


class _Rows(Dataset[Any]):
    """Images; a text where one cannot be used, because the DataLoader turns exceptions into tracebacks."""

    def __init__(self, images: ImageSet, shape: tuple[int, ...]) -> None:
        self._images, self._shape = images, shape

    def __getitem__(self, index: int) -> np.ndarray | str:
        try:
            image = self._images.read(index)
        except DamagedImageError as error:
            return f"{error}; leave it out, or pack the others with sivae prepare --skip-damaged"
        except (DataError, OSError) as error:
            return str(error)
        if image.shape != self._shape:
            return (
                f"{self._images.where(index)} has shape {list(image.shape)}, where the first image has "
                f"{list(self._shape)}; bring all to one shape with sivae prepare"
            )
        return image


class _Steps(Sampler[list[int]]):
    """The image numbers of one step after another, without end."""

    def __init__(self, order: Order, step: int) -> None:
        self._order, self._step = order, step

    def __iter__(self) -> Iterator[list[int]]:
        step = self._step
        while True:
            yield self._order.indices(step).tolist()
            step += 1


def _stack(rows: list[np.ndarray | str]) -> Tensor | str:
    for row in rows:
        if isinstance(row, str):
            return row
    return torch.from_numpy(np.stack(rows))


def _one_thread(_: int) -> None:
    torch.set_num_threads(1)
