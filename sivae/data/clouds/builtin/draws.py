"""Draw the parameters of procedural shapes, with test shapes in other cells of the main proportions than the others."""

from __future__ import annotations

from typing import Literal

import numpy as np

MAIN = 3  # the first numbers of a shape, which set its proportions
_CELLS = 5  # along each of them
_TEST_OF = 8  # one cell in so many is a test cell

Part = Literal["train", "test"]


class Draws:
    """Random choices for one shape, each made once and in a fixed order.

    The first three numbers of a shape divide its space into 5 × 5 × 5 cells. Every eighth cell, along the diagonals,
    has all the test shapes and none of the training shapes.

    Args:
        seed: of the set.
        kind: number of the class.
        part: "train" or "test".
        index: number of the shape within its class and part.
    """

    def __init__(self, seed: int, kind: int, part: Part, index: int) -> None:
        key = np.array([seed, 2 * kind + (part == "test")], np.uint64)
        self._stream = np.random.Generator(np.random.Philox(key=key, counter=[0, 0, index, 0]))
        self.main = self._stream.random(MAIN)
        while self.is_test_cell() != (part == "test"):
            self.main = self._stream.random(MAIN)
        self._taken = 0

    def is_test_cell(self) -> bool:
        """Whether the first three numbers are in a test cell."""
        cell = (self.main * _CELLS).astype(int)
        return int(cell @ (1, 2, 3)) % _TEST_OF == 0

    def size(self, low: float, high: float) -> float:
        """One of the three proportions, at most three times."""
        value = self.main[self._taken]
        self._taken += 1
        return low + (high - low) * float(value)

    def between(self, low: float, high: float) -> float:
        """A uniform number."""
        return float(self._stream.uniform(low, high))

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return bool(self._stream.random() < probability)

    def one_of(self, *options: str) -> str:
        """One of the options, equally often."""
        return options[int(self._stream.integers(len(options)))]

    def count(self, low: int, high: int) -> int:
        """A whole number from low to high, both included."""
        return int(self._stream.integers(low, high + 1))
