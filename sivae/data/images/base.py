"""What every set of images offers, and the errors of this package."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol, runtime_checkable

import numpy as np

from sivae.errors import NoSuchSplitError

Split = Literal["train", "test"]
Notice = Callable[[str], None]


@runtime_checkable
class ImageSet(Protocol):
    """Images that are numbered from 0, and maybe labelled.

    Attributes:
        name: what to call the set: its file's or folder's name.
        class_names: by label; None where images have no labels.
        skipped: images that were left out because they are damaged. (Encoded images are decoded when they are read, so
            only :func:`load_packed` and :func:`prepare` can know.)
        uniform: True where all images are known to have one shape.
    """

    name: str
    class_names: tuple[str, ...] | None
    skipped: int
    uniform: bool

    def __len__(self) -> int:
        """How many images there are."""

    def read(self, index: int) -> np.ndarray:
        """An image, uint8 ``[H, W, C]`` with C = 1 or 3; sizes may differ between images unless `uniform`.

        Raises:
            DamagedImageError: it cannot be decoded.
        """

    def label(self, index: int) -> int | None:
        """An image's class, an index into `class_names`."""


def nothing(_: str) -> None:
    """A `Notice` that nobody reads."""


def no_such_split(where: str, split: str, there: str) -> NoSuchSplitError:
    """The error of asking for a part that a data set does not have."""
    return NoSuchSplitError(f"{where} has no {split} images; {there}")
