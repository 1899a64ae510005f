"""Images of one shape in one uint8 array, and the folder that holds such a set on the disk.

A packed set is a folder of `images.npy` (uint8 [N, H, W, C]), maybe the same at lower resolutions (`images-128.npy`,
`images-64.npy` …), `labels.npy` and `contents.npy` (int64 [N], where there are labels or contents) and `dataset.json`,
which is written last: a folder without it is unfinished.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sivae.data.images.averages import averages, lower_levels
from sivae.data.images.base import Split, no_such_split
from sivae.data.images.geometry import as_picture
from sivae.errors import DataError

FORMAT = 1
DESCRIPTION, IMAGES, LABELS, CONTENTS = "dataset.json", "images.npy", "labels.npy", "contents.npy"
JOURNAL = "prepare.journal"  # of a set that is being made
_DIGEST_BYTES = 8


class PackedImages:
    """Images of one shape, in memory or mapped into it.

    Args:
        array: uint8 ``[N, H, W, C]`` with C = 1 or 3.
        labels: int64 ``[N]``, or None.
        name: what to call the set.
        class_names: by label; needed where there are labels.
        contents: int64 ``[N]``, or None: what varies within a class and is the same thing in every class (the view
            of a car, the pose of a head).
        content_names: by content; needed where there are contents.
        skipped: damaged images that were left out when it was made.
        fingerprint: a digest of the source, for telling it from another.
        part: train or test, where the data has parts.
        levels: the same images at lower resolutions, uint8 ``[N, R, R, C]`` by R; see :func:`at_resolution`.

    Raises:
        DataError: shapes or dtypes are others, or a label or content has no name.
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
        self.labels, self.class_names = _named(name, len(array), labels, class_names, ("label", "classes"))
        self.contents, self.content_names = _named(name, len(array), contents, content_names, ("content", "contents"))
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
        """A digest of where the set comes from."""
        if self._fingerprint is None:
            digest = hashlib.sha256(repr((self.name, self.array.shape)).encode())
            self._fingerprint = digest.hexdigest()
        return self._fingerprint

    def at_least(self, resolution: int) -> PackedImages:
        """The same set from its smallest level that is not below a resolution; itself where there is none."""
        side = min((side for side in self.levels if side >= resolution), default=None)
        return self if side is None else self.as_level(self.levels[side])

    def as_level(self, array: np.ndarray) -> PackedImages:
        """This set with the same images at a lower resolution, uint8 [N, R, R, C]."""
        side = array.shape[1]
        return PackedImages(
            array,
            self.labels,
            name=self.name,
            class_names=self.class_names,
            contents=self.contents,
            content_names=self.content_names,
            skipped=self.skipped,
            fingerprint=hashlib.sha256(f"{self.fingerprint} at {side}".encode()).hexdigest(),
            part=self.part,
            levels={lower: level for lower, level in self.levels.items() if lower < side},
        )

    def read(self, index: int) -> np.ndarray:
        """See :meth:`ImageSet.read`."""
        return np.asarray(self.array[index])

    def picture(self, index: int) -> Image.Image:
        """An image as Pillow's, of mode L or RGB."""
        return as_picture(self.array[index])

    def label(self, index: int) -> int | None:
        """See :meth:`ImageSet.label`."""
        return None if self.labels is None else int(self.labels[index])

    def content(self, index: int) -> int | None:
        """See :meth:`ImageSet.label`; of the contents."""
        return None if self.contents is None else int(self.contents[index])

    def where(self, index: int) -> str:
        """The image, for messages."""
        return f"image {index} of {self.name}"


def _named(
    owner: str, count: int, values: np.ndarray | None, names: tuple[str, ...] | None, words: tuple[str, str]
) -> tuple[np.ndarray | None, tuple[str, ...] | None]:
    if values is None:
        return None, None
    one, many = words
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


def image_digest(image: np.ndarray) -> bytes:
    """A digest of one image's pixels."""
    return hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=_DIGEST_BYTES).digest()


