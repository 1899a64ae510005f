"""`sivae prepare`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import FlagCreatePairsOff, Positional, arg

from sivae.cli.options import Whole, one, one_of, whole
from sivae.errors import ConfigError, RunInterrupted, SivaeError


def _crop(word: str) -> str | tuple[int, ...]:
    if word in ("center", "centre"):
        return "center"
    parts = word.split(",")
    if len(parts) != 4:
        raise ValueError(f"{word!r} is neither center nor TOP,LEFT,HEIGHT,WIDTH")
    return tuple(whole(part) for part in parts)


@dataclass
class Arguments:
    """Decode, check, resize and pack a data set of images once, so that training opens it at once.

    Reads a folder, zip or tar of images, CIFAR-10 and CIFAR-100, IDX files as MNIST's, SVHN's .mat files, TFRecords of
    images and uint8 arrays in .npy or .npz. Killed, it goes on where it was by the same command.

    examples:
      sivae prepare ffhq/images1024x1024 ffhq256 --resolution 256
      sivae prepare photos.zip photos128 --resolution 128 --crop center --skip-damaged
      sivae prepare cifar-10-python.tar.gz cifar10-test --resolution 32 --split test
    """

    source: Annotated[
        Positional[Path | None],
        one(Path, "SRC"),
        arg(help="The data: a folder or a file.", help_behavior_hint="", metavar="SRC"),
    ] = None
    destination: Annotated[
        Positional[Path | None],
        one(Path, "DEST"),
        arg(help="The folder to make.", help_behavior_hint="", metavar="DEST"),
    ] = None
    resolution: Annotated[Whole, arg(help="Height and width of the packed images.", help_behavior_hint="")] = None
    crop: Annotated[
        Any,
        one(_crop, "{center|T,L,H,W}"),
        arg(
            help="What to cut out of each image before: the largest square in the middle, or these pixels.",
            help_behavior_hint="(default: nothing; images have to be square)",
        ),
    ] = None
    channels: Annotated[
        Whole, arg(help="1 (grey) or 3 (RGB).", help_behavior_hint="(default: RGB where images are)")
    ] = None
    split: Annotated[
        str | None,
        one_of("train", "test"),
        arg(help="Which part of the data.", help_behavior_hint="(default: train, or all where there are no parts)"),
    ] = None
    workers: Annotated[Whole, arg(help="Threads that decode.", help_behavior_hint="(default: one for each core)")] = (
        None
    )
    skip_damaged: Annotated[
        FlagCreatePairsOff[bool], arg(help="Leave damaged images out, and count them.", help_behavior_hint="")
    ] = False
    no_levels: Annotated[
        FlagCreatePairsOff[bool],
        arg(
            help="Leave out the lower resolutions, which models that grow read; they take a third more of the disk.",
            help_behavior_hint="",
        ),
    ] = False
    quiet: Annotated[FlagCreatePairsOff[bool], arg(help="Show no progress.", help_behavior_hint="")] = False


def run(arguments: Arguments) -> None:
    """Prepare, and print what was made."""
    if arguments.source is None or arguments.destination is None:
        raise ConfigError("name the data and the folder to make: sivae prepare SRC DEST --resolution 256, for instance")
    if arguments.resolution is None:
        raise ConfigError("say how large the packed images shall be, with --resolution 256, for instance")
    from sivae.data.images import prepare
    from sivae.errors import DataError

    try:
        facts = prepare(
            arguments.source,
            arguments.destination,
            resolution=arguments.resolution,
            crop=arguments.crop,
            channels=arguments.channels,
            split=arguments.split,  # type: ignore[arg-type]
            workers=arguments.workers,
            skip_damaged=arguments.skip_damaged,
            levels=not arguments.no_levels,
            progress=not arguments.quiet,
            notice=lambda text: print(f"sivae: {text}", file=sys.stderr),
        )
    except DataError as error:
        raise SivaeError(str(error)) from error
    except KeyboardInterrupt:
        raise RunInterrupted("stopped; the same command goes on where it was", 130) from None
    shape = f"{facts['resolution']}×{facts['resolution']}×{facts['channels']}"
    classes = f", {len(facts['class_names'])} classes" if facts["class_names"] else ""
    skipped = f", {len(facts['skipped']):,} damaged ones skipped" if facts["skipped"] else ""
    print(f"{arguments.destination}: {facts['count']:,} images of {shape}{classes}{skipped}")
    if facts["levels"]:
        print(f"  lower resolutions beside them: {', '.join(map(str, facts['levels']))}")
    for reason in facts["skipped"][:5]:
        print(f"  skipped: {reason}")
