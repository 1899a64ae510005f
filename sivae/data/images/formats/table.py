"""The table of image formats. A new format is a new file beside this one, and a new row here.

The row feeds the detection, help texts and error messages. Help texts need no numpy and no torch, so a row names the
module of its reader, which is imported when it is needed. The module defines

    find(store, only) -> list[Found]

the data sets of its format in a folder or archive, or, where `only` is a file's name, in that file. It looks at names
and a few first bytes, and reads no image.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sivae.data.images.base import ImageSet, Split
    from sivae.data.notice import Notice
    from sivae.data.stores import Store


@dataclass(frozen=True)
class Request:
    """How to open a data set.

    Attributes:
        name: name of the opened set.
        split: the part; None: the train images, or all where there are no parts.
        skip_damaged: whether loading and preparing leave damaged images out.
        notice: called with lines that the user may want to read.
    """

    name: str
    split: Split | None
    skip_damaged: bool
    notice: Notice


@dataclass(frozen=True)
class Found:
    """A data set that is not opened yet.

    Attributes:
        title: its format and place, for messages.
        open: opens it; raises a DataError where it is damaged or has no such part.
    """

    title: str
    open: Callable[[Request], ImageSet]


@dataclass(frozen=True)
class Format:
    """A format.

    Attributes:
        title: name of the format in texts and documents.
        files: its files, for error messages.
        module: the module of its reader, below `sivae.data.images`.
        turn: formats of a later turn are tried only if those of the earlier turns find nothing.
    """

    title: str
    files: str
    module: str
    turn: int = 1

    def find(self, store: Store, only: str | None = None) -> list[Found]:
        """The data sets of this format; see the module's first lines.

        Raises:
            DataError: a data set of this format is incomplete.
        """
        found: list[Found] = import_module(f"sivae.data.images.{self.module}").find(store, only)
        return found


# Of a single file the first reader that finds it is used, so readers that look at exact names come before those that
# look at bytes or suffixes.
FORMATS = (
    Format("a set packed by sivae prepare", "dataset.json beside images.npy", "prepared", turn=0),
    Format("CIFAR", "CIFAR-10 or CIFAR-100, python or binary release", "formats.cifar"),
    Format("Cars3D", "car_NNN_mesh.mat", "formats.cars3d"),
    Format("KTH actions", "personPP_ACTION_dS_uncomp.avi", "formats.kth"),
    Format("TFRecords", "NAME-rNN.tfrecords, as of FFHQ and CelebA-HQ", "formats.tfrecords"),
    Format("NumPy arrays", "uint8 in .npy or .npz", "formats.arrays"),
    Format("MNIST", "IDX files, also of Fashion-MNIST and similar sets", "formats.idx"),
    Format("SVHN", "cropped, train_32x32.mat and so on", "formats.svhn"),
    Format("tar shards", "NAME-000000.tar and so on, as of WebDataset", "formats.shards", turn=2),
    Format("image files", "in a folder, zip or tar, also those of FFHQ and CelebA-HQ", "formats.image_files", turn=3),
)

_LISTED = sorted(FORMATS, key=lambda row: (3, 1, 2, 0).index(row.turn))  # the order in texts, the most common first


def titles() -> str:
    """All formats, for help texts: "image files, CIFAR, … or a set packed by sivae prepare"."""
    *first, last = (row.title for row in _LISTED)
    return f"{', '.join(first)} or {last}"


def titles_and_files() -> str:
    """All formats with their files, for error messages."""
    return ", ".join(f"{row.title} ({row.files})" for row in _LISTED)
