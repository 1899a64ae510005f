"""The options that sample, reconstruct, interpolate, mix, translate and ood share, and the model that they load."""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from sivae.cli.parsing import Parser, at_least, data_path, file, number, seed, whole
from sivae.errors import ConfigError, DamagedImageError

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor

    from sivae.data.images import ImageSet
    from sivae.data.images.crop import Crop
    from sivae.models import StyleVAE, VAEModel
    from sivae.models.style import Truncation

IN_FOLDER = "in the run's folder, or beside the model's"
IMAGES_IN_PICTURE = 1024  # at most; in a larger one nothing can be seen


def add_model(parser: Parser) -> None:
    """Add the model, the first argument without dashes."""
    parser.add_argument(
        "model",
        nargs="?",
        type=Path,
        metavar="RUN_OR_MODEL",
        help="Folder of a run (its last checkpoint is used), of one of its checkpoints, or of an imported model.",
    )
    parser.require("model", "name a run's folder, one of its checkpoints, or an imported model's folder")


def add_weights_and_device(parser: Parser) -> None:
    """Add --raw-weights and --device, the last options of each verb."""
    parser.add_argument(
        "--raw-weights", action="store_true", help="Use the weights as trained, not their running average."
    )
    add_device(parser)


def add_device(parser: Parser) -> None:
    """Add --device."""
    parser.add_argument(
        "--device",
        default="auto",
        metavar="NAME",
        help="Device to compute on: auto (a GPU if there is one), cpu, cuda, cuda:1 ...",
    )


def add_class(parser: Parser) -> None:
    """Add --class, whose value is `class_`."""
    parser.add_argument(
        "--class",
        dest="class_",
        type=whole,
        metavar="N",
        help="The images' class, for a model that was trained with classes: 0 or more.",
    )


def add_truncation(parser: Parser, *, sweep: bool) -> None:
    """Add --truncation, a list of one or (of a sweep) several values, and --cutoff."""
    parser.add_argument(
        "--truncation",
        nargs="+" if sweep else 1,
        type=number,
        metavar="PSI",
        help="Move the styles towards the average style: 1 leaves them as they are, 0 gives the average "
        "(style-based models).",
    )
    parser.add_argument(
        "--cutoff",
        type=at_least(1),
        metavar="N",
        help="Number of style inputs that --truncation changes, from 4 x 4 upwards. (default: 8)",
    )


def add_picture(parser: Parser, name: str, text: str = "File of the picture.") -> None:
    """Add --out, the picture's file, with its default name."""
    parser.add_argument("--out", type=file(".png"), metavar="FILE.png", help=f"{text} (default: {name} {IN_FOLDER})")


def add_data_set(parser: Parser, data: str, split: str, count: str) -> None:
    """Add --data, --split, --count and --seed, with these words for the first three. None has a default value."""
    parser.add_argument("--data", type=data_path, metavar="PATH", help=f"Use images of a data set instead: {data}")
    parser.add_argument(
        "--split",
        choices=("train", "test"),
        help=f"Part of the data set. (default: {split}, or all images if it has no parts)",
    )
    parser.add_argument("--count", type=at_least(1), metavar="N", help=count)
    parser.add_argument(
        "--seed", type=seed, metavar="N", help="Seed that decides which images of the data set are used. (default: 0)"
    )


def refuse(given: argparse.Namespace, names: Sequence[str], reason: str) -> None:
    """Raise a ConfigError if one of these options is given.

    Args:
        names: of attributes of `given`.
        reason: follows the option's name in the message.
    """
    for name in names:
        value = getattr(given, name)
        if value is not None and value is not False:
            raise ConfigError(f"--{name.strip('_').replace('_', '-')} {reason}")


