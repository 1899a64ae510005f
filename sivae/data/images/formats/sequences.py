"""Images that lie many to a file, as a video's frames or an object's views, each with two factors: class and content.

A file is decoded as a whole when one of its images is first read, and each thread keeps its last one: who walks the
set in order decodes each file about once, and who jumps about decodes one for every image.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from sivae.data.images.base import ImageSet, Notice, Split
from sivae.data.images.formats.found import chosen_part
from sivae.data.images.stores import Store, fingerprint
from sivae.errors import DamagedImageError


@dataclass(frozen=True)
class Run:
    """The images of one file.

    Attributes:
        file: its name in the store.
        label: the class of all of them.
        contents: int64 ``[n]``, the content of each.
        numbers: int64 ``[n]``, which of the file's images they are, rising.
    """

    file: str
    label: int
    contents: np.ndarray
    numbers: np.ndarray


@dataclass(frozen=True)
class Decoded:
    """What a file held.

    Attributes:
        images: uint8 ``[m, H, W, C]``, the first m of those that were wanted.
        missing: why there are no more, where m is less than was wanted.
    """

    images: np.ndarray
    missing: str = ""


Decoder = Callable[[Run], Decoded]  # raises DamagedImageError where nothing can be had

_NOTHING = np.empty((0, 1, 1, 1), np.uint8)


class _Last(threading.local):
    value: tuple[int, Decoded] | None = None  # a run and what it held


class SequenceImages(ImageSet):
    """A set of such images, of one shape.

    Args:
        store: where the files lie.
        runs: the images, file by file.
        decode: the images of a run.
        noun: what an image of a file is called in messages.
        name: of the set.
        class_names: by label.
        content_names: by content.
        skip_damaged: what loading and preparing do with a damaged image.
        part: train or test, where the data has parts.
    """

    uniform = True

    def __init__(
        self,
        store: Store,
        runs: Sequence[Run],
        decode: Decoder,
        *,
        noun: str,
        name: str,
        class_names: tuple[str, ...],
        content_names: tuple[str, ...],
        skip_damaged: bool = False,
        part: Split | None = None,
    ) -> None:
        self.name, self.class_names, self.content_names = name, class_names, content_names
        self.skip_damaged, self.part = skip_damaged, part
        self._store, self._runs, self._decode, self._noun = store, runs, decode, noun
        self._ends = np.cumsum([len(run.numbers) for run in runs])
        self._last = _Last()

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def _place(self, index: int) -> tuple[int, int]:
        run = int(np.searchsorted(self._ends, index, side="right"))
        return run, index - (int(self._ends[run - 1]) if run else 0)

    def read(self, index: int) -> np.ndarray:
        """See :meth:`ImageSet.read`."""
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
            except DamagedImageError as error:  # kept too: it would be found again for every image of the file
                decoded = Decoded(_NOTHING, str(error))
            last = self._last.value = run, decoded
        return last[1]

    def label(self, index: int) -> int:
        """See :meth:`ImageSet.label`."""
        return self._runs[self._place(index)[0]].label

    def content(self, index: int) -> int:
        """An image's content, an index into `content_names`."""
        run, position = self._place(index)
        return int(self._runs[run].contents[position])

    def where(self, index: int) -> str:
        """The image and its file, for messages."""
        run, position = self._place(index)
        return f"{self._noun} {self._runs[run].numbers[position]} of {self._store.where(self._runs[run].file)}"

    @property
    def fingerprint(self) -> str:
        """A digest of the files' names and sizes, and of which of their images are taken."""
        digest = hashlib.sha256(fingerprint(self._store, [run.file for run in self._runs]).encode())
        for run in self._runs:
            digest.update(run.numbers.astype("<i8").tobytes())
        return digest.hexdigest()

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_last"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _last=_Last())


class Opener(Protocol):
    """Makes the set of some files."""

    def __call__(
        self, files: list[str], *, name: str, part: Split | None, skip_damaged: bool, notice: Notice
    ) -> SequenceImages: ...


@dataclass(frozen=True)
class FoundSequences:
    """A set in a known format whose images lie many to a file.

    Attributes:
        title: its format and place.
        files: that hold its images, by part; None is the part of a set without parts.
        opener: makes the set of some of these files.
    """

    title: str
    files: Mapping[Split | None, list[str]]
    opener: Opener

    def open(self, name: str, split: Split | None, notice: Notice, *, skip_damaged: bool) -> SequenceImages:
        """Open a part; where none is named the train images, or all where there are no parts.

        Raises:
            DataError: there is no such part.
        """
        part = chosen_part(self.title, self.files, split, notice)
        return self.opener(self.files[part], name=name, part=part, skip_damaged=skip_damaged, notice=notice)


def parts_by_class(files: Mapping[str, list[str]], test_count: int) -> dict[Split | None, list[str]]:
    """Parts that share no class: the last classes are the test images.

    Args:
        files: by class, in the order of classes.
        test_count: how many classes are held out; of a single class none is.
    """
    if len(files) < 2:
        return {None: [name for names in files.values() for name in names]}
    classes = list(files)
    first = len(classes) - test_count
    return {
        "train": [name for one in classes[:first] for name in files[one]],
        "test": [name for one in classes[first:] for name in files[one]],
    }
