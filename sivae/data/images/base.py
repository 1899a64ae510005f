"""The base class of sets of images, and the set whose images are one array."""

from __future__ import annotations

import copy
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Literal

import numpy as np
from PIL import Image

from sivae.data.images.crop import Crop
from sivae.data.images.pixels import as_picture, fit_square
from sivae.errors import DataError, NoSuchSplitError

Split = Literal["train", "test"]


class ImageSet(ABC):
    """Images, numbered from 0. Each may have a class (a label) and a content (what varies within a class).

    A subclass sets `name` and defines `__len__` and `read`; everything else has a default.

    Attributes:
        name: name of the source file or folder.
        labels: the class of each image, int64 ``[N]``, or None.
        class_names: names of the classes, indexed by label; None without labels.
        contents: the content of each image, int64 ``[N]``, or None.
        content_names: names of the contents, indexed by content; None without contents.
        part: "train" or "test" where the source has parts; else None.
        uniform: whether all images are known to have the same shape.
        skip_damaged: whether loading and preparing leave damaged images out; else they raise.
        skipped: number of damaged images that were left out. Encoded images are decoded when they are read, so this
            is known only after :func:`load_packed` or :func:`prepare`.
    """

    name: str
    labels: np.ndarray | None = None
    class_names: tuple[str, ...] | None = None
    contents: np.ndarray | None = None
    content_names: tuple[str, ...] | None = None
    part: Split | None = None
    uniform = False
    skip_damaged = False
    skipped = 0

    @abstractmethod
    def __len__(self) -> int:
        """Number of images."""

    @abstractmethod
    def read(self, index: int) -> np.ndarray:
        """Read an image, uint8 ``[H, W, C]`` with C = 1 or 3; H and W may differ between images unless `uniform`.

        Raises:
            DamagedImageError: the image cannot be decoded.
        """

    def picture(self, index: int) -> Image.Image:
        """Read an image as a Pillow image of mode L or RGB. Raises as :meth:`read` does."""
        return as_picture(self.read(index))

    def read_square(self, index: int, side: int, channels: int, crop: Crop = "center") -> np.ndarray:
        """Read a part of an image, by default the largest square in its middle: uint8 ``[side, side, channels]``."""
        return fit_square(self.picture(index), side, channels, self.where(index), crop)

    def stored(self, index: int) -> bytes:
        """Read the bytes that an image is decoded from; those of its pixels where it has none.

        Raises:
            DamagedImageError: the image cannot be read.
        """
        return self.read(index).tobytes()

    def label(self, index: int) -> int | None:
        """Class of an image; None without labels."""
        return None if self.labels is None else int(self.labels[index])

    def content(self, index: int) -> int | None:
        """Content of an image; None without contents."""
        return None if self.contents is None else int(self.contents[index])

    @property
    def fingerprint(self) -> str | None:
        """Digest that differs between sources; None where it is unknown."""
        return None

    def where(self, index: int) -> str:
        """Name of an image in error messages."""
        return f"image {index} of {self.name}"

    def at_least(self, resolution: int) -> ImageSet:
        """The same set with its smallest stored images that have at least this side; else the set itself."""
        return self


