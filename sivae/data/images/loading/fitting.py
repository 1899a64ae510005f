"""Choose one shape for all images of a set, and fit each image to it."""

from __future__ import annotations

import copy
from collections.abc import Collection
from dataclasses import dataclass
from functools import partial

import numpy as np
from PIL import Image

from sivae.data.images.base import ImageSet, PackedImages
from sivae.data.images.crop import Crop
from sivae.data.images.halving import averaged
from sivae.data.images.loading.damage import kept_images
from sivae.data.images.loading.threads import for_each
from sivae.data.images.pixels import check_shape_request, check_size, fit
from sivae.data.notice import Notice, ignore
from sivae.errors import DamagedImageError, DataError

REMEDY = "restore such images, or leave them out by --skip-damaged (in sivae train: --skip-damaged on)"

_PROBED = 64  # images that are read to choose the shape
_BLOCK_BYTES = 8 << 20
_BLOCK_IMAGES = (16, 1024)  # least and most


@dataclass(frozen=True)
class Shape:
    """The shape of every image of a set after fitting.

    Attributes:
        resolution: height and width.
        channels: 1 or 3.
        crop: see :func:`sivae.data.images.pixels.fit`.
        channels_given: whether the user chose the channels; else an RGB image in a grey set is an error.
        exact: whether images are not resized; then an image of another size is an error.
    """

    resolution: int
    channels: int
    crop: Crop
    channels_given: bool
    exact: bool

    @property
    def image_bytes(self) -> int:
        """Bytes of one image."""
        return self.resolution**2 * self.channels

    def blocks(self, count: int) -> list[range]:
        """Split `count` images into blocks, one for each call of a thread."""
        least, most = _BLOCK_IMAGES
        size = min(max(_BLOCK_BYTES // self.image_bytes, least), most)
        return [range(start, min(start + size, count)) for start in range(0, count, size)]


def nearest(images: ImageSet, resolution: int | None, crop: Crop) -> ImageSet:
    """The set with its smallest stored images that are large enough, where it is stored in several sizes."""
    if resolution is None or isinstance(crop, tuple):  # a crop is in pixels of the largest images
        return images
    return images.at_least(resolution)


def choose_shape(
    images: ImageSet,
    *,
    resolution: int | None,
    crop: Crop = None,
    channels: int | None = None,
    notice: Notice = ignore,
) -> Shape:
    """Choose the shape from the request and from some images, evenly spread. Damaged ones are passed over.

    Args:
        images: the source.
        resolution: None takes the resolution of the images.
        crop: see :func:`sivae.data.images.pixels.fit`.
        channels: None takes 3 where one of these images is RGB, else 1.
        notice: called with a line about the resize, where there is one.

    Raises:
        DamagedImageError: all of these images are damaged.
        DataError: the set is empty, or an image does not fit the request.
    """
    check_shape_request(1 if resolution is None else resolution, crop, channels)
    if not len(images):
        raise DataError(f"{images.name} holds no images")
    count = min(_PROBED, len(images))
    probed = sorted({round(i * (len(images) - 1) / max(1, count - 1)) for i in range(count)})
    grey, side = True, resolution
    failure: DamagedImageError | None = None
    sides: list[int] = []
    for index in probed:
        try:
            picture = images.picture(index)
            check_size(picture.width, picture.height, crop, images.where(index))
        except DamagedImageError as error:
            failure = failure or error
            continue
        sides.append(crop[2] if isinstance(crop, tuple) else min(picture.size))
        grey = grey and picture.mode == "L"
        side = side or sides[0]
        if images.uniform:
            break
    if not sides and failure is not None and (side is None or not images.skip_damaged):
        raise failure  # the caller, who reads the others, would only find that after a long time
    if resolution is not None:
        say_resize(images.name, sides, resolution, notice)
    return Shape(
        resolution=side or 1,
        channels=channels or (1 if grey and sides else 3),
        crop=crop,
        channels_given=channels is not None,
        exact=resolution is None,
    )


def say_resize(name: str, sides: Collection[int], side: int, notice: Notice) -> None:
    """Tell what images of these sides are resized to; nothing where no size changes."""
    if {*sides} <= {side}:
        return
    least, most = f"{min(sides)}×{min(sides)}", f"{max(sides)}×{max(sides)}"
    came = least if least == most else f"{least} to {most}"
    if min(sides) < side:
        notice(
            f"{name}: images of {came} are ENLARGED to {side}×{side}, which adds pixels but no detail; "
            f"choose --resolution {min(sides)} or a preset of that size, if there is one"
        )
    else:
        notice(f"{name}: images of {came} are resized to {side}×{side}")


def fit_image(images: ImageSet, index: int, shape: Shape) -> np.ndarray:
    """Read an image of the set and fit it to the shape, uint8 ``[R, R, C]``.

    Raises:
        DamagedImageError: the image is damaged, or too small for the crop.
        DataError: the image does not fit the shape otherwise.
    """
    picture = _checked(images, index, shape)
    return fit(
        picture,
        resolution=shape.resolution,
        crop=shape.crop,
        channels=shape.channels,
        where=images.where(index),
    )


def _checked(images: ImageSet, index: int, shape: Shape) -> Image.Image:
    """Decode an image, and check that it fits the shape. Raises as :func:`fit_image` does."""
    picture, where = images.picture(index), images.where(index)
    if shape.exact and shape.crop is None and picture.size != (shape.resolution, shape.resolution):
        raise DataError(
            f"{where} is {picture.width}×{picture.height} (width × height), where the first image is "
            f"{shape.resolution}×{shape.resolution}; bring all to one size with sivae prepare"
        )
    if picture.mode == "RGB" and shape.channels == 1 and not shape.channels_given:
        raise DataError(
            f"{where} is RGB, where the images before it are grey; choose --channels 3 or --channels 1 for all"
        )
    check_size(picture.width, picture.height, shape.crop, where)
    return picture


class FittedImages(ImageSet):
    """A set whose images are decoded and fitted to one shape at every read.

    It holds the same images as :func:`sivae.data.images.load_packed` returns, without the memory. To find out which are
    damaged, each is decoded once before any is used.

    Args:
        source: the images. Where it was opened with `skip_damaged`, damaged images are left out and counted.
        resolution: height and width of every image; None takes that of the images, which must be the same for all.
        channels: 1 or 3; None takes 3 where images are RGB, else 1.
        crop: the part of each image to keep; None: all of it, which has to be square.
        workers: number of threads that look for damage; None: one for each core.
        progress: show progress if that takes long.
        notice: called with a line about the resize and one about damaged images, where there are such.

    Raises:
        DamagedImageError: images are damaged, and the source was not opened with `skip_damaged`.
        DataError: the set is empty, or an image does not fit.
    """

    uniform = True

    def __init__(
        self,
        source: ImageSet,
        *,
        resolution: int | None = None,
        channels: int | None = None,
        crop: Crop = None,
        workers: int | None = None,
        progress: bool = False,
        notice: Notice = ignore,
    ) -> None:
        self._source = source = nearest(source, resolution, crop)
        self._shape = choose_shape(source, resolution=resolution, crop=crop, channels=channels, notice=notice)
        self._halvings = 0
        self.resolution, self.channels = self._shape.resolution, self._shape.channels
        damaged: dict[int, str] = {}
        if not isinstance(source, PackedImages):
            blocks = self._shape.blocks(len(source))
            check = partial(_checked, source, shape=self._shape)
            title = f"checking {source.name}"
            damaged = for_each(source, check, blocks, workers=workers, title=title, progress=progress)
        self._kept = kept = kept_images(source, damaged, REMEDY, notice)
        self.name, self.skipped, self.part = source.name, source.skipped + len(damaged), source.part
        self.labels = None if source.labels is None else source.labels[kept]
        self.contents = None if source.contents is None else source.contents[kept]
        self.class_names, self.content_names = source.class_names, source.content_names

    def __len__(self) -> int:
        return len(self._kept)

    def read(self, index: int) -> np.ndarray:
        return averaged(fit_image(self._source, int(self._kept[index]), self._shape), self._halvings)

    def where(self, index: int) -> str:
        return self._source.where(int(self._kept[index]))

    def stored(self, index: int) -> bytes:
        return self._source.stored(int(self._kept[index]))

    def halved(self, halvings: int) -> FittedImages:
        """The set at the resolution divided by 2^halvings; each pixel is the mean of a square of pixels."""
        lower = copy.copy(self)
        lower.resolution, lower._halvings = self.resolution >> halvings, self._halvings + halvings
        return lower
