"""Read the pixels of coming steps while the current step computes: from an array in threads, else in processes.

CUDA is called only in the caller's thread: a call from another thread would spoil a CUDA graph that is being captured.
"""

from __future__ import annotations

import contextlib
import math
import mmap
import multiprocessing
import os
import signal
import threading
import time
import traceback
import warnings
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.context import ForkProcess
from multiprocessing.util import Finalize
from queue import SimpleQueue
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from sivae.data.images.base import ImageSet
from sivae.data.images.loading.order import Order
from sivae.errors import DamagedImageError, DataError

_PATIENCE_SECONDS = 600  # for one batch
_END_SECONDS = 5  # for a process that has been killed, and for threads that finish their last batches


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
        self._threads = _Threads(threads)
        self._coming: dict[int, tuple[Future[None], Tensor]] = {}

    def take(self, step: int) -> Tensor:
        for other in [other for other in self._coming if not step <= other <= step + self._ahead]:
            future, buffer = self._coming.pop(other)  # the caller jumped to another step
            if not future.cancel():
                _wait_for(future, other)
            self.give_back(buffer)
        for coming in range(step, step + self._ahead + 1):
            if coming not in self._coming:
                buffer = self._buffers.take()
                future = self._threads.submit(partial(_gather, self._data, self._order, coming, buffer))
                self._coming[coming] = future, buffer
        future, buffer = self._coming.pop(step)
        _wait_for(future, step)
        return buffer

    def give_back(self, pixels: Tensor) -> None:
        self._buffers.give_back(pixels)

    def close(self) -> None:
        for future, _ in self._coming.values():
            future.cancel()
        self._coming.clear()
        self._threads.end()


class _Threads:
    """Threads that make calls in turn. Unlike those of an executor, they let Python exit while a disk does not answer.

    Args:
        count: number of threads.
    """

    def __init__(self, count: int) -> None:
        self._calls: _Calls = SimpleQueue()
        threads = [
            threading.Thread(target=_make_calls, args=(self._calls,), daemon=True, name=f"sivae-data-{number}")
            for number in range(count)
        ]
        for thread in threads:
            thread.start()
        # Also when Python exits: it aborts if one of torch's functions returns to it after its end.
        self.end = weakref.finalize(self, _end_threads, self._calls, threads)

    def submit(self, call: Callable[[], None]) -> Future[None]:
        """Make the call in a thread, unless the future is cancelled before."""
        future: Future[None] = Future()
        self._calls.put((future, call))
        return future


_Calls = SimpleQueue[tuple[Future[None], Callable[[], None]] | None]  # None ends a thread


def _make_calls(calls: _Calls) -> None:
    while (entry := calls.get()) is not None:
        future, call = entry
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(call())
            except BaseException as error:
                future.set_exception(error)
        del entry, future, call  # they hold the memory of a batch


def _end_threads(calls: _Calls, threads: list[threading.Thread]) -> None:
    for _ in threads:
        calls.put(None)
    end = time.monotonic() + _END_SECONDS
    for thread in threads:
        if thread is not threading.current_thread():  # where the garbage collector calls this
            thread.join(max(0.0, end - time.monotonic()))


def _wait_for(future: Future[None], step: int) -> None:
    try:
        future.result(_PATIENCE_SECONDS)
    except TimeoutError:
        raise DataError(
            f"reading the images of batch {step:,} has taken more than {_PATIENCE_SECONDS:,} seconds; check that the "
            "disk answers, and resume"
        ) from None


def _gather(data: Tensor, order: Order, step: int, out: Tensor) -> None:
    torch.index_select(data, 0, torch.from_numpy(order.indices(step)), out=out)


