"""The command line of `python -m benchmarks.autoencoder`.

OUT/settings.json      the settings that decide the results; a call continues another one with equal settings
OUT/speed.json         milliseconds of an iteration of each method
OUT/runs/NAME/         one run each, see sivae.training.folder; OUT/logs/NAME.log holds the output of its process
OUT/measured/          the measured values of each run, and its model with the fitted prior
OUT/page.md            with sheet.png; results.json has every number

Exit codes: 0 done, or stopped by a signal; 1 failed; 2 wrong usage; 130 stopped at once.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from benchmarks.autoencoder.comparison import Comparison
from sivae import files
from sivae.cli.parsing import Parser, at_least, data_path, positive, seed
from sivae.errors import SivaeError
from sivae.training.process_settings import keep_freed_memory
from sivae.words import plural

PROGRAM = "python -m benchmarks.autoencoder"


def main(words: Sequence[str]) -> int:
    """Parse the words, train, measure and write the page; print an error in one line.

    Returns:
        The exit code.
    """
    try:
        given = _parser().parse(words)
        values: dict[str, Any] = {one.name: getattr(given, one.name) for one in fields(Comparison)}
        for name in ("seeds", "widths"):
            values[name] = tuple(values[name])
        comparison = Comparison(**{**values, "data": str(given.data)})
        for path in compare(
            comparison, given.out, workers=given.workers, command=shlex.join([*PROGRAM.split(), *words])
        ):
            print(path)
    except SivaeError as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    return 0


def compare(
    comparison: Comparison, out: Path, *, workers: int | None = None, command: str = "", show: bool = True
) -> list[Path]:
    """Train with all methods and seeds, measure and write the page, or go on where an earlier call stopped.

    Args:
        comparison: the settings.
        out: the folder.
        workers: trainings at a time; None: one a core.
        command: for the page, and for going on.
        show: show progress on stderr.

    Returns:
        The files written.

    Raises:
        SivaeError: a setting is wrong, the folder holds something else, or a training failed.
        RunInterrupted: SIGINT or SIGTERM came; a second call goes on.
    """
    from benchmarks.autoencoder.measured import features_network
    from benchmarks.autoencoder.page import write_page
    from benchmarks.autoencoder.speed import iterations, measured_speed
    from benchmarks.autoencoder.worker import MODULE
    from sivae.reproduce.trainings import train_all

    features_network()  # where it is missing, that is an error before the trainings
    keep_freed_memory()
    comparison.keep_in(out)
    with files.locked(out, "works in"):
        files.remove_leftovers(out)
        speed = measured_speed(comparison, out, show=show)
        trainings = comparison.trainings(iterations(comparison, speed))
        at_once = workers or len(os.sched_getaffinity(0))
        runs = train_all(trainings, out, workers=at_once, title="autoencoder", show=show, again=command, worker=MODULE)
        if show:
            print(f"measuring {plural(len(runs), 'training')}", file=sys.stderr, flush=True)
        return write_page(comparison, speed, runs, out, command=command, show=show)


def _parser() -> Parser:
    parser = Parser(PROGRAM)
    parser.describe(
        """
        Train an autoencoder in three ways in equal seconds of a CPU core: plain, with a PatchGAN critic as the
        published recipes have it, and by Soft-IntroVAE, with its encoder as the critic. Measures reconstructions and
        samples, and writes a page with a picture. Each training uses one core. A second call goes on where the first
        was stopped.
        """,
        [
            f"{PROGRAM} --data cifar10 --seconds 1500 --out out/cifar10",
            f"{PROGRAM} --data faces --seconds 900 --resolution 64 --channels 1 --batch-size 16 --out out/faces",
            f"{PROGRAM} --data faces --seconds 60 --seeds 0 --count 200 --out out/try",
        ],
    )
    default: dict[str, Any] = {one.name: one.default for one in fields(Comparison)}
    add = parser.add_argument
    add("--data", type=data_path, metavar="PATH", help="Images with a training and a test part, as for sivae train.")
    add("--out", type=Path, metavar="DIR", help="Folder of the comparison; an earlier one with equal settings goes on.")
    add("--seconds", type=positive, metavar="S", help="Seconds of a core for the iterations of each training.")
    parser.require("data", "name images by --data PATH")
    parser.require("out", "name a folder by --out DIR")
    parser.require("seconds", "say how long each training may take, by --seconds S")
    add("--seeds", nargs="+", type=seed, metavar="N", default=[*default["seeds"]], help="Seeds of the trainings.")
    counts = {
        "resolution": "Side of the images.",
        "channels": "Channels of the images: 1 or 3.",
        "batch_size": "Images of an iteration.",
        "critic_width": "Channels of the PatchGAN after its first convolution.",
        "components": "Gaussians that are fitted to the latents.",
    }
    for name, text in counts.items():
        option = f"--{name.replace('_', '-')}"
        add(option, type=at_least(1), metavar="N", default=default[name], help=text)
    add("--count", type=at_least(4), metavar="N", default=default["count"], help="Test images at most to measure on.")
    widths = [*default["widths"]]
    add("--widths", nargs="+", type=at_least(1), metavar="N", default=widths, help="Channels at each resolution.")
    add("--learning-rate", type=positive, metavar="X", default=default["learning_rate"], help="Rate of all networks.")
    add(
        "--beta-kl",
        type=positive,
        metavar="X",
        default=default["beta_kl"],
        help="Weight of the KL divergence where the encoder is the critic; it is 1e-6 for the others.",
    )
    add(
        "--critic-start",
        type=_share,
        metavar="X",
        default=default["critic_start"],
        help="Share of the iterations before either critic begins.",
    )
    add("--workers", type=at_least(1), metavar="N", help="Trainings at a time. (default: one a core)")
    return parser


def _share(word: str) -> float:
    try:
        value = float(word)
    except ValueError:
        value = -1.0
    if not 0.0 <= value <= 1.0:
        raise argparse.ArgumentTypeError(f"{word!r}: expected a number from 0 to 1")
    return value
