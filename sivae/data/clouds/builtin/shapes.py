"""The built-in set of shapes: chairs, tables, planes and lamps, made when they are read."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from sivae.data.clouds.base import CloudSet, Normalize, Part, Shape
from sivae.data.clouds.builtin import NAME
from sivae.data.clouds.builtin.chairs import chair
from sivae.data.clouds.builtin.draws import Draws
from sivae.data.clouds.builtin.lamps import lamp
from sivae.data.clouds.builtin.loft import Triangles
from sivae.data.clouds.builtin.planes import plane
from sivae.data.clouds.builtin.tables import table
from sivae.errors import DataError

COUNTS: dict[Part, int] = {"train": 3000, "test": 500}  # shapes of each class
_MAKERS: dict[str, Callable[[Draws], Triangles]] = {"chair": chair, "table": table, "plane": plane, "lamp": lamp}
KINDS = tuple(_MAKERS)
_SEEDS = 1 << 63


class BuiltinShapes(CloudSet):
    """Procedural shapes as surfaces, y upwards, ordered by class.

    The main proportions of test shapes are in other cells than those of training shapes; see
    :class:`sivae.data.clouds.builtin.draws.Draws`.

    Args:
        part: "train" has 3,000 shapes of each class, "test" 500.
        classes: some of chair, table, plane and lamp; None: all.
        points, normalize: see :class:`CloudSet`.
        seed: another one gives other shapes; from 0.
    """

    def __init__(
        self, part: Part, classes: Sequence[str] | None, *, points: int, normalize: Normalize, seed: int
    ) -> None:
        chosen = KINDS if classes is None else tuple(classes)
        if unknown := [kind for kind in chosen if kind not in KINDS]:
            words = " ".join(unknown[0].replace(",", " ").split())
            several = f"; several are named by --data {NAME} --classes {words}" if "," in unknown[0] else ""
            raise DataError(f"{NAME}: there is no class {unknown[0]!r}; choose from {', '.join(KINDS)}{several}")
        if not chosen or len(set(chosen)) < len(chosen):
            raise DataError(
                f"{NAME}: classes are {', '.join(chosen) or 'none'}; expected some of {', '.join(KINDS)}, each once"
            )
        if not 0 <= seed < _SEEDS:
            raise DataError(f"{NAME}: seed = {seed}; expected a whole number from 0")
        self._part, self._seed, self._each = part, seed, COUNTS[part]
        names = [f"{kind} {index}" for kind in chosen for index in range(self._each)]
        labels = np.repeat(np.arange(len(chosen), dtype=np.int64), self._each)
        title = NAME if chosen == KINDS else f"{NAME}:{','.join(chosen)}"
        super().__init__(title, names, labels, chosen, points=points, normalize=normalize)

    def shape(self, index: int) -> Shape:
        label, number = divmod(index, self._each)
        kind = self.class_names[label]
        return _MAKERS[kind](Draws(self._seed, KINDS.index(kind), self._part, number))

    @property
    def fingerprint(self) -> str:
        return f"{NAME} {self._part} {' '.join(self.class_names)} {self._seed}"