class ProcessPrefetcher:
    """Decodes images in worker processes.

    Each process decodes whole batches into memory that it shares with this one. That memory has no name, so the size of
    /dev/shm does not limit it, and a batch cannot get lost on its way.

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
        self._images, self._rows, self._order = images, _Rows(images, shape), order
        self._each = max(1, math.ceil(ahead / workers))  # batches that a process reads ahead
        self._buffers = Buffers((batch_size, *shape), pinned=pinned)
        # Pages are taken when they are first written to.
        memory = mmap.mmap(-1, workers * self._each * math.prod((batch_size, *shape)))
        self._slots = np.frombuffer(memory, np.uint8).reshape(workers, self._each, batch_size, *shape)
        self._reading = np.frombuffer(mmap.mmap(-1, 8 * workers), np.int64)  # the image that each process reads
        self._workers: list[_Worker] = []
        self._next = -1  # the step after the last one

    def take(self, step: int) -> Tensor:
        ahead = len(self._slots) * self._each
        if not self._workers or step != self._next:
            self._start()
            for coming in range(step, step + ahead):
                self._send(coming)
        number, slot = self._place(step)
        problem = self._reply(number)
        if isinstance(problem, Exception):
            self.close()
            raise problem
        buffer = self._buffers.take()
        buffer.copy_(torch.from_numpy(self._slots[number, slot]))
        self._send(step + ahead)
        self._next = step + 1
        return buffer

    def _place(self, step: int) -> tuple[int, int]:
        """The number of the process that reads a step, and where it writes among its batches."""
        turn, number = divmod(step, len(self._slots))
        return number, turn % self._each

    def _start(self) -> None:
        self.close()
        for slots, reading in zip(self._slots, self._reading.reshape(-1, 1), strict=True):
            others = [worker.connection for worker in self._workers]
            self._workers.append(_Worker(self._rows, slots, reading, others))

    def _send(self, step: int) -> None:
        number, slot = self._place(step)
        with contextlib.suppress(OSError):  # it has ended; this is found where its reply is read
            self._workers[number].connection.send((slot, self._order.indices(step)))

    def _reply(self, number: int) -> Exception | None:
        """Wait for the next reply of a process: None, or why there are no pixels."""
        worker = self._workers[number]
        try:
            if worker.connection.poll(_PATIENCE_SECONDS):
                reply: Exception | None = worker.connection.recv()
                return reply
        except (EOFError, OSError):
            worker.process.join(_END_SECONDS)
            place, code = self._images.where(int(self._reading[number])), worker.process.exitcode
            return DataError(f"a process that reads images has died at {place}: {_end_of(code)}")
        place = self._images.where(int(self._reading[number]))
        return DataError(
            f"a process that reads images has been silent for {_PATIENCE_SECONDS:,} seconds, at {place}; check that "
            "the disk answers, and resume"
        )

    def give_back(self, pixels: Tensor) -> None:
        self._buffers.give_back(pixels)

    def close(self) -> None:
        for worker in self._workers:
            worker.end()
        self._workers.clear()


class _Worker:
    """A process that fills batches, and the connection to it. It ends with this process, however that ends.

    Args:
        rows: the images.
        slots: shared memory, [batches, B, H, W, C].
        reading: shared memory for the number of the image that is being read, [1].
        others: this process's ends of the connections to the workers before it.
    """

    def __init__(self, rows: _Rows, slots: np.ndarray, reading: np.ndarray, others: list[Connection]) -> None:
        context = multiprocessing.get_context("fork")  # shares memory without a name
        self.connection, theirs = context.Pipe()
        arguments = (rows, slots, reading, theirs, [*others, self.connection])
        self.process = context.Process(target=_work, args=arguments, daemon=True, name="sivae-data")
        self.process.start()
        theirs.close()
        # Also when Python exits: it asks such processes to end by SIGTERM, which this one ignores, and waits for them.
        self.end = Finalize(self, _kill, (self.process, self.connection), exitpriority=0)


def _kill(process: ForkProcess, connection: Connection) -> None:
    """End a process that reads images; it owns nothing that has to be put in order."""
    connection.close()
    process.kill()
    process.join(_END_SECONDS)


def _work(
    rows: _Rows, slots: np.ndarray, reading: np.ndarray, connection: Connection, inherited: list[Connection]
) -> None:
    """Fill batches until the connection ends: it ends with the parent only if no other process has its end too."""
    # A terminal or a scheduler signals all processes; the parent, which may still need these images, decides.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    for other in inherited:
        other.close()
    torch.set_num_threads(1)
    parent = os.getppid()
    with contextlib.suppress(EOFError, OSError):
        while True:
            slot, indices = connection.recv()
            reply: Exception | None = None
            try:
                for out, index in zip(slots[slot], indices, strict=True):
                    reading[0] = index
                    if os.getppid() != parent:
                        return
                    row = rows[int(index)]
                    if isinstance(row, str):
                        reply = DataError(row)
                        break
                    out[...] = row
            except MemoryError:
                reply = DataError("a process that reads images is out of memory; pack the images with sivae prepare")
            except Exception:
                reply = RuntimeError(f"in a process that reads images:\n{traceback.format_exc()}")
            connection.send(reply)


def _end_of(code: int | None) -> str:
    """Say how a process ended, and what to do."""
    if code is None or code >= 0:
        return f"it ended with code {code}; leave the image out, or pack the images with sivae prepare"
    name = signal.Signals(-code).name
    if -code == signal.SIGKILL:
        return f"{name}; the system may have run out of memory: pack the images with sivae prepare"
    return f"{name}; leave the image out, or pack the others with sivae prepare --skip-damaged"


class _Rows:
    """Images; a text where one cannot be used."""

    def __init__(self, images: ImageSet, shape: tuple[int, ...]) -> None:
        self._images, self._shape = images, shape

    def __getitem__(self, index: int) -> np.ndarray | str:
        try:
            image = self._images.read(index)
        except DamagedImageError as error:
            return f"{error}; it was whole when reading began, so restore it, and resume"
        except (DataError, OSError) as error:
            return str(error)
        if image.shape != self._shape:
            return (
                f"{self._images.where(index)} has shape {list(image.shape)}, where the first image has "
                f"{list(self._shape)}; bring all to one shape with sivae prepare"
            )
        return image
