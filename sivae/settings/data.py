"""The settings of the data: a record for each kind of source."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from sivae.data.images.crop import CROP_VALUES, CROP_WORDS, is_crop, parse_crop
from sivae.data.images.formats.table import titles
from sivae.data.notice import ignore
from sivae.errors import ConfigError
from sivae.fields import AT_LEAST_1, Choice, Range, setting
from sivae.settings.models import Samples

if TYPE_CHECKING:
    from sivae.data.clouds import CloudSet
    from sivae.data.images import ImageSet
    from sivae.data.images.parts import Parts

Cache = Literal["auto", "device", "host", "none"]
Split = Literal["train", "test"]
Normalize = Literal["sphere", "cube", "none"]
Turn = Literal["none", "x", "y", "z"]
Notice = Callable[[str], None]


def absolute(path: str, samples: Samples) -> str:
    """Make a path absolute, since a run may be resumed in another folder. The name of a built-in set stays."""
    from sivae.data.clouds.builtin import is_named as names_clouds
    from sivae.data.images.builtin import is_named as names_images

    # The name of a set of the other samples stays too, where no file has it: the error is about the set.
    first, other = (names_clouds, names_images) if samples == "clouds" else (names_images, names_clouds)
    named = first(path) or (other(path) and not Path(path).exists())
    return path if named else str(Path(path).absolute())


def _cache() -> Any:
    return setting(
        "auto",
        help="Where decoded images are kept: in the device's memory, in the host's, or on the disk alone (none).",
        resumable=True,
    )


def _flip() -> Any:
    return setting(help="Mirror half of the images at random.")


@dataclass(frozen=True, kw_only=True)
class Data(Choice):
    """Where the samples come from.

    Class attributes:
        SAMPLES: what they are.
        ENDLESS: whether samples are drawn anew for ever, so that there are no passes over the data.
    """

    LABEL: ClassVar[str] = "data"
    SAMPLES: ClassVar[Samples] = "images"
    ENDLESS: ClassVar[bool] = False

    @property
    def title(self) -> str:
        """The data in messages."""
        return self.NAME

    @property
    def side(self) -> int:
        """The side of the images, in pixels; 0 of points."""
        return 0

    def check_is_named(self, preset: str) -> None:
        """Refuse data that the user still has to name.

        Raises:
            ConfigError: it is not named.
        """

    def batch_options(self) -> dict[str, Any]:
        """Arguments of :class:`sivae.data.images.ImageBatches` that the settings decide."""
        return {}

    def open_parts(self, *, for_training: bool = True, show: bool = False) -> Parts:
        """The images to train on and those to measure on.

        Args:
            for_training: False leaves the training images unopened where there are test images.
            show: show progress while images are decoded.

        Raises:
            ConfigError: the data is of points.
            DataError: the images are not there, or damaged, or do not fit the memory.
        """
        raise ConfigError(f"the data {self.title!r} is of points, not images; name images by a path")

    def open_split(self, split: Split | None, *, skip_damaged: bool, notice: Notice) -> ImageSet:
        """One part of the images, as they are.

        Args:
            split: the part; None: the test images where there are some, else all (or the training images).
            skip_damaged: leave out image files that cannot be decoded; else they are an error.
            notice: called with the choice, where there was one.

        Raises:
            ConfigError: the data is of points.
            DataError: the images are not there, or damaged, or there is no such part.
        """
        raise ConfigError(f"the data {self.title!r} is of points, not images; name images by a path")


@dataclass(frozen=True, kw_only=True)
class DensityData(Data):
    """Points in the plane, drawn from a density."""

    NAME: ClassVar[str] = "density"
    SAMPLES: ClassVar[Samples] = "points"
    ENDLESS: ClassVar[bool] = True

    density: str = setting(help="The density, a key of sivae.data.DENSITIES.", option="")

    @property
    def title(self) -> str:
        """See :attr:`Data.title`."""
        return self.density


@dataclass(frozen=True, kw_only=True)
class DigitsData(Data):
    """scikit-learn's 1,797 digits of 8x8 pixels."""

    NAME: ClassVar[str] = "digits"

    flip: bool = _flip()
    cache: Cache = _cache()

    @property
    def side(self) -> int:
        """See :attr:`Data.side`."""
        return 8

    def batch_options(self) -> dict[str, Any]:
        """See :meth:`Data.batch_options`."""
        return {"flip": self.flip, "cache": self.cache}

    def open_parts(self, *, for_training: bool = True, show: bool = False) -> Parts:
        """See :meth:`Data.open_parts`."""
        from sivae.data.images.builtin.digits import open_digits
        from sivae.data.images.parts import Parts

        return Parts(open_digits("train"), open_digits("test"))

    def open_split(self, split: Split | None, *, skip_damaged: bool, notice: Notice) -> ImageSet:
        """See :meth:`Data.open_split`."""
        from sivae.data.images.builtin.digits import open_digits

        return open_digits(split or "test")


