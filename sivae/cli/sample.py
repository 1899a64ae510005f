"""`sivae sample`: draw images or point clouds from a model's prior."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from sivae.cli import clouds
from sivae.cli.generation import (
    IMAGES_IN_PICTURE,
    CloudModel,
    ImageModel,
    add_class,
    add_model,
    add_picture,
    add_truncation,
    add_weights_and_device,
    open_any_model,
    refuse,
    style_model,
    truncations,
)
from sivae.cli.parsing import Parser, at_least, file, seed
from sivae.errors import ConfigError
from sivae.words import plural

if TYPE_CHECKING:
    from torch import Tensor

    from sivae.models.style import Truncation

_COUNT, _COUNT_OF_SWEEP = 64, 6
_CLASSES_IN_A_ROW = 20


def options(parser: Parser) -> None:
    """Add the verb's options."""
    parser.describe(
        """
        Draw images or point clouds from a model's prior.

        An image depends only on the seed and on its position: --count 16 draws the first 16 of the 64 that --count 64
        draws. A model that was trained with classes uses them in turn. For a style-based model, --truncation makes
        the samples more ordinary and less diverse; several values make a sweep, in which each row shows one sample at
        all values.
        """,
        [
            "sivae sample runs/cifar10-seed0",
            "sivae sample runs/cifar10-seed0 --count 100 --columns 10 --seed 7 --out samples.png",
            "sivae sample imported/celebahq256 --count 1000 --each samples/",
            "sivae sample runs/digits-seed0 --class 3",
            "sivae sample runs/points-shapes-seed0 --each clouds/",
            "sivae sample imported/ffhq256 --truncation 0.7",
            "sivae sample imported/ffhq256 --truncation 0 0.25 0.5 0.75 1",
        ],
    )
    add_model(parser)
    parser.add_argument(
        "--count",
        type=at_least(1),
        metavar="N",
        help=f"Number of samples. (default: {_COUNT}, of a sweep {_COUNT_OF_SWEEP}, of clouds {clouds.SAMPLES})",
    )
    parser.add_argument(
        "--columns",
        type=at_least(1),
        metavar="N",
        help="Images in a row of the picture. (default: nearly square, or one for each class)",
    )
    parser.add_argument("--seed", type=seed, default=0, metavar="N", help="Seed of the samples.")
    add_class(parser)
    add_truncation(parser, sweep=True)
    add_picture(parser, "samples-seedN.png", "File of the picture; --each and --npz draw one only with --out.")
    parser.add_argument(
        "--each",
        type=Path,
        metavar="DIR",
        help="Write each image as a PNG file, or each cloud as a .ply file, into this folder.",
    )
    parser.add_argument(
        "--npz",
        type=file(".npz"),
        metavar="FILE.npz",
        help="Write all images as one uint8 array [N, H, W, C], or all clouds as one [N, points, 3] of float32, "
        "which --data of the other verbs reads.",
    )
    add_weights_and_device(parser)


def run(given: argparse.Namespace) -> None:
    """Sample, and print where the images are."""
    sweeps = given.truncation is not None and len(given.truncation) > 1
    count = given.count or (_COUNT_OF_SWEEP if sweeps else _COUNT)
    towards = truncations(given)
    opened = open_any_model(given)
    if isinstance(opened, CloudModel):
        clouds.sample(given, opened)
        return
    if sweeps:
        _sweep(opened, towards, given, count)
        return
    decode: Callable[[Tensor, Tensor | None], Tensor] = opened.model.render
    name = f"samples-seed{given.seed}.png"
    if towards:
        decode = partial(style_model(opened, "--truncation").render, truncation=towards[0])
        name = f"samples-truncated-seed{given.seed}.png"
    import numpy as np
    import torch

    from sivae.figures.grids import sample_grid, write_image
    from sivae.files import write_npz
    from sivae.models.latent import generate
    from sivae.models.pixels import to_uint8
    from sivae.progress import counting

    out = given.out
    if out is None and given.each is None and given.npz is None:
        out = opened.beside(name)
    turn = range(opened.classes) if given.class_ is None else [given.class_]
    labels = list(itertools.islice(itertools.cycle(turn), count))  # none for a model that knows no classes
    shown: list[Tensor] = []
    stored: list[Tensor] = []
    done = 0
    with counting("sampling", count) as counter:
        condition = opened.conditions(labels)
        for images in generate(opened.model, count, seed=given.seed, condition=condition, decode=decode):
            images = images.cpu()
            if out is not None and done < IMAGES_IN_PICTURE:
                shown.append(images[: IMAGES_IN_PICTURE - done])
            if given.npz is not None:
                stored.append(to_uint8(images, opened.value_range).permute(0, 2, 3, 1))
            if given.each is not None:
                for index, image in enumerate(images, done):
                    path = given.each / f"{index:0{len(str(count - 1))}d}.png"
                    write_image(path, image, value_range=opened.value_range)
            done += len(images)
            counter.advance(len(images))
    if out is not None:
        by_class = opened.classes if given.class_ is None and 1 < opened.classes <= _CLASSES_IN_A_ROW else None
        sample_grid(out, torch.cat(shown), columns=given.columns or by_class, value_range=opened.value_range)
        print(out if count <= IMAGES_IN_PICTURE else f"{out} (the first {IMAGES_IN_PICTURE:,})")
    if given.npz is not None:
        known = {"labels": np.array(labels, dtype=np.int64)} if labels else {}
        write_npz(given.npz, {"images": torch.cat(stored).numpy(), **known})
        print(given.npz)
    if given.each is not None:
        print(f"{given.each} ({plural(count, 'file')})")


def _sweep(opened: ImageModel, towards: list[Truncation], given: argparse.Namespace, count: int) -> None:
    """Draw the same samples, one in a row, at each truncation."""
    refuse(given, ["columns", "each", "npz"], "is not for a sweep; leave it out, or give --truncation one value")
    if count * len(towards) > IMAGES_IN_PICTURE:
        raise ConfigError(
            f"a sweep of {count:,} samples at {len(towards)} values has more than {IMAGES_IN_PICTURE:,} images; "
            "lower --count"
        )
    model = style_model(opened, "--truncation")
    import torch

    from sivae.figures.grids import labelled_grid
    from sivae.models.latent import generate
    from sivae.progress import counting

    columns = []
    with counting("sampling", count * len(towards)) as counter:
        for truncation in towards:
            decode = partial(model.render, truncation=truncation)
            parts = []
            for images in generate(model, count, seed=given.seed, decode=decode):
                parts.append(images.cpu())
                counter.advance(len(images))
            columns.append(torch.cat(parts))
    out = given.out or opened.beside(f"truncation-seed{given.seed}.png")
    labels = [f"\N{GREEK SMALL LETTER PSI} {truncation.psi:g}" for truncation in towards]
    rows = list(torch.stack(columns, dim=1))  # [psis, C, H, W] for each sample
    labelled_grid(out, rows, column_labels=labels, group=len(rows), value_range=opened.value_range)
    print(out)
