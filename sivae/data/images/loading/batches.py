"""Batches for training: keep the pixels on the device, in main memory or on the disk, and return them step by step."""

from __future__ import annotations

import contextlib
import weakref
from collections import deque
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from sivae.data.free_memory import amount, available_memory
from sivae.data.images.base import ImageSet, PackedImages
from sivae.data.images.loading.decoding import load_packed
from sivae.data.images.loading.fitting import FittedImages, choose_shape
from sivae.data.images.loading.order import Order
from sivae.data.images.loading.prefetch import ArrayPrefetcher, Prefetcher, ProcessPrefetcher, tensor_of
from sivae.data.images.loading.threads import workers_or_default
from sivae.data.passes import Sizes
from sivae.errors import DataError
from sivae.progress import counting
from sivae.words import plural

Cache = Literal["auto", "device", "host", "none"]

DEVICE_SHARE, HOST_SHARE = 1 / 3, 1 / 2  # of the free memory that "auto" may use
_AHEAD = 3  # steps
_MOST_WORKERS = 8
_UPLOAD_BYTES = 256 << 20


class ImageBatches:
    """Batches by step. Any step can be read at any time and is always the same; the next steps are read ahead.

    Step s belongs to epoch s // steps_per_epoch. Each epoch visits the images once, without the last ones that fill no
    batch; its order and its flips are functions of (seed, epoch). `cache` decides only where the pixels are kept:
    batches are equal to the bit.

    * "device": all pixels are on `device`, and batches are gathered there.
    * "host": all pixels are in main memory. For a GPU, threads gather the next batches into pinned memory, which is
      copied while the GPU computes. For the CPU, a batch is gathered when it is requested.
    * "none": pixels stay on the disk. Threads read the next batches from a packed set; processes decode other sets.
    * "auto": device on a GPU if the pixels take at most a third of its free memory; else host if they take at most half
      of the free main memory; else none.

    With `world_size` processes, rank r gets rows [r·B, (r+1)·B) of the step's global batch of world_size·B.

    Args:
        images: images of one size. Encoded images are decoded once where they are cached.
        batch_size: B, of this process.
        seed: 0 or more.
        device: where batches are returned.
        flip: mirror a random half of the images, left to right.
        cache: see above.
        value_range: the values of black and white: x = v/255·(high − low) + low, rounded to float32 after each
            operation.
        channels_last: memory format of the batches.
        dtype: floating point; narrower types are rounded from float32.
        rank, world_size: this process among all.
        pairs: rows 2 i and 2 i + 1 are two images of one class; B must be even.
        sizes: the batch sizes of all processes so far, see :class:`sivae.data.passes.Passes`. Steps with another size
            than the last one cannot be read. None: there is only one.
        workers: number of threads or processes that read uncached pixels, and of threads that decode into a cache;
            None: one for each core, at most 8.
        budget_bytes: the most that cached pixels may take, instead of the shares above.
        progress: show the decoding and copying into a cache if it takes long.

    Attributes:
        cache: the chosen one of "device", "host" and "none".
        passes: the epoch of each step.
        steps_per_epoch: whole batches in an epoch.
        images: the set that batches are read from; packed, where it was decoded into a cache.
        shape: shape of a batch, (B, C, H, W).

    Raises:
        DataError: there are fewer images than one batch, sizes differ, an image is damaged, or the pixels do not fit
            the cache.
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        images: PackedImages | ImageSet,
        *,
        batch_size: int,
        seed: int,
        device: torch.device | str = "cpu",
        flip: bool = False,
        cache: Cache = "auto",
        value_range: tuple[float, float] = (0.0, 1.0),
        channels_last: bool = True,
        dtype: torch.dtype = torch.float32,
        rank: int = 0,
        world_size: int = 1,
        pairs: bool = False,
        sizes: Sizes | None = None,
        workers: int | None = None,
        budget_bytes: int | None = None,
        progress: bool = True,
    ) -> None:
        if batch_size < 1 or seed < 0 or not 0 <= rank < world_size:
            raise ValueError(
                f"batch_size = {batch_size}, seed = {seed}, rank = {rank}, world_size = {world_size}: expected "
                "batch_size >= 1, seed >= 0 and 0 <= rank < world_size"
            )
        if not dtype.is_floating_point:
            raise ValueError(f"dtype = {dtype}: expected a floating-point type")
        if cache not in ("auto", "device", "host", "none"):
            raise ValueError(f"cache = {cache!r}: expected auto, device, host or none")
        _check_count(images, len(images), batch_size, world_size)
        self._device = torch.device(device)
        self._low, self._high = (float(bound) for bound in value_range)
        self._channels_last, self._dtype = channels_last, dtype
        self._workers = workers_or_default(workers)
        if workers is None:
            self._workers = min(self._workers, _MOST_WORKERS)
        shape = _image_shape(images)
        self.cache = self._place(cache, images, len(images) * int(np.prod(shape)), world_size, budget_bytes)
        if self.cache != "none" and not isinstance(images, PackedImages):
            images = load_packed(images, budget_bytes=2**63, workers=workers, progress=progress)
        elif not isinstance(images, PackedImages | FittedImages):
            images = FittedImages(images, workers=workers, progress=progress)  # finds damage now, not in an epoch
        self.images = images
        self.shape = (batch_size, shape[2], shape[0], shape[1])
        labels = images.labels
        if pairs:
            _check_pairs(images, labels, batch_size)
        self._order = Order(
            len(images),
            batch_size=batch_size,
            seed=seed,
            flip=flip,
            rank=rank,
            world_size=world_size,
            pair_by=labels if pairs else None,
            sizes=sizes,
        )
        self.passes = self._order.passes
        if pairs and self.passes.count == 0:
            raise DataError(f"{images.name}: no class has two images to make a pair; train without pairs")
        _check_count(images, self.passes.count, batch_size, world_size)
        self.steps_per_epoch = self.passes.steps_per_epoch
        self._labels = None if labels is None else torch.from_numpy(labels).to(self._device)
        self._epoch: tuple[int, Tensor, Tensor | None] | None = None
        # A tensor, because CUDA replaces division by a number by a product, which rounds differently.
        self._divisor = torch.tensor(255.0, device=self._device)
        self._data: Tensor | None = None
        self._prefetcher: Prefetcher | None = None
        self._uploader = _Uploader(self._device) if self._device.type == "cuda" else None
        self._connect(progress)
        self._closed = False
        self._finalizer = weakref.finalize(self, _close, self._prefetcher)

    def _place(
        self, cache: Cache, images: ImageSet, size: int, world_size: int, budget: int | None
    ) -> Literal["device", "host", "none"]:
        on_gpu = self._device.type == "cuda"
        device_budget = host_budget = budget or 0
        if budget is None:
            # Processes share the machine's memory; each has its own GPU.
            host_budget = int(available_memory() * HOST_SHARE / world_size)
            device_budget = int(torch.cuda.mem_get_info(self._device)[0] * DEVICE_SHARE) if on_gpu else host_budget
        if cache == "auto":
            if on_gpu and size <= device_budget:
                return "device"
            in_memory = isinstance(images, PackedImages) and not isinstance(images.array, np.memmap)
            return "host" if size <= host_budget or in_memory else "none"
        if cache == "none":
            return cache
        limit = device_budget if cache == "device" else host_budget
        if budget is None:  # a cache that the user chose may take all free memory
            limit = int(limit / (DEVICE_SHARE if cache == "device" and on_gpu else HOST_SHARE))
        if size > limit:
            raise DataError(
                f"{images.name}: its pixels take {amount(size)}, and cache {cache} has room for {amount(limit)}; "
                f"use cache {'host or ' if cache == 'device' and on_gpu else ''}none, or pack the images smaller with "
                "sivae prepare"
            )
        return cache

    def _connect(self, progress: bool) -> None:
        batch_size, channels, height, width = self.shape
        pinned = self._device.type == "cuda"
        images = self.images
        if not isinstance(images, PackedImages):
            self._prefetcher = ProcessPrefetcher(
                images,
                (height, width, channels),
                self._order,
                batch_size=batch_size,
                ahead=_AHEAD,
                workers=self._workers,
                pinned=pinned,
            )
            return
        if self.cache == "none":
            threads, data = self._workers, tensor_of(images.array)
        elif self._device.type == "cpu" or self.cache == "device":
            self._data = _copied(images, self._device, progress)
            return
        else:
            threads, data = 1, _copied(images, torch.device("cpu"), progress)
        ahead = max(_AHEAD, threads)
        self._prefetcher = ArrayPrefetcher(
            data, self._order, batch_size=batch_size, ahead=ahead, threads=threads, pinned=pinned
        )

    def batch(self, step: int) -> tuple[Tensor, Tensor | None]:
        """Return the batch of a step.

        On a GPU the tensors are ready for the current stream; the CPU does not wait for the GPU.

        Args:
            step: 0 or more. The step after the last one has been read ahead; any other is read now.

        Returns:
            Images ``[B, C, H, W]`` in the value range, and labels int64 ``[B]`` or None. The caller may change them.

        Raises:
            DataError: an image cannot be read.
            ValueError: the step is negative.
            RuntimeError: the batches have been closed.
        """
        if self._closed:
            raise RuntimeError("these batches have been closed")
        if step < 0:
            raise ValueError(f"step = {step}: expected 0 or more")
        indices, flips = self._rows(step)
        if self._data is not None:
            return self._finished(self._data.index_select(0, indices), flips), self._labels_of(indices)
        assert self._prefetcher is not None
        pixels = self._prefetcher.take(step)
        if self._uploader is None:
            images = self._finished(pixels, flips)
            self._prefetcher.give_back(pixels)
        else:
            images = self._finished(self._uploader.upload(pixels, self._prefetcher), flips)
        return images, self._labels_of(indices)

    def numbers(self, step: int) -> Tensor:
        """The numbers of the images in a step's batch, int64 [B] on the device."""
        return self._rows(step)[0]

    def _rows(self, step: int) -> tuple[Tensor, Tensor | None]:
        """Image numbers and flips of a step, on the device; they are copied there once per epoch."""
        epoch, rows = self._order.place(step)
        if self._epoch is None or self._epoch[0] != epoch:
            order = self._order.epoch(epoch)
            flips = None if order.flips is None else torch.from_numpy(order.flips).to(self._device)
            self._epoch = epoch, torch.from_numpy(order.permutation).to(self._device), flips
        _, permutation, flips = self._epoch
        return permutation[rows], None if flips is None else flips[rows]

    def _labels_of(self, indices: Tensor) -> Tensor | None:
        return None if self._labels is None else self._labels.index_select(0, indices)

    def _finished(self, pixels: Tensor, flips: Tensor | None) -> Tensor:
        """uint8 [B, H, W, C] -> [B, C, H, W] in the value range, by exactly rounded operations; changes the pixels."""
        if flips is not None:
            if pixels.is_cuda:  # indexing by a mask would wait for the number of rows
                pixels = torch.where(flips.view(-1, 1, 1, 1), pixels.flip(2), pixels)
            else:
                pixels[flips] = pixels[flips].flip(2)
        images = pixels.permute(0, 3, 1, 2).to(torch.float32).div_(self._divisor)  # channels last
        if self._high - self._low != 1.0:
            images.mul_(self._high - self._low)
        if self._low != 0.0:
            images.add_(self._low)
        if not self._channels_last:
            images = images.contiguous()
        return images.to(self._dtype)

    def close(self) -> None:
        """End threads and processes. The garbage collector does so too."""
        self._closed = True
        self._data = None
        self._finalizer()

    def __enter__(self) -> ImageBatches:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Uploader:
    """Copies pinned memory to a GPU on its own stream, while the GPU computes on others."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._copying: deque[tuple[torch.cuda.Event, Tensor]] = deque()

    def upload(self, pixels: Tensor, owner: Prefetcher) -> Tensor:
        """Copy to the device, ready for the current stream; after the copy the memory goes back to its owner."""
        while self._copying and self._copying[0][0].query():
            owner.give_back(self._copying.popleft()[1])
        with torch.cuda.stream(self._stream):
            copied = torch.empty(pixels.shape, dtype=pixels.dtype, device=self._device)
            copied.copy_(pixels, non_blocking=True)
            done = torch.cuda.Event()
            done.record(self._stream)
        current = torch.cuda.current_stream(self._device)
        current.wait_event(done)
        copied.record_stream(current)
        self._copying.append((done, pixels))
        return copied


def _close(prefetcher: Prefetcher | None) -> None:
    if prefetcher is not None:
        with contextlib.suppress(Exception):  # when the interpreter exits, modules may be gone
            prefetcher.close()


def _check_count(images: ImageSet, count: int, batch_size: int, world_size: int) -> None:
    if count < batch_size * world_size:
        processes = f" on {world_size} processes" if world_size > 1 else ""
        raise DataError(
            f"{images.name} has {plural(count, 'image')}, fewer than one batch of {batch_size:,}{processes}; "
            f"use a batch size of at most {count // world_size:,}"
            if count >= world_size
            else f"{images.name} has {plural(count, 'image')}, fewer than one for each of {world_size} processes"
        )


def _check_pairs(images: ImageSet, labels: np.ndarray | None, batch_size: int) -> None:
    if batch_size % 2:
        raise DataError(f"batch_size = {batch_size}: pairs of images of one class need an even number")
    if labels is None:
        raise DataError(f"{images.name} has no classes, so images cannot be paired by class; sort them into folders")


def _image_shape(images: ImageSet) -> tuple[int, int, int]:
    """(H, W, C)."""
    if isinstance(images, PackedImages):
        return images.height, images.width, images.channels
    shape = choose_shape(images, resolution=None)
    return shape.resolution, shape.resolution, shape.channels


def _copied(images: PackedImages, device: torch.device, progress: bool) -> Tensor:
    """All pixels on a device, [N, H, W, C], contiguous; on the CPU the array itself, if it is contiguous."""
    array = images.array
    if device.type == "cpu" and not isinstance(array, np.memmap) and array.flags.c_contiguous:
        return tensor_of(array)
    try:
        data = torch.empty(array.shape, dtype=torch.uint8, device=device)
    except RuntimeError as error:  # torch's out-of-memory error is one
        raise DataError(
            f"{images.name}: there is no room for its {amount(array.size)} of pixels on {device} "
            f"({str(error).splitlines()[0]}); use cache none"
        ) from None
    step = max(1, _UPLOAD_BYTES // int(np.prod(array.shape[1:])))
    with counting(f"loading {images.name}", len(array), enabled=progress) as counter:
        for start in range(0, len(array), step):
            part = np.ascontiguousarray(array[start : start + step])
            data[start : start + step].copy_(tensor_of(part))
            counter.advance(len(part))
    return data
