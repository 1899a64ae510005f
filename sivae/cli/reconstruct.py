"""`sivae reconstruct`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import FlagCreatePairsOff, Positional, arg

from sivae.cli.generation import (
    Class,
    Device,
    ImageModel,
    Model,
    Raw,
    check_at_least,
    check_seed,
    file,
    of_styles,
    open_model,
    read_files,
)
from sivae.cli.options import Whole, one, one_of, several
from sivae.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from sivae.evaluation.images import ReconstructionMeter

_COUNT, _SEED = 16, 0
_SHOWN, _SHOWN_OF_STAGES = 512, 32  # in one picture
_WITH_DATA = ("split", "count", "seed")


@dataclass
class Arguments:
    """Encode images, decode what was understood of them, and show both, with how far apart they are.

    Images are cut to the largest square in their middle and brought to the model's size before they are encoded, and
    compared at that size. They are decoded from the posterior mean, so the result does not depend on chance. A model
    that was grown can do so at each of its resolutions, from 4 x 4 on, of the images averaged down to it.

    examples:
      sivae reconstruct runs/celebahq256-conv-seed0 me.jpg you.jpg
      sivae reconstruct runs/cifar10-seed0 --data cifar-10-python.tar.gz --split test
      sivae reconstruct imported/cifar10 --data pictures/ --count 64 --seed 3 --out pairs.png
      sivae reconstruct imported/ffhq256 me.jpg you.jpg --every-lod
    """

    model: Model = None
    images: Annotated[
        Positional[tuple[Any, ...]],
        several(Path, "IMAGE ..."),
        arg(help="Image files.", help_behavior_hint="", metavar="IMAGE ..."),
    ] = ()
    data: Annotated[
        Path | None,
        one(Path, "PATH"),
        arg(help="Take images of a data set instead: any that sivae train reads.", help_behavior_hint=""),
    ] = None
    split: Annotated[
        str | None,
        one_of("train", "test"),
        arg(help="Which part of the data set.", help_behavior_hint="(default: train, or all where it has no parts)"),
    ] = None
    count: Annotated[Whole, arg(help="How many images of the data set.", help_behavior_hint=f"(default: {_COUNT})")] = (
        None
    )
    seed: Annotated[
        Whole, arg(help="Decides which images of the data set.", help_behavior_hint=f"(default: {_SEED})")
    ] = None
    every_lod: Annotated[
        FlagCreatePairsOff[bool],
        arg(help="At every resolution through which a style-based model was grown.", help_behavior_hint=""),
    ] = False
    class_: Class = None
    out: Annotated[
        Path | None,
        file(".png"),
        arg(
            help="The picture.",
            help_behavior_hint="(default: reconstructions.png in the run's folder, or beside a model's)",
        ),
    ] = None
    raw_weights: Raw = False
    device: Device = None


def run(arguments: Arguments) -> None:
    """Reconstruct, write the picture, and print the metrics."""
    if bool(arguments.images) == (arguments.data is not None):
        raise ConfigError("name image files, or a data set by --data PATH, and not both")
    for name in _WITH_DATA:
        if arguments.data is None and getattr(arguments, name) is not None:
            raise ConfigError(f"--{name} goes with --data, not with image files; leave it out")
    count = check_at_least("--count", _COUNT if arguments.count is None else arguments.count, 1)
    seed = check_seed("--seed", _SEED if arguments.seed is None else arguments.seed)
    opened = open_model(arguments.model, raw=arguments.raw_weights, device=arguments.device, chosen=arguments.class_)
    labels: Sequence[int | None]
    if arguments.data is None:
        pixels = read_files(arguments.images, opened)
        labels = [None] * len(pixels)
    else:
        pixels, labels = _choose(arguments.data, arguments.split, count, seed, opened)
    if arguments.class_ is not None:
        labels = [arguments.class_] * len(pixels)
    conditions = opened.conditions(labels)
    if arguments.every_lod:
        _at_every_stage(opened, pixels, arguments.out)
        return
    from sivae.figures.grids import reconstruction_grid

    meter, originals, reconstructions = _reconstructed(opened, opened.to_model, pixels, conditions, _SHOWN)
    out = opened.beside("reconstructions.png") if arguments.out is None else arguments.out
    reconstruction_grid(out, originals, reconstructions, value_range=opened.value_range)
    _print_metrics(opened, meter)
    print(out if meter.count <= _SHOWN else f"{out} (the first {_SHOWN:,})")


def _at_every_stage(opened: ImageModel, pixels: Tensor, out: Path | None) -> None:
    """Reconstruct at each resolution up to the model's, the smallest first."""
    from functools import partial

    from sivae.figures.grids import labelled_grid

    model = of_styles(opened, "--every-lod")
    last, blend = model.lod, float(model.blend)
    rows, labels = [], []
    for lod in range(last + 1):
        model.grow(lod, blend if lod == last else 1.0)
        prepare = partial(_averaged_down, opened, 1 << (last - lod))
        meter, originals, reconstructions = _reconstructed(opened, prepare, pixels, None, _SHOWN_OF_STAGES)
        rows += [originals, reconstructions]
        labels += [f"{opened.side} x {opened.side}", "reconstruction"]
        _print_metrics(opened, meter)
    out = opened.beside("reconstructions-every-lod.png") if out is None else out
    labelled_grid(out, rows, row_labels=labels, group=2, value_range=opened.value_range)
    print(out if len(pixels) <= _SHOWN_OF_STAGES else f"{out} (the first {_SHOWN_OF_STAGES:,})")


def _averaged_down(opened: ImageModel, factor: int, pixels: Tensor) -> Tensor:
    from torch.nn.functional import avg_pool2d

    return avg_pool2d(opened.to_model(pixels), factor)


def _reconstructed(
    opened: ImageModel, prepare: Callable[[Tensor], Tensor], pixels: Tensor, conditions: Tensor | None, shown: int
) -> tuple[ReconstructionMeter, Tensor, Tensor]:
    """The metrics of images, uint8 [N, H, W, C], and on the CPU the first of what was encoded and of what came back."""
    import torch

    from sivae.evaluation.images import ReconstructionMeter
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
    from rich.console import Console

    from sivae.cli.tables import metrics_table

    metrics = {name: value for name, value in meter.compute().items() if name in ("mse", "psnr", "ssim")}
    number = f"{meter.count:,} image{'' if meter.count == 1 else 's'}"
    Console(highlight=False).print(metrics_table(f"{number} at {opened.side} x {opened.side}", metrics))


def _choose(path: Path, split: Any, count: int, seed: int, model: ImageModel) -> tuple[Tensor, list[int | None]]:
    """Images of a data set, uint8 [N, H, W, C], and their classes; which ones is a function of the seed."""
    import numpy as np
    import torch

    from sivae.data.images import open_images
    from sivae.data.images.pixels import as_picture, fit

    images = open_images(path, split=split, notice=lambda text: print(f"sivae: {text}", file=sys.stderr))
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed)).tolist()
    chosen = order[:count]
    if not chosen:
        raise ConfigError(f"{path} holds no images")
    fitted = [
        fit(
            as_picture(images.read(index)),
            resolution=model.side,
            crop="center",
            channels=model.channels,
            where=f"image {index} of {path}",
        )
        for index in chosen
    ]
    return torch.from_numpy(np.stack(fitted)), [images.label(index) for index in chosen]
