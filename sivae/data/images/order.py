"""Which image is in which step: a pure function of seed and step.

An epoch visits its images in a permutation that depends on (seed, epoch) alone, and whether the image at a position is
flipped does too. The device, the cache, the number of processes and what was read before change neither.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

import numpy as np

_PERMUTATION, _FLIPS = 0, 1  # streams of one seed
_KEPT = 2  # epochs: where one ends, the next is read ahead


@dataclass(frozen=True)
class Epoch:
    """Attributes:
    permutation: int64 [N].
    flips: bool [N], by position, not by image; None where nothing is flipped.
    """

    permutation: np.ndarray
    flips: np.ndarray | None


class Order:
    """The order of a set; may be asked by several threads.

    Args:
        count: images in the set.
        batch_size: of one process.
        seed: 0 or more.
        flip: whether half of the images, by chance, are to be mirrored.
        rank, world_size: this process among those that share each step's global batch.
    """

    def __init__(self, count: int, *, batch_size: int, seed: int, flip: bool, rank: int, world_size: int) -> None:
        self._count, self._seed, self._flip = count, seed, flip
        self._batch_size, self._rank, self._global_size = batch_size, rank, batch_size * world_size
        self.steps_per_epoch = count // self._global_size
        self._epochs: dict[int, Epoch] = {}
        self._lock = threading.Lock()

    def epoch(self, index: int) -> Epoch:
        """An epoch's order."""
        with self._lock:
            if index not in self._epochs:
                permutation = _stream(self._seed, _PERMUTATION, index).permutation(self._count)
                flips = None
                if self._flip:
                    flips = _stream(self._seed, _FLIPS, index).integers(0, 2, self._count, np.uint8).astype(bool)
                while len(self._epochs) >= _KEPT:
                    del self._epochs[next(iter(self._epochs))]
                self._epochs[index] = Epoch(permutation, flips)
            return self._epochs[index]

    def place(self, step: int) -> tuple[int, slice]:
        """The epoch of a step, and this process's positions in it."""
        epoch, within = divmod(step, self.steps_per_epoch)
        start = within * self._global_size + self._rank * self._batch_size
        return epoch, slice(start, start + self._batch_size)

    def indices(self, step: int) -> np.ndarray:
        """This process's images of a step, int64 [B]."""
        epoch, rows = self.place(step)
        indices: np.ndarray = self.epoch(epoch).permutation[rows]
        return indices


def _stream(seed: int, purpose: int, epoch: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, purpose, epoch))))
