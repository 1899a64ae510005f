"""`sivae mix`: combine the coarse styles of some images with the fine styles of others."""

from __future__ import annotations

import argparse
from pathlib import Path

from sivae.cli.generation import (
    add_model,
    add_picture,
    add_truncation,
    add_weights_and_device,
    check_grid,
    open_model,
    refuse,
    style_model,
    truncations,
)
from sivae.cli.parsing import Parser, add_crop, at_least, seed, whole
from sivae.errors import ConfigError

_ROWS, _COLUMNS = 4, 6


def options(parser: Parser) -> None:
    """Add the verb's options."""
    parser.describe(
        """
        Mix styles: each image has the coarse styles of its row's image and the fine styles of its column's image.

        Rows and columns are different samples of the prior. If image files are given, rows and columns both show these
        files, encoded and decoded by the model. A style-based model has two style inputs for each resolution from 4 x 4
        upwards: the first ones decide pose and shape, the last ones color and texture.
        """,
        [
            "sivae mix imported/ffhq256",
            "sivae mix imported/ffhq256 --rows 3 --columns 8 --seed 5 --first 4 --truncation 0.7",
            "sivae mix runs/ffhq256-seed0 me.jpg you.jpg them.jpg --out mixed.png",
        ],
    )
    add_model(parser)
    parser.add_argument("images", nargs="*", type=Path, metavar="IMAGE", help="Image files to mix, instead of samples.")
    parser.add_argument(
        "--rows", type=at_least(1), metavar="N", help=f"Samples that give the coarse styles. (default: {_ROWS})"
    )
    parser.add_argument(
        "--columns", type=at_least(1), metavar="N", help=f"Samples that give the fine styles. (default: {_COLUMNS})"
    )
    parser.add_argument("--seed", type=seed, metavar="N", help="Seed of the samples. (default: 0)")
    parser.add_argument(
        "--first",
        type=whole,
        metavar="N",
        help="Number of the first style input that takes a fine style. (default: half of the style inputs)",
    )
    add_truncation(parser, sweep=False)
    add_picture(parser, "mixing….png")
    add_crop(parser)
    add_weights_and_device(parser)


def run(given: argparse.Namespace) -> None:
    """Mix, and print where the picture is."""
    if given.images:
        refuse(given, ["rows", "columns", "seed"], "is for samples, not for image files; leave it out")
    else:
        refuse(given, ["crop"], "is for image files; leave it out")
    rows, columns, seed = given.rows or _ROWS, given.columns or _COLUMNS, given.seed or 0
    if given.images:
        rows = columns = len(given.images)
    check_grid(rows, columns)
    truncation = next(iter(truncations(given)), None)
    opened = open_model(given)
    model = style_model(opened, "sivae mix")
    inputs = 2 * (model.lod + 1)
    first = inputs // 2 if given.first is None else given.first
    if not 0 < first < inputs:
        raise ConfigError(f"--first {first}: expected 1 to {inputs - 1}, as this model has {inputs} style inputs")

    import torch

    from sivae.figures.grids import labelled_grid
    from sivae.models.base import samples_at_once
    from sivae.models.latent import prior_samples
    from sivae.progress import counting

    with torch.no_grad():
        if given.images:
            coarse = fine = model.encode(opened.to_model(opened.read_files(given.images)))[0]
        else:
            fine, coarse = prior_samples(model, seed, columns + rows).split([columns, rows])
        # The sources themselves are mixed with themselves, so that all come from the same call.
        latents = torch.cat([fine, coarse, coarse.repeat_interleave(columns, dim=0)])
        others = torch.cat([fine, coarse, fine.repeat(rows, 1)])
        parts = []
        with counting("mixing", len(latents)) as counter:
            pieces = zip(*(z.split(samples_at_once(model.sample_shape)) for z in (latents, others)), strict=True)
            for z, other in pieces:
                parts.append(model.render(z, truncation=truncation, mixing=(other, first)).cpu())
                counter.advance(len(z))
    fine_images, coarse_images, mixed = torch.cat(parts).split([columns, rows, rows * columns])
    grid = [torch.cat([image[None], row]) for image, row in zip(coarse_images, mixed.split(columns), strict=True)]
    out = given.out or opened.beside("mixing.png" if given.images else f"mixing-seed{seed}.png")
    labelled_grid(
        out,
        [fine_images, *grid],
        row_labels=["fine", *[""] * rows],
        column_labels=["coarse", *[""] * columns],
        group=rows + 1,
        value_range=opened.value_range,
    )
    print(out)
