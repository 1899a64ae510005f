"""`sivae encode`: write the latents of a set of images or point clouds to a folder."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from sivae.cli import clouds
from sivae.cli.generation import (
    IN_FOLDER,
    CloudModel,
    ImageModel,
    add_class,
    add_model,
    add_weights_and_device,
    open_any_model,
)
from sivae.cli.parsing import Parser, add_crop, data_path
from sivae.cli.printing import notice, print_latents
from sivae.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from sivae.data.images import ImageSet


def options(parser: Parser) -> None:
    """Add the verb's options."""
    parser.describe(
        """
        Write the latents of a set of images or point clouds to a folder, for a latent model that is trained elsewhere.

        Images are cut to squares (--crop) and resized to the model's size. The folder gets mu.npy and logvar.npy,
        arrays that can be mapped into memory (numpy.load(…, mmap_mode="r")), the samples' names and classes, and
        latents.json, with the standard deviation of the latents.
        """,
        [
            "sivae encode runs/autoencoder-f8-seed0 photos.zip --out latents",
            "sivae encode vae photos/ --crop center --out latents",
            "sivae encode runs/points-shapes-seed0 shapes --split train",
        ],
    )
    add_model(parser)
    parser.add_argument(
        "data", nargs="?", type=data_path, metavar="PATH", help="Any data set that sivae train --data reads."
    )
    parser.require("data", "name a data set, as for sivae train --data")
    parser.add_argument(
        "--split",
        choices=("train", "test"),
        help="Part of the data set. (default: train, or all images if it has no parts)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help=f"Folder of the latents. (default: latents, or latents-PART with --split, {IN_FOLDER})",
    )
    add_class(parser)
    add_crop(parser)
    add_weights_and_device(parser)


def run(given: argparse.Namespace) -> None:
    """Encode, and print where the latents are."""
    import numpy as np

    from sivae.data.images import open_images
    from sivae.evaluation.latents import check_folder, replaced, write_latents

    opened = open_any_model(given)
    out = given.out or opened.beside("latents" if given.split is None else f"latents-{given.split}")
    check_folder(out)
    if isinstance(opened, CloudModel):
        clouds.encode(given, opened, out)
        return
    images = open_images(given.data, split=given.split, notice=notice)
    if images.labels is None and opened.classes and given.class_ is None:
        raise ConfigError(
            f"{given.data} has no classes, and the model knows 0 to {opened.classes - 1}; choose one by --class N"
        )
    about = {"data": images.name, "crop": str(opened.crop), **opened.origin(given.data, images.part)}
    if other := replaced(out, about):
        notice(other)
    notice(f"images of other sizes are cut (--crop {opened.crop}) and resized to {opened.side} x {opened.side}")
    std = write_latents(
        out,
        opened.model,
        _batches(opened, images, given.class_),
        [images.where(row) for row in range(len(images))],
        labels=None if images.labels is None else np.asarray(images.labels, np.int64),
        classes=images.class_names or (),
        about=about,
    )
    print_latents(out, len(images), "image", opened.model.latent_shape, std)


def _batches(opened: ImageModel, images: ImageSet, label: int | None) -> Iterator[tuple[Tensor, Tensor | None]]:
    from sivae.progress import counting

    with counting("encoding", len(images)) as counter:
        for x, condition in opened.batches(images, range(len(images)), label):
            yield x, condition
            counter.advance(len(x))
