"""Find the epoch of an iteration, also where the batch size has changed on the way."""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass

Sizes = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Passes:
    """Passes over a set of samples: each epoch takes whole batches, and leaves out the samples that fill none.

    A new batch size does not begin a new epoch: the epoch goes on with the samples that it has not visited. An epoch
    with no whole batch of the old size left is over, also where a smaller new batch would still fit.

    Attributes:
        count: number of samples that an epoch visits.
        sizes: each batch size, of all processes, with the number of iterations before it, (0, size) first.
    """

    count: int
    sizes: Sizes

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches of the last size in an epoch."""
        return self.count // self.sizes[-1][1]

    @functools.cached_property
    def _start(self) -> tuple[int, int]:
        """The place of the first batch of the last size."""
        place = 0, 0
        for (begin, size), (end, _) in itertools.pairwise(self.sizes):
            place = self._moved(place, end - begin, size)
        return place

    def place(self, step: int) -> tuple[int, int]:
        """The epoch of an iteration, counted from 0, and the position of its batch's first sample in the epoch.

        Raises:
            ValueError: the iteration has another batch size than the last one.
        """
        begin, size = self.sizes[-1]
        if step < begin:
            raise ValueError(f"step = {step}: batches of {size} begin with step {begin}")
        return self._moved(self._start, step - begin, size)

    def epochs_after(self, steps: int) -> float:
        """Epochs in the first `steps` iterations."""
        if len(self.sizes) == 1:
            return steps / self.steps_per_epoch
        begin, size = self.sizes[-1]
        if steps < begin:
            return Passes(self.count, self.sizes[:-1]).epochs_after(steps)
        epoch, first = self.place(steps)
        return epoch + first / (self.steps_per_epoch * size)

    def steps_of(self, epochs: float) -> int:
        """Iterations that make so many epochs, if these end with batches of the last size."""
        (begin, size), (epoch, first) = self.sizes[-1], self._start
        missed = self.steps_per_epoch - (self.count - first) // size  # of an epoch that began with another size
        return begin + round((epochs - epoch) * self.steps_per_epoch) - missed

    def _moved(self, place: tuple[int, int], steps: int, size: int) -> tuple[int, int]:
        """The place after `steps` more batches."""
        epoch, first = place
        left = (self.count - first) // size
        if steps < left:
            return epoch, first + steps * size
        whole, within = divmod(steps - left, self.count // size)
        return epoch + 1 + whole, within * size
