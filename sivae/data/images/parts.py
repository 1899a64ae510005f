"""Open the two parts of a set of images: those to train on and those to measure on."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

from sivae.data.images import (
    FittedImages,
    ImageSet,
    PackedImages,
    at_resolution,
    load_packed,
    open_images,
)
from sivae.data.images.loading.dataset import read_dataset
from sivae.errors import NoSuchSplitError

Images = PackedImages | FittedImages


class Parts(NamedTuple):
    """Images of one shape.

    Attributes:
        train: to train on; None where only the others were asked for and there are such.
        test: to measure on; the training images where there are no others.
    """

    train: Images | None
    test: Images


def open_parts(
    path: str,
    *,
    resolution: int,
    channels: int,
    skip_damaged: bool = False,
    from_disk: bool = False,
    for_training: bool = True,
    show: bool = False,
) -> Parts:
    """Open the parts of a data set.

    Args:
        path: what :func:`open_images` reads.
        resolution, channels: of the images; others are resized and converted.
        skip_damaged: leave out images that cannot be decoded, and say how many; else they are an error.
        from_disk: read images when they are needed, instead of decoding all of them now.
        for_training: False leaves the training images unopened where there are test images.
        show: show progress while images are decoded.

    Raises:
        DataError: they are not there, or damaged, or do not fit the memory.
    """

    def part(split: Literal["train", "test"]) -> ImageSet | None:
        try:
            return open_images(path, split=split, skip_damaged=skip_damaged)
        except NoSuchSplitError:
            return None

    def in_shape(images: ImageSet) -> Images:
        if isinstance(images, PackedImages):
            shape = (resolution, resolution, channels)
            for array in (images.array, images.levels.get(resolution)):
                if array is not None and array.shape[1:] == shape:
                    return at_resolution(images, resolution)  # mapped, not read, where it is on the disk
        if from_disk:
            return FittedImages(images, resolution=resolution, channels=channels)
        packed = load_packed(images, resolution=resolution, channels=channels, progress=show)
        if packed.skipped and show:
            print(f"{packed.name}: damaged images left out: {packed.skipped:,}", file=sys.stderr)
        return packed

    test = part("test")
    if test is not None and not for_training:
        return Parts(None, in_shape(test))
    # Opened before the test images are decoded: both may be in one archive.
    train = part("train") or open_images(path, skip_damaged=skip_damaged)
    fitted = in_shape(train)
    return Parts(fitted, fitted if test is None else in_shape(test))


def read_parts(data: Any, *, resolution: int, channels: int, show: bool = False) -> Parts:
    """Read the parts of a map-style dataset into memory.

    Args:
        data: a dataset as :func:`read_dataset` takes it; or a dict of such under "train" and maybe "test".
        resolution, channels, show: as for :func:`open_parts`.

    Raises:
        DataError: as for :func:`read_dataset`.
    """
    parts = data if isinstance(data, Mapping) and "train" in data else {"train": data}
    train = read_dataset(parts["train"], resolution=resolution, channels=channels, progress=show)
    if "test" not in parts:
        return Parts(train, train)
    return Parts(train, read_dataset(parts["test"], resolution=resolution, channels=channels, progress=show))


def open_split(
    path: str, split: Literal["train", "test"] | None, *, skip_damaged: bool, notice: Callable[[str], None]
) -> ImageSet:
    """Open one part of a data set, as it is.

    Args:
        path: what :func:`open_images` reads.
        split: the part; None: the test images where there are some, else all.
        skip_damaged: leave out images that cannot be decoded; else they are an error.
        notice: called with the choice, where there was one.

    Raises:
        DataError: nothing is there, it is damaged, or has no such part.
    """
    if split is not None:
        return open_images(path, split=split, skip_damaged=skip_damaged)
    try:
        return open_images(path, split="test", skip_damaged=skip_damaged)
    except NoSuchSplitError:
        return open_images(path, skip_damaged=skip_damaged, notice=notice)
