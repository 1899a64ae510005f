"""`sivae reproduce`: run an experiment of the paper end to end, and write a page of results."""

from __future__ import annotations

import argparse
from pathlib import Path

from sivae.cli.generation import add_device
from sivae.cli.parsing import Parser, at_least, whole
from sivae.errors import ConfigError
from sivae.reproduce import EXPERIMENTS, get_experiment
from sivae.reproduce.experiment import SIZES, Settings
from sivae.settings.data import absolute

_PATHS = ("data", "against", "run", "vgg", "lpips")
_SETTINGS = ("size", "seeds", "steps", *_PATHS, "device", "threads")


def options(parser: Parser) -> None:
    """Add the verb's options."""
    parser.describe(
        """
        Run an experiment of the paper, or one of ours, end to end: train, evaluate, draw, and write a page of results.

        Writes page.md, PNG files and results.json into the folder, and each training as a run's folder below it.
        Ctrl-C stops the trainings, each with a checkpoint; the same command continues.
        """,
        [
            "sivae reproduce --list",
            "sivae reproduce density-2d",
            "sivae reproduce stability --size full --workers 16 --out stability",
            "sivae reproduce images --run runs/cifar10-seed0",
            "sivae reproduce images --size full --data cifar-10-python.tar.gz --device cuda",
        ],
    )
    parser.add_argument(
        "experiment",
        nargs="?",
        metavar="NAME",
        help=f"Experiment: {', '.join(EXPERIMENTS)}.",
    )
    parser.add_argument("--list", action="store_true", help="List the experiments, their needs and how long they take.")
    parser.add_argument(
        "--size", choices=SIZES, default="quick", help="Size: quick takes minutes on a small CPU, full is as published."
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="Folder of the results; an unfinished one with the same settings is continued. "
        "(default: runs/reproduce-NAME-SIZE)",
    )
    parser.add_argument(
        "--seeds",
        type=whole,
        metavar="N",
        help="Trainings of each setting, with seeds from 0. (default: the experiment's)",
    )
    parser.add_argument(
        "--steps", type=whole, metavar="N", help="Iterations of every training. (default: the experiment's)"
    )
    parser.add_argument("--threads", type=whole, default=1, metavar="N", help="CPU threads of each training.")
    parser.add_argument(
        "--workers",
        type=at_least(1),
        metavar="N",
        help="Trainings that run at the same time. (default: one for each CPU core, or one on a GPU)",
    )
    add_device(parser)
    parser.add_argument("--quiet", action="store_true", help="Show no progress.")
    inputs = parser.add_argument_group("inputs of some experiments")
    inputs.add_argument(
        "--data", type=Path, metavar="PATH", help="Images to train on (images, image-methods, ood, translation)."
    )
    inputs.add_argument("--against", type=Path, metavar="PATH", help="Images of another kind, to detect (ood).")
    inputs.add_argument(
        "--run", type=Path, metavar="RUN", help="Trained run to show, instead of training one (images)."
    )
    inputs.add_argument(
        "--vgg", type=Path, metavar="FILE", help="VGG-16's weights, to train with a perceptual error (translation)."
    )
    inputs.add_argument(
        "--lpips", type=Path, metavar="FILE", help="LPIPS' own weights, to measure it; with --vgg (translation)."
    )


def run(given: argparse.Namespace) -> None:
    """Reproduce, and print where the page is."""
    if given.list:
        _print_list()
        return
    if given.experiment is None:
        raise ConfigError(f"name an experiment ({', '.join(EXPERIMENTS)}), or see --list")
    get_experiment(given.experiment)  # a wrong name fails before torch is loaded
    values = {name: getattr(given, name) for name in _SETTINGS if getattr(given, name) is not None}
    # Absolute paths, since a call that continues may start in another folder.
    places = {name: _absolute(name, str(values[name])) for name in _PATHS if name in values}
    settings = Settings(**values | places)
    from sivae.reproduce.reproduction import reproduce

    for path in reproduce(given.experiment, settings, given.out, workers=given.workers, progress=not given.quiet):
        print(path)


def _absolute(name: str, path: str) -> str:
    return absolute(path, "images") if name in ("data", "against") else str(Path(path).absolute())


def _print_list() -> None:
    from rich.console import Console

    console = Console(highlight=False)
    for name in EXPERIMENTS:
        experiment = get_experiment(name)
        console.print(f"[bold]{name}[/bold]  {experiment.SUMMARY}", soft_wrap=True)
        console.print(f"  needs: {experiment.NEEDS}", soft_wrap=True, markup=False)
        for size in SIZES:
            console.print(f"  {size}: {experiment.TIME[size]}", soft_wrap=True, markup=False)
