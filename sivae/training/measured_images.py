"""The images that a model is measured on and shown beside."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from sivae.data.images.parts import Images
from sivae.errors import ConfigError
from sivae.models.base import samples_at_once
from sivae.models.pixels import from_uint8

MEASURED = 10_000  # images at most that the metrics look at


class MeasuredImages:
    """Images that a model is measured on and shown beside.

    Args:
        images: of the model's shape.
        device: where they are wanted.
        conditional: whether each comes with its class, one-hot.
        value_range: the values that stand for black and for white.

    Raises:
        ConfigError: it should, and the images have no classes.
    """

    def __init__(
        self,
        images: Images,
        device: torch.device,
        *,
        conditional: bool,
        value_range: tuple[float, float] | None = (0.0, 1.0),
    ) -> None:
        self.images, self.conditional = images, conditional
        self.value_range = value_range or (0.0, 1.0)
        self.classes = len(images.class_names or ())
        self._device = device
        if conditional and self.classes == 0:
            raise ConfigError("conditional: the images have no classes; leave it out, or sort them into folders")

    def spread(self, count: int) -> list[int]:
        """The numbers of `count` images spread over all, since these may be ordered by class; or of all."""
        return spread(len(self.images), count)

    def some(self, rows: Sequence[int]) -> tuple[Tensor, Tensor | None]:
        """Images [N, C, H, W] in the value range, and their conditions [N, classes] or None."""
        pixels = torch.from_numpy(np.stack([self.images.read(row) for row in rows]))  # uint8 [N, H, W, C]
        images = from_uint8(pixels.to(self._device), self.value_range)
        if not self.conditional:
            return images, None
        return images, self.condition(torch.tensor([self.images.label(row) for row in rows]))

    def condition(self, labels: Tensor | None) -> Tensor | None:
        """Classes [N] as vectors; None where the model takes none."""
        if not self.conditional:
            return None
        assert labels is not None
        return F.one_hot(labels.to(self._device), self.classes).float()

    def batches(self, count: int = MEASURED) -> Iterator[tuple[Tensor, Tensor | None]]:
        """`count` images spread over all, or all where there are fewer."""
        rows = self.spread(count)
        size = samples_at_once((self.images.channels, self.images.resolution, self.images.resolution))
        for start in range(0, len(rows), size):
            yield self.some(rows[start : start + size])


def spread(total: int, count: int) -> list[int]:
    """`count` numbers spread over those below `total`; all of them where there are fewer."""
    return [int(row) for row in np.linspace(0, total - 1, min(count, total)).round()]
