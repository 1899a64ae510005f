"""Read images in TFRecords, one file for each resolution, as ProGAN, StyleGAN and ALAE write them.

`NAME-r08.tfrecords` holds the images at 2⁸ × 2⁸; large files are split into `NAME-r08.tfrecords.000` and so on.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from sivae.data.images.base import ImageSet, no_such_split
from sivae.data.images.formats.table import Found, Request
from sivae.data.images.formats.tensorflow_files import RecordFile, image_of, open_records
from sivae.data.notice import ignore
from sivae.data.stores import FolderStore, Store, fingerprint
from sivae.errors import DamagedImageError, DataError

_NAME = re.compile(r"(?P<set>.*?)(?:-r(?P<power>[0-9]{2}))?\.tfrecords?(?:\.(?P<part>[0-9]+))?", re.IGNORECASE)
_LOOKED_AT = 64  # records, to find an undamaged one
_LARGEST_POWER = 14  # 16384 × 16384


class RecordImages(ImageSet):
    """Images that are read and checked one by one from TFRecords.

    Args:
        store: the folder.
        files: file names by side, in order of parts; a side of 0 is unknown before reading.
        side: the side to read.
        request: how to open the set.

    Attributes:
        resolution: height and width of the images.

    Raises:
        DataError: there are no images, or their side differs from the one in the file name.
    """

    uniform = True

    def __init__(self, store: FolderStore, files: Mapping[int, Sequence[str]], side: int, request: Request) -> None:
        self.name, self.skip_damaged = request.name, request.skip_damaged
        self._store, self._files, self._side = store, files, side
        self._request = replace(request, notice=ignore)  # a set is sent to processes, and a user's notice may not be
        self._parts = open_records([store.path / file for file in files[side]])
        self._ends = np.cumsum([len(part) for part in self._parts])
        self._shape = self._first_shape()  # [C, H, W]
        if self._shape[1] != self._shape[2] or side not in (0, self._shape[1]):
            named = f"{side}×{side}, as in their name," if side else "a square"
            raise DataError(
                f"{self._parts[0].path} holds images of shape {list(self._shape)}, where {named} is expected; rename "
                "the files"
            )
        self.resolution = self._shape[1]

    def _first_shape(self) -> tuple[int, ...]:
        if not len(self):
            raise DataError(f"{self._parts[0].path} holds no records; fetch the file again")
        failure: DamagedImageError | None = None
        for index in range(min(len(self), _LOOKED_AT)):
            try:
                return self._image(index).shape
            except DamagedImageError as error:
                if not self.skip_damaged:
                    raise
                failure = failure or error
        raise DataError(f"{failure}, nor can any other of the first {_LOOKED_AT} be read")

    def __len__(self) -> int:
        return int(self._ends[-1])

    def _place(self, index: int) -> tuple[RecordFile, int]:
        part = int(np.searchsorted(self._ends, index, side="right"))
        return self._parts[part], index - (int(self._ends[part - 1]) if part else 0)

    def _image(self, index: int) -> np.ndarray:
        file, record = self._place(index)
        return image_of(file.read(record), file.where(record))  # [C, H, W]

    def read(self, index: int) -> np.ndarray:
        image = self._image(index)
        if image.shape != self._shape:
            raise DamagedImageError(
                f"{self.where(index)} is an image of shape {list(image.shape)}, where the first has {list(self._shape)}"
            )
        return np.ascontiguousarray(image.transpose(1, 2, 0))

    def where(self, index: int) -> str:
        file, record = self._place(index)
        return file.where(record)

    @property
    def fingerprint(self) -> str:
        """A digest of the files' names and sizes."""
        return fingerprint(self._store, self._files[self._side])

    def at_least(self, resolution: int) -> RecordImages:
        side = min((side for side in self._files if side >= resolution), default=self._side)
        if side == self._side:
            return self
        return RecordImages(self._store, self._files, side, self._request)


def find(store: Store, only: str | None = None) -> list[Found]:
    """The sets in a folder; of a single file the set of its name and side, with all its parts.

    Archives are not searched, because records could not be read there by position.

    Raises:
        DataError: a part of a set is missing.
    """
    if not isinstance(store, FolderStore) or (only is not None and _NAME.fullmatch(only) is None):
        return []
    parts: dict[str, dict[int, dict[int | None, str]]] = {}
    for name in store.sizes:
        folder, _, own = name.rpartition("/")
        if (match := _NAME.fullmatch(own)) is None:
            continue
        power = match["power"]
        if power is not None and int(power) > _LARGEST_POWER:
            raise DataError(
                f"{store.where(name)}: images of 2^{int(power)} pixels a side; {_LARGEST_POWER} is the most"
            )
        side = 0 if power is None else 1 << int(power)
        title = (f"{folder}/" if folder else "") + match["set"] + ("" if side else ".tfrecords")
        number = None if match["part"] is None else int(match["part"])
        files = parts.setdefault(title, {}).setdefault(side, {})
        if number in files:
            raise DataError(
                f"{store.where(files[number])} and {name} have the name of the same part of a set; keep one"
            )
        files[number] = name
    found = []
    for title, sides in parts.items():
        if only is not None:
            sides = {side: files for side, files in sides.items() if only in files.values()}
        if sides:
            ordered = {side: _in_order(store, files) for side, files in sides.items()}
            title = f"{title} in {store.path}"
            found.append(Found(title, partial(_open, title, store, ordered)))
    return found


def _open(title: str, store: FolderStore, files: dict[int, list[str]], request: Request) -> RecordImages:
    """Open the images of the largest side; :meth:`RecordImages.at_least` leads to the others."""
    if request.split is not None:
        raise no_such_split(title, request.split, "TFRecords of one name have no parts, so leave the split out")
    if len(files) > 1:
        sides = ", ".join(str(side) for side in sorted(files))
        request.notice(f"{title} has images of {sides} pixels a side; the smallest that suffices is read")
    return RecordImages(store, files, max(files), request)


def _in_order(store: Store, files: Mapping[int | None, str]) -> list[str]:
    numbers: Sequence[int | None] = sorted(number for number in files if number is not None)
    if None in files and numbers:
        raise DataError(
            f"{store.where(files[None])} is beside parts of a file of the same name, {files[numbers[0]]}; "
            "keep either the whole or the parts"
        )
    for expected, number in enumerate(numbers):
        if number != expected:
            raise DataError(f"{store.where(files[number])}: part {expected} of this file is missing; fetch it")
    return [files[number] for number in (numbers or [None])]
