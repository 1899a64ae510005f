"""`sivae reproduce`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import FlagCreatePairsOff, Positional, arg

from sivae.cli.options import Folder, Text, Whole, one, one_of
from sivae.errors import ConfigError
from sivae.reproduce import EXPERIMENTS, get_experiment
from sivae.reproduce.experiment import SIZES, Settings

_NAME = arg(help=f"The experiment: {', '.join(EXPERIMENTS)}. --list tells more.", help_behavior_hint="", metavar="NAME")
_PATHS = ("data", "against", "run", "vgg", "lpips")
_SETTINGS = ("size", "seeds", "steps", *_PATHS, "device", "threads")


def _of_experiment(text: str) -> Any:
    return arg(help=text, help_behavior_hint="(default: the experiment's)")


@dataclass
class Arguments:
    """Run an experiment of the paper end to end: train, evaluate, draw, and write a page.

    Writes page.md, PNG files and results.json into the folder, and each training as a run's folder below it. Ctrl-C
    stops the trainings, each with a checkpoint; the same command goes on.

    examples:
      sivae reproduce --list
      sivae reproduce density-2d
      sivae reproduce stability --size full --workers 16 --out stability
      sivae reproduce images --run runs/cifar10-seed0
      sivae reproduce images --size full --data cifar-10-python.tar.gz --device cuda
    """

    experiment: Annotated[Positional[str | None], one(str, "NAME"), _NAME] = None
    list: Annotated[
        FlagCreatePairsOff[bool],
        arg(help="Show what there is, what each needs and how long it takes.", help_behavior_hint=""),
    ] = False
    size: Annotated[
        str | None,
        one_of(*SIZES),
        arg(help="Minutes on a small CPU, or as published.", help_behavior_hint="(default: quick)"),
    ] = None
    out: Annotated[
        Folder,
        arg(
            help="The folder; one that was begun with the same settings goes on.",
            help_behavior_hint="(default: runs/reproduce-NAME-SIZE)",
        ),
    ] = None
    seeds: Annotated[Whole, _of_experiment("How many seeds each setting is trained with.")] = None
    steps: Annotated[Whole, _of_experiment("Iterations of every training.")] = None
    data: Annotated[
        Path | None,
        one(Path, "PATH"),
        arg(help="Images to train on, where the experiment takes some.", help_behavior_hint=""),
    ] = None
    against: Annotated[
        Path | None,
        one(Path, "PATH"),
        arg(help="Images of another kind, to tell from those (ood).", help_behavior_hint=""),
    ] = None
    run: Annotated[
        Path | None,
        one(Path, "RUN"),
        arg(help="A trained run to show instead of training one (images).", help_behavior_hint=""),
    ] = None
    vgg: Annotated[
        Path | None,
        one(Path, "FILE"),
        arg(help="VGG-16's weights, to train with a perceptual error (translation).", help_behavior_hint=""),
    ] = None
    lpips: Annotated[
        Path | None,
        one(Path, "FILE"),
        arg(help="LPIPS' own weights, to measure it; with --vgg (translation).", help_behavior_hint=""),
    ] = None
    device: Annotated[
        Text,
        arg(help="auto (a GPU when there is one), cpu, cuda, cuda:1 ...", help_behavior_hint="(default: auto)"),
    ] = None
    threads: Annotated[Whole, arg(help="CPU threads of each training.", help_behavior_hint="(default: 1)")] = None
    workers: Annotated[
        Whole,
        arg(
            help="Trainings at a time; free to change when going on.",
            help_behavior_hint="(default: one a CPU core, or one on a GPU)",
        ),
    ] = None
    quiet: Annotated[FlagCreatePairsOff[bool], arg(help="Show no progress.", help_behavior_hint="")] = False


def run(arguments: Arguments) -> None:
    """Reproduce, and print where the page is."""
    if arguments.list:
        _print_list()
        return
    if arguments.experiment is None:
        raise ConfigError(f"name an experiment ({', '.join(EXPERIMENTS)}), or see --list")
    get_experiment(arguments.experiment)  # a wrong name is told before torch is loaded
    if arguments.workers is not None and arguments.workers < 1:
        raise ConfigError(f"--workers {arguments.workers}: expected 1 or more")
    given = {name: getattr(arguments, name) for name in _SETTINGS if getattr(arguments, name) is not None}
    for name in _PATHS:
        if name in given:
            given[name] = str(given[name].absolute())  # a call that goes on may start elsewhere
    settings = Settings(**given)
    from sivae.reproduce.reproduction import reproduce

    for path in reproduce(
        arguments.experiment, settings, arguments.out, workers=arguments.workers, progress=not arguments.quiet
    ):
        print(path)


def _print_list() -> None:
    from rich.console import Console

    console = Console(highlight=False)
    for name in EXPERIMENTS:
        experiment = get_experiment(name)
        console.print(f"[bold]{name}[/bold]  {experiment.SUMMARY}", soft_wrap=True)
        console.print(f"  needs: {experiment.NEEDS}", soft_wrap=True, markup=False)
        for size in SIZES:
            console.print(f"  {size}: {experiment.TIME[size]}", soft_wrap=True, markup=False)
