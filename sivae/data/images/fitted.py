"""A set of images seen in one shape: each is decoded and resized when it is read."""

from __future__ import annotations

import copy

import numpy as np

from sivae.data.images.averages import averaged, halvings_between
from sivae.data.images.base import ImageSet
from sivae.data.images.packing import all_contents, content_names, fit_image, nearest, plan


class FittedImages:
    """What :func:`sivae.data.images.load_packed` makes, without the memory and at the price of decoding at every read.

    Args:
        source: the images.
        resolution: side of what is read.
        channels: 1 or 3; None takes RGB where images are, else grey.

    Raises:
        DataError: the set is empty, or images do not fit.
    """

    uniform = True

    def __init__(self, source: ImageSet, *, resolution: int, channels: int | None = None) -> None:
        self._source = source = nearest(source, resolution, None)
        self._shape = plan(source, resolution=resolution, channels=channels)
        self._halvings = 0
        self.resolution, self.channels = resolution, self._shape.channels
        self.name, self.class_names, self.skipped = source.name, source.class_names, source.skipped
        self.contents, self.content_names = all_contents(source), content_names(source)

    def __len__(self) -> int:
        return len(self._source)

    def read(self, index: int) -> np.ndarray:
        """uint8 ``[R, R, C]``; see :meth:`ImageSet.read`."""
        return averaged(fit_image(self._source, index, self._shape), self._halvings)

    def label(self, index: int) -> int | None:
        """See :meth:`ImageSet.label`."""
        return self._source.label(index)

    def content(self, index: int) -> int | None:
        """See :meth:`ImageSet.label`; of the contents."""
        return None if self.contents is None else int(self.contents[index])

    def averaged(self, resolution: int) -> FittedImages:
        """The set at a lower resolution: the means of squares of pixels of what is read here.

        Raises:
            ValueError: this side divided by the lower one is no power of two.
        """
        halvings = halvings_between(self.resolution, resolution)
        if halvings is None:
            raise ValueError(f"resolution = {resolution}: expected {self.resolution} divided by a power of two")
        lower = copy.copy(self)
        lower.resolution, lower._halvings = resolution, self._halvings + halvings
        return lower
