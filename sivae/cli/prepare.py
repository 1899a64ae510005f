"""`sivae prepare`: decode, resize and pack a set of images once, for fast training."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from sivae.cli.parsing import Parser, add_crop, whole
from sivae.cli.printing import notice
from sivae.data.images.formats.table import titles
from sivae.errors import RunInterrupted, SivaeError
from sivae.words import plural

MEMORY_REMEDY = "decode fewer images at a time (--workers 1), or end other programs"


def options(parser: Parser) -> None:
    """Add the verb's options."""
    parser.describe(
        f"""
        Decode, check, resize and pack a set of images once, so that training opens it immediately.

        Reads {titles()}. After an interruption, the same command continues.
        """,
        [
            "sivae prepare ffhq/images1024x1024 ffhq256 --resolution 256",
            "sivae prepare photos.zip photos128 --resolution 128 --crop center --skip-damaged",
            "sivae prepare cifar-10-python.tar.gz cifar10-test --resolution 32 --split test",
        ],
    )
    parser.add_argument("source", nargs="?", type=Path, metavar="SRC", help="Folder or file of the images.")
    parser.add_argument("destination", nargs="?", type=Path, metavar="DEST", help="Folder to create.")
    parser.add_argument("--resolution", type=whole, metavar="N", help="Height and width of the packed images.")
    missing = "name the images and the folder to create: sivae prepare SRC DEST --resolution 256, for example"
    parser.require("source", missing)
    parser.require("destination", missing)
    parser.require("resolution", "give the height and width of the packed images: --resolution 256, for example")
    add_crop(parser, "nothing; images have to be square")
    parser.add_argument(
        "--channels",
        type=whole,
        metavar="N",
        help="Channels: 1 (grey) or 3 (RGB). (default: RGB if any image has color)",
    )
    parser.add_argument(
        "--split",
        choices=("train", "test"),
        help="Part of the images. (default: train, or all images if there are no parts)",
    )
    parser.add_argument("--workers", type=whole, metavar="N", help="Threads that decode. (default: one for each core)")
    parser.add_argument(
        "--skip-damaged", action="store_true", help="Leave out images that cannot be decoded, and count them."
    )
    parser.add_argument(
        "--no-levels",
        action="store_true",
        help="Leave out the lower resolutions, which models that grow read and which take a third more disk space.",
    )
    parser.add_argument("--quiet", action="store_true", help="Show no progress.")


def run(given: argparse.Namespace) -> None:
    """Prepare, and print what was made."""
    from sivae.data.images import prepare
    from sivae.errors import DataError

    try:
        facts = prepare(
            given.source,
            given.destination,
            resolution=given.resolution,
            crop=given.crop,
            channels=given.channels,
            split=given.split,
            workers=given.workers,
            skip_damaged=given.skip_damaged,
            levels=not given.no_levels,
            progress=not given.quiet,
            notice=notice,
        )
    except DataError as error:
        raise SivaeError(str(error)) from error
    except KeyboardInterrupt:
        raise RunInterrupted("stopped; the same command continues", 130) from None
    shape = f"{facts['resolution']}×{facts['resolution']}×{facts['channels']}"
    classes = f", {plural(len(facts['class_names']), 'class')}" if facts["class_names"] else ""
    skipped = f", {len(facts['skipped']):,} damaged skipped" if facts["skipped"] else ""
    print(f"{given.destination}: {plural(facts['count'], 'image')} of {shape}{classes}{skipped}")
    if facts["levels"]:
        print(f"  lower resolutions beside them: {', '.join(map(str, facts['levels']))}")
    for reason in facts["skipped"][:5]:
        print(f"  skipped: {reason}")
    notice(f"next: sivae train PRESET --data {shlex.quote(str(given.destination))}; sivae presets lists them")
