"""Decide which images are in which step, and which are flipped, as a function of seed and step.

Each epoch visits the images in a permutation that depends only on (seed, epoch); so do the flips. Neither changes
with the device, the cache, the number of processes or earlier steps.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

import numpy as np

from sivae.data.passes import Passes, Sizes

_PERMUTATION, _FLIPS = 0, 1  # streams of one seed
_KEPT = 2  # epochs: near the end of one, the next is read ahead


@dataclass(frozen=True)
class Epoch:
    """The order of one epoch.

    Attributes:
        permutation: numbers of the visited images, int64 [M] with M <= N.
        flips: bool [N], by position in the permutation, not by image; None without flips.
    """

    permutation: np.ndarray
    flips: np.ndarray | None


class Order:
    """The order of the images of a set, epoch after epoch. Several threads may use it.

    Attributes:
        passes: the epoch of each step; an epoch of pairs visits fewer images than there are.

    Args:
        count: number of images in the set.
        batch_size: images of one process in a step.
        seed: 0 or more.
        flip: whether a random half of the images is mirrored.
        rank, world_size: this process among those that share each step's global batch.
        pair_by: the class of each image, int64 [N]: positions 2 i and 2 i + 1 then hold two images of one class. Each
            epoch leaves out a random image of a class with an odd number.
        sizes: the global batch sizes so far, see :class:`sivae.data.passes.Passes`; None: there is only one.
    """

    def __init__(
        self,
        count: int,
        *,
        batch_size: int,
        seed: int,
        flip: bool,
        rank: int,
        world_size: int,
        pair_by: np.ndarray | None = None,
        sizes: Sizes | None = None,
    ) -> None:
        self._count, self._seed, self._flip, self._pair_by = count, seed, flip, pair_by
        self._batch_size, self._rank = batch_size, rank
        visited = count if pair_by is None else int(sum(2 * (size // 2) for size in np.bincount(pair_by)))
        self.passes = Passes(visited, sizes or ((0, batch_size * world_size),))
        self._epochs: dict[int, Epoch] = {}
        self._lock = threading.Lock()

    def epoch(self, index: int) -> Epoch:
        """The order of an epoch."""
        with self._lock:
            if index not in self._epochs:
                stream = _stream(self._seed, _PERMUTATION, index)
                permutation = stream.permutation(self._count)
                if self._pair_by is not None:
                    permutation = _in_pairs(permutation, self._pair_by, stream)
                flips = None
                if self._flip:
                    flips = _stream(self._seed, _FLIPS, index).integers(0, 2, self._count, np.uint8).astype(bool)
                while len(self._epochs) >= _KEPT:
                    del self._epochs[next(iter(self._epochs))]
                self._epochs[index] = Epoch(permutation, flips)
            return self._epochs[index]

    def place(self, step: int) -> tuple[int, slice]:
        """The epoch of a step, and the positions of this process's images in its permutation."""
        epoch, first = self.passes.place(step)
        start = first + self._rank * self._batch_size
        return epoch, slice(start, start + self._batch_size)

    def indices(self, step: int) -> np.ndarray:
        """The numbers of this process's images in a step, int64 [B]."""
        epoch, rows = self.place(step)
        indices: np.ndarray = self.epoch(epoch).permutation[rows]
        return indices


def _in_pairs(permutation: np.ndarray, classes: np.ndarray, stream: np.random.Generator) -> np.ndarray:
    """The images of a permutation in pairs of one class; the pairs are in random order."""
    ordered = permutation[np.argsort(classes[permutation], kind="stable")]  # class by class, each still shuffled
    sizes = np.bincount(classes)
    within = np.arange(len(ordered)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    pairs = ordered[within < np.repeat(2 * (sizes // 2), sizes)].reshape(-1, 2)
    return pairs[stream.permutation(len(pairs))].reshape(-1)


def _stream(seed: int, purpose: int, epoch: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, purpose, epoch))))