@dataclass
class OpenedModel:
    """A model, ready on its device."""

    model: VAEModel
    device: torch.device
    source: Path
    raw_weights: bool = False

    def beside(self, name: str) -> Path:
        """The default path of an output: in the run's folder, or beside a model's folder.

        It is never inside a checkpoint's or a model's folder, which holds the model alone.
        """
        stem, dot, ending = name.partition(".")
        if self.source.parent.name == "checkpoints":
            step = self.source.name.lstrip("0") or "0"
            return self.source.parent.parent / f"{stem}-step{step}{dot}{ending}"
        from sivae.models.diffusers_folder import is_folder

        if (self.source / "model.json").exists() or is_folder(self.source):
            return self.source.with_name(f"{self.source.name}-{name}")
        return self.source / name

    def origin(self, data: str | os.PathLike[str], split: str | None) -> dict[str, Any]:
        """What `latents.json` says of the origin of latents.

        Args:
            data: the data set that was named.
            split: its part.
        """
        from sivae.pretrained import folder_of
        from sivae.settings.data import absolute

        clouds = len(self.model.sample_shape) == 2
        return {
            "model_folder": str(folder_of(self.source)),
            "raw_weights": self.raw_weights,
            "data_path": absolute(str(data), "clouds" if clouds else "images"),
            "split": split,
        }


@dataclass
class CloudModel(OpenedModel):
    """A model of point clouds."""


@dataclass
class ImageModel(OpenedModel):
    """A model of images."""

    crop: Crop = "center"

    @property
    def classes(self) -> int:
        """Number of classes that the model was trained with; 0: it is not conditional."""
        return self.model.condition_dim

    @property
    def side(self) -> int:
        """Height and width of its images."""
        return self.model.sample_shape[1]

    @property
    def channels(self) -> int:
        """1 (grey) or 3 (RGB)."""
        return self.model.sample_shape[0]

    @property
    def value_range(self) -> tuple[float, float]:
        """The values of black and of white."""
        from sivae.models.pixels import image_range

        return image_range(self.model)

    def conditions(self, labels: Sequence[int | None]) -> Tensor | None:
        """One-hot [N, classes] on the device; None for a model that is not conditional.

        Raises:
            ConfigError: a label is missing or not one of the model's.
        """
        import torch

        from sivae.models.base import one_hot

        if not self.classes:
            return None
        for label in labels:
            if label is None or not 0 <= label < self.classes:
                came = "no class is given" if label is None else f"an image is of class {label}"
                raise ConfigError(f"{came}, and the model knows 0 to {self.classes - 1}; choose one by --class N")
        return one_hot(torch.tensor(labels, dtype=torch.long), self.classes).to(self.device)

    def read_files(self, paths: Sequence[Path], folders: str = "") -> Tensor:
        """Decode image files and fit them to the model: uint8 [N, H, W, C].

        Args:
            paths: the files.
            folders: ends the message about a folder, with the option that takes one.

        Raises:
            ConfigError: a path is a folder.
            DataError: a file is no image, or damaged, or does not fit the crop.
            OSError: a file cannot be read.
        """
        from sivae.data.images.pixels import decode, fit_square
        from sivae.data.stores import read_file

        for path in paths:
            if path.is_dir():
                raise ConfigError(f"{path} is a folder; name image files in it{folders}")
        pictures, problems = [], []
        for path in paths:
            try:
                pictures.append((decode(read_file(path), str(path)), str(path)))
            except DamagedImageError as error:
                problems.append(str(error))
        if problems:
            raise DamagedImageError(f"{'; '.join(problems)}; leave {'it' if len(problems) == 1 else 'them'} out")
        return _stacked(
            [fit_square(picture, self.side, self.channels, where, self.crop) for picture, where in pictures]
        )

    def read_rows(self, images: ImageSet, rows: Sequence[int]) -> Tensor:
        """Read images of a set and fit them to the model: uint8 [N, H, W, C]."""
        return _stacked([images.read_square(row, self.side, self.channels, self.crop) for row in rows])

    def batches(
        self, images: ImageSet, rows: Sequence[int], label: int | None
    ) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Read images of a set in batches, in the model's values, and their conditions.

        Args:
            images: the set.
            rows: of the images.
            label: the class of all images; None: their own.

        Raises:
            ConfigError: as :meth:`conditions`.
        """
        from sivae.models.base import samples_at_once

        size = samples_at_once(self.model.sample_shape)
        for start in range(0, len(rows), size):
            some = rows[start : start + size]
            labels = [images.label(row) if label is None else label for row in some]
            yield self.to_model(self.read_rows(images, some)), self.conditions(labels)

    def to_model(self, pixels: Tensor) -> Tensor:
        """uint8 [N, H, W, C] -> [N, C, H, W] in the model's values, on its device."""
        from sivae.models.pixels import from_uint8

        return from_uint8(pixels.to(self.device), self.value_range)


