"""Open the train and test parts of a set of images, all in one shape."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

from sivae.data.images.base import ImageSet, PackedImages, Split
from sivae.data.images.crop import Crop
from sivae.data.images.levels import at_resolution
from sivae.data.images.loading.dataset import read_dataset
from sivae.data.images.loading.decoding import load_packed
from sivae.data.images.loading.fitting import FittedImages
from sivae.data.images.opening import open_images
from sivae.data.notice import Notice, ignore
from sivae.errors import DataError, NoSuchSplitError

Images = PackedImages | FittedImages


class Parts(NamedTuple):
    """Images of one shape.

    Attributes:
        train: images for training; None where only test images were requested and there are some.
        test: images for measuring; the training images where there are no test images.
    """

    train: Images | None
    test: Images


def open_parts(
    path: str,
    *,
    resolution: int,
    channels: int,
    crop: Crop = None,
    skip_damaged: bool = False,
    from_disk: bool = False,
    for_training: bool = True,
    show: bool = False,
) -> Parts:
    """Open the parts of a data set.

    Args:
        path: any data set that :func:`open_images` reads.
        resolution, channels: shape of the images; others are resized and converted.
        crop: the part of each image to keep; None: all of it, which has to be square.
        skip_damaged: leave out images that cannot be decoded, and print their number; else they are an error.
        from_disk: decode images when they are read, instead of all of them now.
        for_training: False leaves the training images unopened where there are test images.
        show: show progress while images are decoded.

    Raises:
        DataError: the images are missing or damaged, or do not fit the memory.
    """

    say = _once(_print if show else ignore)

    def part(split: Split) -> ImageSet | None:
        try:
            return open_images(path, split=split, skip_damaged=skip_damaged, notice=say)
        except NoSuchSplitError:
            return None

    def in_shape(images: ImageSet) -> Images:
        if isinstance(images, PackedImages) and crop is None:
            shape = (resolution, resolution, channels)
            for array in (images.array, images.levels.get(resolution)):
                if array is not None and array.shape[1:] == shape:
                    return at_resolution(images, resolution)  # mapped from the disk, if it is there
        if from_disk:
            return FittedImages(images, resolution=resolution, channels=channels, crop=crop, progress=show, notice=say)
        return load_packed(images, resolution=resolution, channels=channels, crop=crop, progress=show, notice=say)

    test = part("test")
    if test is not None and not for_training:
        return Parts(None, in_shape(test))
    # Opened before the test images are decoded: both may be in one archive.
    train = part("train") or open_images(path, skip_damaged=skip_damaged, notice=say)
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
    parts = data if isinstance(data, Mapping) else {"train": data}
    if "train" not in parts or not set(parts) <= {"train", "test"}:
        raise DataError(
            f"data is a dict of {', '.join(map(str, parts)) or 'nothing'}; expected a dataset, or a dict of datasets "
            'under "train" and maybe "test"'
        )
    say = _once(_print if show else ignore)
    train = read_dataset(parts["train"], resolution=resolution, channels=channels, progress=show, notice=say)
    if "test" not in parts:
        return Parts(train, train)
    test = read_dataset(parts["test"], resolution=resolution, channels=channels, progress=show, notice=say)
    return Parts(train, test)


def open_split(path: str, split: Split | None, *, skip_damaged: bool, notice: Notice) -> ImageSet:
    """Open one part of a data set, as it is.

    Args:
        path: any data set that :func:`open_images` reads.
        split: the part; None: the test images where there are some, else all.
        skip_damaged: leave out images that cannot be decoded; else they are an error.
        notice: called with a line about the chosen part.

    Raises:
        DataError: the images are missing or damaged, or there is no such part.
    """
    say = _once(notice)
    if split is not None:
        return open_images(path, split=split, skip_damaged=skip_damaged, notice=say)
    try:
        return open_images(path, split="test", skip_damaged=skip_damaged, notice=say)
    except NoSuchSplitError:
        return open_images(path, skip_damaged=skip_damaged, notice=say)


def _print(text: str) -> None:
    print(text, file=sys.stderr)


def _once(notice: Notice) -> Notice:
    """A notice that leaves out repeated lines: each part of a set is opened by itself."""
    said: set[str] = set()

    def say(text: str) -> None:
        if text not in said:
            said.add(text)
            notice(text)

    return say
