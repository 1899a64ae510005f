"""`sivae sample`."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import arg

from sivae.cli.generation import (
    Class,
    Cutoff,
    Device,
    ImageModel,
    Model,
    Psi,
    Raw,
    check_at_least,
    check_seed,
    file,
    of_styles,
    open_model,
    truncations,
)
from sivae.cli.options import Folder, Whole
from sivae.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from sivae.models.style import Truncation

_COUNT, _SEED = 64, 0
_SWEPT = 6  # samples of a sweep, unless told
_SHOWN = 1024  # in one picture; of more nothing is to be seen
_CLASSES_IN_A_ROW = 20


@dataclass
class Arguments:
    """Draw images from a model's prior.

    An image is a function of the seed and of its place: the first 16 of 64 are those that --count 16 draws. A model
    that knows classes draws them in turn. Of a style-based model --truncation makes the samples more ordinary and less
    different; with several values it is a sweep, in which each row is one sample at all of them.

    examples:
      sivae sample runs/cifar10-seed0
      sivae sample runs/cifar10-seed0 --count 100 --columns 10 --seed 7 --out samples.png
      sivae sample imported/celebahq256 --count 1000 --each samples/
      sivae sample runs/digits-seed0 --class 3
      sivae sample imported/ffhq256 --truncation 0.7
      sivae sample imported/ffhq256 --truncation 0 0.25 0.5 0.75 1
    """

    model: Model = None
    count: Annotated[
        Whole, arg(help="How many images.", help_behavior_hint=f"(default: {_COUNT}, of a sweep {_SWEPT})")
    ] = None
    columns: Annotated[
        Whole,
        arg(
            help="Images in a row of the picture.", help_behavior_hint="(default: nearly square, or one for each class)"
        ),
    ] = None
    seed: Annotated[Whole, arg(help="Decides the samples.", help_behavior_hint=f"(default: {_SEED})")] = None
    class_: Class = None
    truncation: Psi = None
    cutoff: Cutoff = None
    out: Annotated[
        Path | None,
        file(".png"),
        arg(
            help="The picture. With --each or --npz there is none unless it is named.",
            help_behavior_hint="(default: samples-seedN.png in the run's folder, or beside a model's)",
        ),
    ] = None
    each: Annotated[Folder, arg(help="Write every image as a PNG file of its own.", help_behavior_hint="")] = None
    npz: Annotated[
        Path | None,
        file(".npz"),
        arg(help="Write all images as one uint8 array [N, H, W, C], which --data reads.", help_behavior_hint=""),
    ] = None
    raw_weights: Raw = False
    device: Device = None


def run(arguments: Arguments) -> None:
    """Sample, and print where the images are."""
    sweeps = arguments.truncation is not None and len(arguments.truncation) > 1
    usual = _SWEPT if sweeps else _COUNT
    count = check_at_least("--count", usual if arguments.count is None else arguments.count, 1)
    seed = check_seed("--seed", _SEED if arguments.seed is None else arguments.seed)
    if arguments.columns is not None:
        check_at_least("--columns", arguments.columns, 1)
    opened = open_model(arguments.model, raw=arguments.raw_weights, device=arguments.device, chosen=arguments.class_)
    towards = truncations(arguments.truncation, arguments.cutoff)
    if sweeps:
        _sweep(opened, towards, arguments, count, seed)
        return
    decode: Callable[[Tensor, Tensor | None], Tensor] = opened.model.render
    name = f"samples-seed{seed}.png"
    if towards:
        decode = partial(of_styles(opened, "--truncation").render, truncation=towards[0])
        name = f"samples-truncated-seed{seed}.png"
    import torch

    from sivae.evaluation.images import generate
    from sivae.figures.grids import sample_grid, write_image
    from sivae.models.pixels import to_uint8
    from sivae.progress import counting

    out = arguments.out
    if out is None and arguments.each is None and arguments.npz is None:
        out = opened.beside(name)
    turn = range(opened.classes) if arguments.class_ is None else [arguments.class_]
    labels = list(itertools.islice(itertools.cycle(turn), count))  # none for a model that knows no classes
    shown: list[Tensor] = []
    stored: list[Tensor] = []
    done = 0
    with counting("sampling", count) as counter:
        for images in generate(opened.model, count, seed=seed, condition=opened.conditions(labels), decode=decode):
            images = images.cpu()
            if out is not None and done < _SHOWN:
                shown.append(images[: _SHOWN - done])
            if arguments.npz is not None:
                stored.append(to_uint8(images, opened.value_range).permute(0, 2, 3, 1))
            if arguments.each is not None:
                for index, image in enumerate(images, done):
                    path = arguments.each / f"{index:0{len(str(count - 1))}d}.png"
                    write_image(path, image, value_range=opened.value_range)
            done += len(images)
            counter.advance(len(images))
    if out is not None:
        by_class = opened.classes if arguments.class_ is None and 1 < opened.classes <= _CLASSES_IN_A_ROW else None
        sample_grid(out, torch.cat(shown), columns=arguments.columns or by_class, value_range=opened.value_range)
        print(out if count <= _SHOWN else f"{out} (the first {_SHOWN:,})")
    if arguments.npz is not None:
        _write_npz(arguments.npz, torch.cat(stored), labels)
        print(arguments.npz)
    if arguments.each is not None:
        print(f"{arguments.each} ({count:,} files)")


def _sweep(opened: ImageModel, towards: list[Truncation], arguments: Arguments, count: int, seed: int) -> None:
    """Draw the same samples, one in a row, at each truncation."""
    for option in ("columns", "each", "npz"):
        if getattr(arguments, option) is not None:
            raise ConfigError(f"--{option} is not for a sweep; leave it out, or give --truncation one value")
    if count * len(towards) > _SHOWN:
        raise ConfigError(
            f"a sweep of {count:,} samples at {len(towards)} values has more than {_SHOWN:,} images; lower --count"
        )
    model = of_styles(opened, "--truncation")
    import torch

    from sivae.evaluation.images import generate
    from sivae.figures.grids import labelled_grid
    from sivae.progress import counting

    columns = []
    with counting("sampling", count * len(towards)) as counter:
        for truncation in towards:
            decode = partial(model.render, truncation=truncation)
            parts = []
            for images in generate(model, count, seed=seed, decode=decode):
                parts.append(images.cpu())
                counter.advance(len(images))
            columns.append(torch.cat(parts))
    out = opened.beside(f"truncation-seed{seed}.png") if arguments.out is None else arguments.out
    labels = [f"\N{GREEK SMALL LETTER PSI} {truncation.psi:g}" for truncation in towards]
    rows = list(torch.stack(columns, dim=1))  # [psis, C, H, W] for each sample
    labelled_grid(out, rows, column_labels=labels, group=len(rows), value_range=opened.value_range)
    print(out)


def _write_npz(path: Path, images: Tensor, labels: list[int]) -> None:
    import numpy as np

    from sivae.files import atomic_file

    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as temporary, temporary.open("wb") as stream:
        if labels:
            np.savez(stream, images=images.numpy(), labels=np.array(labels, dtype=np.int64))
        else:
            np.savez(stream, images=images.numpy())