def _stacked(images: Sequence[np.ndarray]) -> Tensor:
    import numpy as np
    import torch

    return torch.from_numpy(np.stack(images))


def open_model(given: argparse.Namespace) -> ImageModel:
    """Load the model of :func:`add_model` as :func:`add_weights_and_device` and :func:`add_class` say.

    Raises:
        ConfigError: the model makes no images or has no such class, or the device is missing.
    """
    opened = open_any_model(given)
    if isinstance(opened, CloudModel):
        raise ConfigError(f"{given.model}: this model makes point clouds, and this verb is for images; name another")
    return opened


def open_any_model(given: argparse.Namespace) -> ImageModel | CloudModel:
    """Load a model of images or of point clouds, as :func:`open_model`."""
    import sivae
    from sivae.machine import find_device

    chosen = getattr(given, "class_", None)
    device = find_device(given.device)
    model = sivae.from_pretrained(given.model, averaged=not given.raw_weights)
    if len(model.sample_shape) == 2:
        return CloudModel(model.to(device), device, given.model.absolute(), given.raw_weights)
    if len(model.sample_shape) != 3:
        raise ConfigError(f"{given.model}: this model makes points, not images or clouds; sivae evaluate measures it")
    if chosen is not None and not model.condition_dim:
        raise ConfigError(f"--class {chosen}: this model knows no classes; leave it out")
    if chosen is not None and not 0 <= chosen < model.condition_dim:
        raise ConfigError(f"--class {chosen}: this model knows the classes 0 to {model.condition_dim - 1}")
    source = given.model.absolute()
    return ImageModel(
        model.to(device), device, source, given.raw_weights, getattr(given, "crop", None) or _crop_of(source)
    )


def _crop_of(source: Path) -> Crop:
    """The crop of the images that the model was trained on; center where it is unknown or there was none."""
    from sivae.data.images.crop import parse_crop
    from sivae.training.folder import run_of

    run = run_of(source)
    cuts = run is not None and "crop" in run.data.key_names()
    return (parse_crop(run.value("crop")) if run is not None and cuts else None) or "center"


def style_model(opened: ImageModel, option: str) -> StyleVAE:
    """The model as a style-based one, which an option or a verb needs.

    Raises:
        ConfigError: it is of another kind.
    """
    if not opened.model.has_styles:
        raise ConfigError(
            f"{option} is for a style-based model; this one is {opened.model.name!r}, which has no styles"
        )
    return cast("StyleVAE", opened.model)


def truncations(given: argparse.Namespace) -> list[Truncation]:
    """The values of :func:`add_truncation`; empty: none are given.

    Raises:
        ConfigError: a value is not finite, or --cutoff is given alone.
    """
    from sivae.models.style import Truncation

    if given.truncation is None:
        refuse(given, ["cutoff"], "goes with --truncation PSI; leave it out, or give that too")
        return []
    if not all(math.isfinite(psi) for psi in given.truncation):
        raise ConfigError(f"--truncation {' '.join(map(str, given.truncation))}: expected numbers, 0.7 for example")
    cutoff = {} if given.cutoff is None else {"cutoff": given.cutoff}
    return [Truncation(psi, **cutoff) for psi in given.truncation]


def add_each(parser: Parser) -> None:
    """Add --each, the folder of clouds."""
    parser.add_argument(
        "--each",
        type=Path,
        metavar="DIR",
        help="Write each cloud as a .ply file into this folder (models of point clouds).",
    )


def check_grid(rows: int, columns: int) -> None:
    """Raise a ConfigError if a grid, with a row and a column of originals beside it, has too many images."""
    if (rows + 1) * (columns + 1) > IMAGES_IN_PICTURE:
        raise ConfigError(
            f"{rows:,} by {columns:,} images are too many for a picture; at most {IMAGES_IN_PICTURE:,} go into one"
        )