@dataclass(frozen=True, kw_only=True)
class ShapesData(Data):
    """Rendered shapes, each with a class and a content."""

    NAME: ClassVar[str] = "shapes"

    resolution: int = setting(help="Side of the images.", within=AT_LEAST_1)
    cache: Cache = _cache()

    @property
    def side(self) -> int:
        """See :attr:`Data.side`."""
        return self.resolution

    def batch_options(self) -> dict[str, Any]:
        """See :meth:`Data.batch_options`."""
        return {"cache": self.cache}

    def open_parts(self, *, for_training: bool = True, show: bool = False) -> Parts:
        """See :meth:`Data.open_parts`."""
        from sivae.data.images.builtin.shapes import open_shapes
        from sivae.data.images.parts import Parts

        train = open_shapes("train", resolution=self.resolution) if for_training else None
        return Parts(train, open_shapes("test", resolution=self.resolution))

    def open_split(self, split: Split | None, *, skip_damaged: bool, notice: Notice) -> ImageSet:
        """See :meth:`Data.open_split`."""
        from sivae.data.images.builtin.shapes import open_shapes

        return open_shapes(split or "test", resolution=self.resolution)


@dataclass(frozen=True, kw_only=True)
class ImageData(Data):
    """Images that the user names: whatever `sivae.data.images.open_images` reads."""

    NAME: ClassVar[str] = "images"

    path: str | None = setting(
        None,
        help=f"The images: a folder, archive or file of {titles()}; or digits or mnist-5k, which packages contain.",
        option="data",
        unset="none; it must be given",
        metavar="PATH",
        resumable=True,
    )
    resolution: int = setting(help="Side of the images; others are resized.", within=AT_LEAST_1)
    channels: Literal[1, 3] = setting(help="1 (grey) or 3 (colour); images are converted.")
    crop: str | None = setting(
        None,
        help=f"Part to cut out of each image first: {CROP_WORDS}.",
        within=Range(is_crop, f"{CROP_WORDS}, a square"),
        unset="nothing; images have to be square",
        metavar=CROP_VALUES,
        since=None,
    )
    flip: bool = _flip()
    skip_damaged: bool = setting(
        False, help="Leave out image files that cannot be decoded, instead of stopping. Their number is shown."
    )
    cache: Cache = _cache()

    @property
    def title(self) -> str:
        """See :attr:`Data.title`."""
        return self.path or "the data"

    @property
    def side(self) -> int:
        """See :attr:`Data.side`."""
        return self.resolution

    def check_is_named(self, preset: str) -> None:
        """See :meth:`Data.check_is_named`."""
        if self.path is None:
            raise ConfigError(
                f"the preset {preset} needs images; name them by --data PATH: a folder, archive or file of {titles()}; "
                "or give a dataset of Python to sivae.train(..., data=dataset)"
            )

    def batch_options(self) -> dict[str, Any]:
        """See :meth:`Data.batch_options`."""
        return {"flip": self.flip, "cache": self.cache}

    def _place(self, option: str) -> str:
        if self.path is None:
            raise ConfigError(
                "the run was trained on a dataset of Python, which its settings cannot name; name images by "
                f"{option} PATH"
            )
        from sivae.data.images.builtin import check_is_of_images, is_named

        check_is_of_images(self.path)
        if not is_named(self.path) and not os.path.exists(self.path):
            raise ConfigError(
                f"{self.path}: there is no such file or folder; check the path, or name the new place of images that "
                f"have moved by {option} PATH"
            )
        return self.path

    def open_parts(self, *, for_training: bool = True, show: bool = False) -> Parts:
        """See :meth:`Data.open_parts`."""
        from sivae.data.images.parts import open_parts

        return open_parts(
            self._place("--data"),
            resolution=self.resolution,
            channels=self.channels,
            crop=parse_crop(self.crop),
            skip_damaged=self.skip_damaged,
            from_disk=self.cache == "none",
            for_training=for_training,
            show=show,
        )

    def open_split(self, split: Split | None, *, skip_damaged: bool, notice: Notice) -> ImageSet:
        """See :meth:`Data.open_split`."""
        from sivae.data.images.parts import open_split

        return open_split(self._place("--in"), split, skip_damaged=skip_damaged or self.skip_damaged, notice=notice)


