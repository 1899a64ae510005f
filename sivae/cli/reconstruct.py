"""`sivae reconstruct`: show images or point clouds beside their reconstructions by a model."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sivae.cli import clouds
from sivae.cli.generation import (
    CloudModel,
    ImageModel,
    add_class,
    add_data_set,
    add_each,
    add_model,
    add_picture,
    add_weights_and_device,
    open_any_model,
    refuse,
    style_model,
)
from sivae.cli.parsing import Parser, add_crop
from sivae.cli.printing import notice, print_metrics
from sivae.errors import ConfigError
from sivae.words import plural

if TYPE_CHECKING:
    from torch import Tensor

    from sivae.evaluation.image_metrics import ReconstructionMeter

_COUNT = 16
_SHOWN, _SHOWN_OF_STAGES = 512, 32  # in one picture


def options(parser: Parser) -> None:
    """Add the verb's options."""
    parser.describe(
        """
        Encode images, decode them again, show both side by side, and print how far apart they are.

        Images are cut to squares (--crop), resized to the model's size, and compared at that size. They are decoded
        from the posterior mean, so that the result does not depend on chance. --every-lod does this at each resolution
        of a grown model, from 4 x 4 upwards, with images averaged down to that resolution.

        A model of point clouds takes files or sets of clouds, as sivae train points-shapes --data does.
        """,
        [
            "sivae reconstruct runs/celebahq256-conv-seed0 me.jpg you.jpg",
            "sivae reconstruct runs/cifar10-seed0 --data cifar-10-python.tar.gz --split test",
            "sivae reconstruct imported/cifar10 --data pictures/ --count 64 --seed 3 --out pairs.png",
            "sivae reconstruct imported/ffhq256 me.jpg you.jpg --every-lod",
            "sivae reconstruct runs/points-shapes-seed0 --data shapes:chair --each chairs/",
        ],
    )
    add_model(parser)
    parser.add_argument("images", nargs="*", type=Path, metavar="FILE", help="Image files, or files of clouds.")
    add_data_set(
        parser, "any that sivae train reads.", "train", f"Number of images of the data set. (default: {_COUNT})"
    )
    parser.add_argument(
        "--every-lod",
        action="store_true",
        help="Reconstruct at every resolution through which a style-based model was grown.",
    )
    add_class(parser)
    add_picture(parser, "reconstructions.png")
    add_each(parser)
    add_crop(parser)
    add_weights_and_device(parser)


def run(given: argparse.Namespace) -> None:
    """Reconstruct, write the picture, and print the metrics."""
    if bool(given.images) == (given.data is not None):
        raise ConfigError("name files of images or clouds, or a data set by --data PATH, and not both")
    if given.data is None:
        refuse(given, ["split", "count", "seed"], "goes with --data, not with files; leave it out")
    opened = open_any_model(given)
    if isinstance(opened, CloudModel):
        clouds.reconstruct(given, opened)
        return
    refuse(given, ["each"], "is for models of point clouds; leave it out")
    labels: Sequence[int | None]
    if given.data is None:
        pixels = opened.read_files(given.images, ", or give the folder by --data")
        labels = [None] * len(pixels)
    else:
        pixels, labels = _choose(given, opened)
    if given.class_ is not None:
        labels = [given.class_] * len(pixels)
    conditions = opened.conditions(labels)
    if given.every_lod:
        _at_every_stage(opened, pixels, given.out)
        return
    from sivae.figures.grids import reconstruction_grid

    meter, originals, reconstructions = _reconstructed(opened, opened.to_model, pixels, conditions, _SHOWN)
    out = given.out or opened.beside("reconstructions.png")
    reconstruction_grid(out, originals, reconstructions, value_range=opened.value_range)
    _print_metrics(opened, meter)
    print(out if meter.count <= _SHOWN else f"{out} (the first {_SHOWN:,})")


def _at_every_stage(opened: ImageModel, pixels: Tensor, out: Path | None) -> None:
    """Reconstruct at each resolution up to the model's, the smallest first."""
    from functools import partial

    from sivae.figures.grids import labelled_grid

    model = style_model(opened, "--every-lod")
    last, blend = model.lod, float(model.blend)
    rows, labels = [], []
    for lod in range(last + 1):
        model.grow(lod, blend if lod == last else 1.0)
        prepare = partial(_averaged_down, opened, 1 << (last - lod))
        meter, originals, reconstructions = _reconstructed(opened, prepare, pixels, None, _SHOWN_OF_STAGES)
        rows += [originals, reconstructions]
        labels += [f"{opened.side} x {opened.side}", "reconstruction"]
        _print_metrics(opened, meter)
    out = out or opened.beside("reconstructions-every-lod.png")
    labelled_grid(out, rows, row_labels=labels, group=2, value_range=opened.value_range)
    print(out if len(pixels) <= _SHOWN_OF_STAGES else f"{out} (the first {_SHOWN_OF_STAGES:,})")


def _averaged_down(opened: ImageModel, factor: int, pixels: Tensor) -> Tensor:
    from torch.nn.functional import avg_pool2d

    return avg_pool2d(opened.to_model(pixels), factor)


def _reconstructed(
    opened: ImageModel, prepare: Callable[[Tensor], Tensor], pixels: Tensor, conditions: Tensor | None, shown: int
) -> tuple[ReconstructionMeter, Tensor, Tensor]:
    """The metrics of images, uint8 [N, H, W, C]; and the first originals and reconstructions, on the CPU."""
    import torch

    from sivae.evaluation.image_metrics import ReconstructionMeter
    from sivae.models.base import samples_at_once
    from sivae.progress import counting

    meter = ReconstructionMeter(opened.model)
    size = samples_at_once(opened.model.sample_shape)
    kept: list[tuple[Tensor, Tensor]] = []
    with counting("reconstructing", len(pixels)) as counter:
        for start in range(0, len(pixels), size):
            rows = slice(start, start + size)
            x = prepare(pixels[rows])
            again = meter.add(x, None if conditions is None else conditions[rows])
            if start < shown:
                kept.append((x[: shown - start].cpu(), again[: shown - start].cpu()))
            counter.advance(len(x))
    originals, reconstructions = (torch.cat(images) for images in zip(*kept, strict=True))
    return meter, originals, reconstructions


def _print_metrics(opened: ImageModel, meter: ReconstructionMeter) -> None:
    metrics = {name: value for name, value in meter.compute().items() if name in ("mse", "psnr", "ssim")}
    print_metrics(f"{plural(meter.count, 'image')} at {opened.side} x {opened.side}", metrics)


def _choose(given: argparse.Namespace, opened: ImageModel) -> tuple[Tensor, list[int | None]]:
    """Images of a data set, uint8 [N, H, W, C], and their classes; the seed decides which ones."""
    import torch

    from sivae.data.images import open_images

    images = open_images(given.data, split=given.split, notice=notice)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(given.seed or 0)).tolist()
    chosen = order[: given.count or _COUNT]
    if not chosen:
        raise ConfigError(f"{given.data} holds no images")
    return opened.read_rows(images, chosen), [images.label(index) for index in chosen]
