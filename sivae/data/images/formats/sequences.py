"""Images of which one file holds many, such as a video's frames or an object's views, with a class and a content each.

A file is decoded as a whole when one of its images is first read, and each thread keeps the file that it decoded last:
reading in order decodes each file about once, reading in random order decodes a file for each image.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sivae.data.images.base import ImageSet, Split
from sivae.data.images.formats.table import Request
from sivae.data.stores import Store, fingerprint
from sivae.errors import DamagedImageError


@dataclass(frozen=True)
class Run:
    """The images that are taken from one file.

    Attributes:
        file: its name in the store.
        label: the class of all of them.
        contents: int64 ``[n]``, the content of each.
        numbers: int64 ``[n]``, their numbers in the file, rising.
    """

    file: str
    label: int
    contents: np.ndarray
    numbers: np.ndarray


@dataclass(frozen=True)
class Decoded:
    """The decoded images of a run.

    Attributes:
        images: uint8 ``[m, H, W, C]``, the first m images of the run.
        missing: the reason, where m is less than n.
    """

    images: np.ndarray
    missing: str = ""


Decoder = Callable[[Run], Decoded]  # raises DamagedImageError where no image can be decoded

_NOTHING = np.empty((0, 1, 1, 1), np.uint8)


class _Last(threading.local):
    value: tuple[int, Decoded] | None = None  # number of a run, and its images


class SequenceImages(ImageSet):
    """A set of such images, all of one shape.

    Args:
        store: the files.
        runs: the images, file by file.
        decode: decodes the images of a run.
        noun: name of an image of a file in messages.
        class_names: by label.
        content_names: by content.
        part: "train" or "test", where the data has parts.
        request: how to open the set.
    """

    uniform = True

    def __init__(
        self,
        store: Store,
        runs: Sequence[Run],
        decode: Decoder,
        *,
        noun: str,
        class_names: tuple[str, ...],
        content_names: tuple[str, ...],
        part: Split | None,
        request: Request,
    ) -> None:
        self.name, self.skip_damaged, self.part = request.name, request.skip_damaged, part
        self.labels = np.repeat([run.label for run in runs], [len(run.numbers) for run in runs])
        self.contents = np.concatenate([run.contents for run in runs])
        self.class_names, self.content_names = class_names, content_names
        self._store, self._runs, self._decode, self._noun = store, runs, decode, noun
        self._ends = np.cumsum([len(run.numbers) for run in runs])
        self._last = _Last()

    def __len__(self) -> int:
        return int(self._ends[-1])

    def _place(self, index: int) -> tuple[int, int]:
        """The number of the run, and the position in it."""
        run = int(np.searchsorted(self._ends, index, side="right"))
        return run, index - (int(self._ends[run - 1]) if run else 0)

    def read(self, index: int) -> np.ndarray:
        run, position = self._place(index)
        decoded = self._decoded(run)
        if position >= len(decoded.images):
            raise DamagedImageError(f"{self.where(index)}: {decoded.missing}")
        image: np.ndarray = decoded.images[position]
        return image

    def _decoded(self, run: int) -> Decoded:
        last = self._last.value
        if last is None or last[0] != run:
            try:
                decoded = self._decode(self._runs[run])
            except DamagedImageError as error:  # kept, because every image of the file would raise it again
                decoded = Decoded(_NOTHING, str(error))
            last = self._last.value = run, decoded
        return last[1]

    def where(self, index: int) -> str:
        run, position = self._place(index)
        return f"{self._noun} {self._runs[run].numbers[position]} of {self._store.where(self._runs[run].file)}"

    @property
    def fingerprint(self) -> str:
        """A digest of the files' names and sizes, and of the numbers of their images."""
        digest = hashlib.sha256(fingerprint(self._store, [run.file for run in self._runs]).encode())
        for run in self._runs:
            digest.update(run.numbers.astype("<i8").tobytes())
        return digest.hexdigest()

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_last"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _last=_Last())


def parts_by_class(files: Mapping[str, list[str]], test_count: int) -> dict[Split | None, list[str]]:
    """Divide files into parts that share no class: the last classes are the test images.

    Args:
        files: file names by class, in the order of classes.
        test_count: number of test classes; a single class is not divided.
    """
    if len(files) < 2:
        return {None: [name for names in files.values() for name in names]}
    classes = list(files)
    first = len(classes) - test_count
    return {
        "train": [name for one in classes[:first] for name in files[one]],
        "test": [name for one in classes[first:] for name in files[one]],
    }
