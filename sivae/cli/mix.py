"""`sivae mix`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from sivae.cli.generation import (
    Cutoff,
    Device,
    Model,
    Psi,
    Raw,
    check_at_least,
    check_seed,
    file,
    of_styles,
    open_model,
    read_files,
    truncations,
)
from sivae.cli.options import Whole, several
from sivae.errors import ConfigError

_ROWS, _COLUMNS, _SEED = 4, 6, 0
_SHOWN = 1024  # in one picture


@dataclass
class Arguments:
    """Mix styles: each image has the coarse styles of its row's image and the fine ones of its column's.

    Columns and then rows are samples of the prior, or both are the same image files, as the model sees them: decoded
    from their posterior means. A style-based model has two style inputs for each resolution from 4 x 4 on: the first
    few decide pose and shape, the last ones colour and texture.

    examples:
      sivae mix imported/ffhq256
      sivae mix imported/ffhq256 --rows 3 --columns 8 --seed 5 --first 4 --truncation 0.7
      sivae mix runs/ffhq256-seed0 me.jpg you.jpg them.jpg --out mixed.png
    """

    model: Model = None
    images: Annotated[
        Positional[tuple[Any, ...]],
        several(Path, "IMAGE ..."),
        arg(help="Image files to mix, instead of samples.", help_behavior_hint="", metavar="IMAGE ..."),
    ] = ()
    rows: Annotated[Whole, arg(help="Samples that give coarse styles.", help_behavior_hint=f"(default: {_ROWS})")] = (
        None
    )
    columns: Annotated[
        Whole, arg(help="Samples that give fine styles.", help_behavior_hint=f"(default: {_COLUMNS})")
    ] = None
    seed: Annotated[Whole, arg(help="Decides the samples.", help_behavior_hint=f"(default: {_SEED})")] = None
    first: Annotated[
        Whole,
        arg(help="Number of the style input with which the fine ones begin.", help_behavior_hint="(default: half way)"),
    ] = None
    truncation: Psi = None
    cutoff: Cutoff = None
    out: Annotated[
        Path | None,
        file(".png"),
        arg(help="The picture.", help_behavior_hint="(default: mixing….png in the run's folder, or beside a model's)"),
    ] = None
    raw_weights: Raw = False
    device: Device = None


def run(arguments: Arguments) -> None:
    """Mix, and print where the picture is."""
    for name in ("rows", "columns", "seed"):
        if arguments.images and getattr(arguments, name) is not None:
            raise ConfigError(f"--{name} is for samples, not for image files; leave it out")
    rows = check_at_least("--rows", _ROWS if arguments.rows is None else arguments.rows, 1)
    columns = check_at_least("--columns", _COLUMNS if arguments.columns is None else arguments.columns, 1)
    if arguments.images:
        rows = columns = len(arguments.images)
    if (rows + 1) * (columns + 1) > _SHOWN:
        raise ConfigError(f"{rows:,} by {columns:,} images are too many for a picture; at most {_SHOWN:,} go into one")
    seed = check_seed("--seed", _SEED if arguments.seed is None else arguments.seed)
    towards = truncations(arguments.truncation, arguments.cutoff)
    if len(towards) > 1:
        raise ConfigError("--truncation: expected one value here; for a sweep there is sivae sample")
    truncation = towards[0] if towards else None
    opened = open_model(arguments.model, raw=arguments.raw_weights, device=arguments.device, chosen=None)
    model = of_styles(opened, "sivae mix")
    inputs = 2 * (model.lod + 1)
    first = inputs // 2 if arguments.first is None else arguments.first
    if not 0 < first < inputs:
        raise ConfigError(f"--first {first}: expected 1 to {inputs - 1}, as this model has {inputs} style inputs")

    import torch

    from sivae.figures.grids import labelled_grid
    from sivae.models.base import samples_at_once
    from sivae.models.latent import prior_noise
    from sivae.progress import counting

    with torch.no_grad():
        if arguments.images:
            coarse = fine = model.encode(opened.to_model(read_files(arguments.images, opened)))[0]
        else:
            fine, coarse = prior_noise(seed, columns + rows, model.z_dim).to(opened.device).split([columns, rows])
        # The sources themselves are mixed with themselves; all come out of the same call.
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
    out = (
        opened.beside("mixing.png" if arguments.images else f"mixing-seed{seed}.png")
        if arguments.out is None
        else arguments.out
    )
    labelled_grid(
        out,
        [fine_images, *grid],
        row_labels=["fine", *[""] * rows],
        column_labels=["coarse", *[""] * columns],
        group=rows + 1,
        value_range=opened.value_range,
    )
    print(out)