@dataclass(frozen=True, kw_only=True)
class CloudData(Data):
    """Clouds of points in space: whatever `sivae.data.clouds.open_clouds` reads."""

    NAME: ClassVar[str] = "clouds"
    SAMPLES: ClassVar[Samples] = "clouds"

    path: str | None = setting(
        None,
        help="The clouds or surfaces: shapes (built in) or shapes:CLASS, or a folder, archive or file of .ply, .off, "
        ".npy or .npz.",
        option="data",
        unset="none; it must be given",
        metavar="PATH",
        resumable=True,
    )
    points: int = setting(
        help="Points in a cloud; each batch takes new ones of a shape.",
        within=Range(lambda value: value >= 4, "4 or more, as fewer points enclose no volume"),
    )
    classes: tuple[str, ...] = setting((), help="Classes to take, by name. None given: all.")
    normalize: Normalize = setting(
        "sphere", help="Bring each shape into the ball of diameter 1 (sphere) or the unit cube, around 0; or not."
    )
    rotation: Turn = setting("none", help="Axis about which each training cloud is turned by a random angle.")

    @property
    def title(self) -> str:
        """See :attr:`Data.title`."""
        return self.path or "the data"

    def of(self, path: str) -> CloudData:
        """The settings for clouds of a path. The classes are those of the run's own data; others are taken whole."""
        return self if path == self.path else self.changed(path=path, classes=())

    def check_is_named(self, preset: str) -> None:
        """See :meth:`Data.check_is_named`."""
        if self.path is None:
            raise ConfigError(
                f"the preset {preset} needs point clouds; name them by --data PATH: a folder, archive or file of .ply, "
                ".off, .npy or .npz; or train points-shapes, whose shapes are built in"
            )

    def open_part(self, part: Split, *, show: bool = False) -> CloudSet:
        """Open the clouds to train on or those to measure on.

        Args:
            part: which of the two.
            show: show progress while files are read.

        Raises:
            ConfigError: no path is given.
            DataError: the clouds are not there, or damaged.
        """
        from sivae.data.clouds import open_clouds

        if self.path is None:
            raise ConfigError("path: no point clouds are named; name them by --data PATH")
        classes = self.classes or None
        say = partial(print, file=sys.stderr) if show and part == "train" else ignore  # the test part says the same
        return open_clouds(
            self.path, part=part, classes=classes, points=self.points, normalize=self.normalize, show=show, notice=say
        )


DATA_KINDS: dict[str, type[Data]] = {
    kind.NAME: kind for kind in (DensityData, DigitsData, ShapesData, ImageData, CloudData)
}