def set_digest(digests: bytes) -> str:
    """A digest of a set from those of its images, one after another."""
    return hashlib.sha256(digests).hexdigest()


def level_file(side: int | str) -> str:
    """Name of the file of images at a lower resolution."""
    return f"images-{side}.npy"


def read_description(folder: Path) -> dict[str, Any]:
    """What `dataset.json` says.

    Raises:
        DataError: it is missing, damaged, or of another version.
    """
    path = folder / DESCRIPTION
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{folder} holds no {DESCRIPTION}, so it is no packed set; sivae prepare makes one") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error}); make the set again with sivae prepare") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = content.get("format") if isinstance(content, dict) else None
        raise DataError(f"{path}: format {found!r}, where this version reads {FORMAT}; make the set again")
    wanted = {"name": str, "count": int, "resolution": int, "channels": int, "skipped": list, "pixels": str}
    for key, kind in wanted.items():
        if not isinstance(content.get(key), kind):
            raise DataError(f"{path} lacks a proper {key!r}; make the set again with sivae prepare")
    levels = content.setdefault("levels", [])  # sets of earlier versions have none
    possible = lower_levels(content["resolution"])
    if not isinstance(levels, list) or not all(type(side) is int and side in possible for side in levels):
        raise DataError(f"{path} lacks a proper 'levels'; make the set again with sivae prepare")
    return content


def open_packed(folder: Path, *, split: Split | None = None) -> PackedImages:
    """Map a packed set into memory. Sizes are checked; :func:`verify_packed` checks every byte.

    Raises:
        DataError: a file is missing, cut short, or not what `dataset.json` says.
    """
    facts = read_description(folder)
    part = facts.get("part")
    if split is not None and part != split:
        made = f"the {part} images" if part else "a source without parts"
        raise no_such_split(str(folder), split, f"it was made from {made}")
    count, resolution, channels = facts["count"], facts["resolution"], facts["channels"]
    array = _map(folder / IMAGES, (count, resolution, resolution, channels), np.dtype(np.uint8))
    levels = {
        side: _map(folder / level_file(side), (count, side, side, channels), np.dtype(np.uint8))
        for side in facts["levels"]
    }
    labels, class_names = _read_named(folder / LABELS, count, facts.get("class_names"))
    contents, content_names = _read_named(folder / CONTENTS, count, facts.get("content_names"))
    return PackedImages(
        array,
        labels,
        name=facts["name"],
        class_names=class_names,
        contents=contents,
        content_names=content_names,
        skipped=len(facts["skipped"]),
        fingerprint=facts["pixels"],
        part=part,
        levels=levels,
    )


def _read_named(path: Path, count: int, names: list[Any] | None) -> tuple[np.ndarray | None, tuple[str, ...] | None]:
    if names is None:
        return None, None
    return np.array(_map(path, (count,), np.dtype(np.int64))), tuple(str(name) for name in names)


def verify_packed(folder: Path) -> None:
    """Read every pixel of a packed set; compare with the digest in `dataset.json`, and lower resolutions with the full.

    Raises:
        DataError: a pixel has changed since the set was made.
    """
    images = open_packed(folder)
    if set_digest(b"".join(image_digest(image) for image in images.array)) != images.fingerprint:
        raise DataError(f"{folder / IMAGES} is not as it was made; make the set again with sivae prepare")
    halvings = len(lower_levels(images.resolution)) if images.levels else 0
    for index, image in enumerate(images.array):
        for level in averages(image, halvings):
            kept = images.levels.get(len(level))
            if kept is not None and not np.array_equal(kept[index], level):
                path = folder / level_file(len(level))
                raise DataError(f"{path} is not as it was made; make the set again with sivae prepare")


def _map(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise DataError(f"{path} is missing; make the set again with sivae prepare") from None
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path} is damaged ({error}); make the set again with sivae prepare") from None
    if array.shape != shape or array.dtype != dtype:
        raise DataError(
            f"{path} is {array.dtype} of shape {list(array.shape)}, where {DESCRIPTION} says {dtype} {list(shape)}; "
            "make the set again with sivae prepare"
        )
    return array