class PackedImages(ImageSet):
    """Images of one shape in one array, in memory or mapped from a file.

    Args:
        array: uint8 ``[N, H, W, C]`` with C = 1 or 3.
        labels: int64 ``[N]``, or None.
        name: name of the set.
        class_names: names by label; required with `labels`.
        contents: int64 ``[N]``, or None. A content is what varies within a class and means the same in every class:
            the view of a car, the pose of a head.
        content_names: names by content; required with `contents`.
        skipped: number of damaged images that were left out.
        fingerprint: digest of the source.
        part: "train" or "test", where the source has parts.
        levels: the same images at lower resolutions, uint8 ``[N, R, R, C]`` by R; see :func:`at_resolution`.

    Raises:
        DataError: a shape or dtype is wrong, or a label or content has no name.
    """

    uniform = True

    def __init__(
        self,
        array: np.ndarray,
        labels: np.ndarray | None = None,
        *,
        name: str = "images",
        class_names: tuple[str, ...] | None = None,
        contents: np.ndarray | None = None,
        content_names: tuple[str, ...] | None = None,
        skipped: int = 0,
        fingerprint: str | None = None,
        part: Split | None = None,
        levels: Mapping[int, np.ndarray] | None = None,
    ) -> None:
        if array.dtype != np.uint8 or array.ndim != 4 or array.shape[3] not in (1, 3) or 0 in array.shape[1:]:
            raise DataError(
                f"{name}: images are {array.dtype} of shape {list(array.shape)}; expected uint8 [N, H, W, C], C 1 or 3"
            )
        self.array, self.name, self.skipped, self.part = array, name, skipped, part
        self.labels, self.class_names = _checked(name, len(array), labels, class_names, "label", "classes")
        self.contents, self.content_names = _checked(name, len(array), contents, content_names, "content", "contents")
        self.levels = dict(levels or {})
        self._fingerprint = fingerprint

    def __len__(self) -> int:
        return len(self.array)

    @property
    def height(self) -> int:
        """Pixels from top to bottom."""
        return int(self.array.shape[1])

    @property
    def width(self) -> int:
        """Pixels from left to right."""
        return int(self.array.shape[2])

    @property
    def resolution(self) -> int:
        """Height and width.

        Raises:
            DataError: they differ.
        """
        if self.height != self.width:
            raise DataError(
                f"{self.name}: images are {self.width}×{self.height} (width × height), not square; "
                "sivae prepare cuts squares out"
            )
        return self.height

    @property
    def channels(self) -> int:
        """1 (grey) or 3 (RGB)."""
        return int(self.array.shape[3])

    @property
    def fingerprint(self) -> str:
        """Digest of the source; of the name and the shape where none was given."""
        return self._fingerprint or hashlib.sha256(repr((self.name, self.array.shape)).encode()).hexdigest()

    def at_least(self, resolution: int) -> PackedImages:
        side = min((side for side in self.levels if side >= resolution), default=None)
        return self if side is None else self.as_level(self.levels[side])

    def as_level(self, array: np.ndarray) -> PackedImages:
        """This set with the same images at a lower resolution, uint8 ``[N, R, R, C]``."""
        level, side = copy.copy(self), array.shape[1]
        level.array = array
        level.levels = {lower: kept for lower, kept in self.levels.items() if lower < side}
        level._fingerprint = hashlib.sha256(f"{self.fingerprint} at {side}".encode()).hexdigest()
        return level

    def read(self, index: int) -> np.ndarray:
        return np.asarray(self.array[index])


def _checked(
    owner: str, count: int, values: np.ndarray | None, names: tuple[str, ...] | None, one: str, many: str
) -> tuple[np.ndarray | None, tuple[str, ...] | None]:
    """Labels or contents as int64 [N], and their names."""
    if values is None:
        return None, None
    if values.shape != (count,) or values.dtype.kind not in "iu":
        raise DataError(
            f"{owner}: {one}s are {values.dtype} of shape {list(values.shape)} beside {count:,} images; "
            "expected one whole number for each image"
        )
    values = values.astype(np.int64)
    top = 0 if names is None else len(names)
    if names is None or (values.size and not 0 <= values.min() <= values.max() < top):
        raise DataError(f"{owner}: a {one} is outside 0 to {top - 1}, the {many} that have a name")
    return values, names


def spread(total: int, count: int) -> list[int]:
    """Choose `count` numbers spread over 0 … total - 1, for sets that are ordered by class; all if there are fewer."""
    return [int(row) for row in np.linspace(0, total - 1, min(count, total)).round()]


def no_such_split(where: str, split: str, available: str) -> NoSuchSplitError:
    """The error for a part that a data set does not have."""
    return NoSuchSplitError(f"{where} has no {split} images; {available}")
