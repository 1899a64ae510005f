"""The base class of sets of point clouds, which normalises shapes and takes points from them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sivae.data.free_memory import available_memory
from sivae.errors import DataError

Part = Literal["train", "test"]
Normalize = Literal["sphere", "cube", "none"]
Shape = NDArray[np.floating]  # points [n, 3], or triangles [F, 3, 3]

_MOST_KEPT = 2 << 30  # bytes of shapes in memory; the others are made or read again


class _Ready(NamedTuple):
    """A normalised shape: points [n, 3]; or triangles [F, 3, 3] with the sums of their areas up to each, [F]."""

    values: Tensor
    areas: Tensor | None

    @property
    def size(self) -> int:
        return sum(tensor.numel() * tensor.element_size() for tensor in self if tensor is not None)


class CloudSet(ABC):
    """Shapes, numbered from 0, as clouds of equally many points.

    A cloud of more points than are needed gives a random part of them, one of fewer repeats random ones. On a surface
    of triangles points are drawn uniformly by area, new ones each time.

    Args:
        name: of the source.
        names: of each shape.
        labels: the class of each, int64 [N].
        class_names: by label.
        points: number of points in a cloud.
        normalize: "sphere" moves the middle of the shape's bounding box to 0 and its farthest point to the distance
            0.5; "cube" makes the longest side of the box 1; "none" keeps what is stored.

    Attributes:
        name, names, labels, class_names, points, normalize: as given.
    """

    def __init__(
        self,
        name: str,
        names: Sequence[str],
        labels: NDArray[np.int64],
        class_names: tuple[str, ...],
        *,
        points: int,
        normalize: Normalize,
    ) -> None:
        if points < 1:
            raise DataError(f"{name}: points = {points}; expected 1 or more in a cloud, such as 2048")
        if normalize not in ("sphere", "cube", "none"):
            raise DataError(f"{name}: normalize = {normalize!r}; expected sphere, cube or none")
        self.name, self.names, self.labels, self.class_names = name, names, labels, class_names
        self.points, self.normalize = points, normalize
        self._kept: dict[int, _Ready] = {}
        self._free = min(_MOST_KEPT, available_memory() // 4)

    def __len__(self) -> int:
        return len(self.names)

    @abstractmethod
    def shape(self, index: int) -> Shape:
        """Make or read a shape as it is stored: points [n, 3], or triangles [F, 3, 3].

        Raises:
            DataError: it cannot be read.
        """

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Digest that differs between sources."""

    def where(self, index: int) -> str:
        """Name of a shape in error messages."""
        return f"{self.names[index]} of {self.name}"

    def cloud(self, index: int, generator: torch.Generator | None = None) -> Tensor:
        """Take the points of one shape.

        Args:
            index: of the shape, from 0.
            generator: of the CPU, which chooses the points; None: torch's default generator.

        Returns:
            float32 [points, 3] on the CPU.

        Raises:
            IndexError: there is no such shape.
            DataError: it cannot be read.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"{self.name} has no shape {index}, only 0 to {len(self) - 1}")
        return _resampled(self.prepared(index), self.points, generator)

    def batch(self, indices: Sequence[int], generator: torch.Generator | None = None) -> Tensor:
        """Take the points of several shapes in their order: float32 [B, points, 3]. Raises as :meth:`cloud` does."""
        clouds = torch.empty(len(indices), self.points, 3)
        for row, index in enumerate(indices):
            clouds[row] = self.cloud(int(index), generator)
        return clouds

    def prepared(self, index: int) -> _Ready:
        """A normalised shape. It is kept as long as all that are kept fit a part of the free memory."""
        ready = self._kept.get(index)
        if ready is None:
            ready = _normalized(self.shape(index), self.normalize, self.where(index))
            if ready.size <= self._free:
                self._free -= ready.size
                self._kept[index] = ready
        return ready


def _normalized(shape: Shape, how: Normalize, where: str) -> _Ready:
    """Move and scale a shape, and sum the areas of its triangles."""
    values = np.asarray(shape, np.float64)
    if not np.isfinite(values).all():
        raise DataError(f"{where}: a coordinate is not finite; mend the file, or remove it")
    if how != "none":
        flat = values.reshape(-1, 3)
        low, high = flat.min(0), flat.max(0)
        values = values - (low / 2 + high / 2)  # halved first, as their sum may overflow
        largest = float(np.abs(values).max())
        if not 0.0 < largest < np.inf:
            reason = "all its points are at one place" if largest == 0.0 else "its coordinates are too large"
            raise DataError(f"{where}: {reason}, so it cannot be scaled; mend the file, or remove it")
        values = values / largest / 2.0  # the cube; twice the largest number may overflow
        if how == "sphere":
            values = values / (2.0 * np.sqrt((values**2).sum(-1).max()))
    ready = torch.from_numpy(values).float()
    if not ready.isfinite().all():
        raise DataError(f"{where}: a coordinate is too large for float32; normalize it by sphere or cube")
    if ready.ndim == 2:
        return _Ready(ready, None)
    sides = ready.double()
    areas = torch.linalg.cross(sides[:, 1] - sides[:, 0], sides[:, 2] - sides[:, 0]).norm(dim=1).cumsum(0)
    if not areas[-1] > 0.0:
        raise DataError(f"{where}: its triangles have no area; mend the file, or store its points alone")
    return _Ready(ready, areas)


def _resampled(shape: _Ready, count: int, generator: torch.Generator | None) -> Tensor:
    values, areas = shape
    if areas is not None:
        chosen = torch.rand(count, generator=generator, dtype=torch.float64) * areas[-1]
        corners = values[torch.searchsorted(areas, chosen, right=True).clamp_(max=len(areas) - 1)]
        along, across = torch.rand(2, count, 1, generator=generator)
        beyond = along + across > 1.0  # in the other half of the parallelogram
        along, across = torch.where(beyond, 1.0 - along, along), torch.where(beyond, 1.0 - across, across)
        origin = corners[:, 0]
        return origin + along * (corners[:, 1] - origin) + across * (corners[:, 2] - origin)
    have = len(values)
    if have == count:
        return values.clone()
    if have > count:
        return values[torch.randperm(have, generator=generator)[:count]]
    more = torch.randint(have, (count - have,), generator=generator)
    return torch.cat([values, values[more]])
