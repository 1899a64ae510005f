"""`sivae sample`."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import arg

from sivae.cli.generation import Class, Device, Model, Raw, check_at_least, check_seed, file, open_model
from sivae.cli.options import Folder, Whole

if TYPE_CHECKING:
    from torch import Tensor

_COUNT, _SEED = 64, 0
_SHOWN = 1024  # in one picture; of more nothing is to be seen
_CLASSES_IN_A_ROW = 20


@dataclass
class Arguments:
    """Draw images from a model's prior.

    An image is a function of the seed and of its place: the first 16 of 64 are those that --count 16 draws. A model
    that knows classes draws them in turn.

    examples:
      sivae sample runs/cifar10-seed0
      sivae sample runs/cifar10-seed0 --count 100 --columns 10 --seed 7 --out samples.png
      sivae sample imported/celebahq256 --count 1000 --each samples/
      sivae sample runs/digits-seed0 --class 3
    """

    model: Model = None
    count: Annotated[Whole, arg(help="How many images.", help_behavior_hint=f"(default: {_COUNT})")] = None
    columns: Annotated[
        Whole,
        arg(
            help="Images in a row of the picture.", help_behavior_hint="(default: nearly square, or one for each class)"
        ),
    ] = None
    seed: Annotated[Whole, arg(help="Decides the samples.", help_behavior_hint=f"(default: {_SEED})")] = None
    class_: Class = None
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
    count = check_at_least("--count", _COUNT if arguments.count is None else arguments.count, 1)
    seed = check_seed("--seed", _SEED if arguments.seed is None else arguments.seed)
    if arguments.columns is not None:
        check_at_least("--columns", arguments.columns, 1)
    opened = open_model(arguments.model, raw=arguments.raw_weights, device=arguments.device, chosen=arguments.class_)
    import torch

    from sivae.data.images.progress import Counter
    from sivae.evaluation.images import generate, to_uint8
    from sivae.evaluation.pictures import sample_grid, write_image

    out = arguments.out
    if out is None and arguments.each is None and arguments.npz is None:
        out = opened.beside(f"samples-seed{seed}.png")
    turn = range(opened.classes) if arguments.class_ is None else [arguments.class_]
    labels = list(itertools.islice(itertools.cycle(turn), count))  # none for a model that knows no classes
    shown: list[Tensor] = []
    stored: list[Tensor] = []
    done = 0
    with Counter("sampling", count) as counter:
        for images in generate(opened.model, count, seed=seed, condition=opened.conditions(labels)):
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


def _write_npz(path: Path, images: Tensor, labels: list[int]) -> None:
    import numpy as np

    from sivae.files import atomic_file

    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as temporary, temporary.open("wb") as stream:
        if labels:
            np.savez(stream, images=images.numpy(), labels=np.array(labels, dtype=np.int64))
        else:
            np.savez(stream, images=images.numpy())
