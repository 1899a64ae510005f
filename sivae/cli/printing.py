"""Print notices and tables of metrics on the terminal."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sivae.data.free_memory import amount
from sivae.settings.models import Samples
from sivae.words import plural

if TYPE_CHECKING:
    from sivae.training.dry_run import DryRun, Phase


def notice(text: str) -> None:
    """Print a line for people on stderr."""
    print(f"sivae: {text}", file=sys.stderr)


def print_metrics(title: str, metrics: Mapping[str, float | None]) -> None:
    """Print one row per metric: its value, which direction is better, and what it measures.

    None stands for a value that is not finite.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from sivae.evaluation.meanings import meanings

    # As wide as its title, which would break otherwise.
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", min_width=len(title))
    table.add_column("metric", no_wrap=True)
    table.add_column("value", justify="right", no_wrap=True)
    table.add_column("better")
    table.add_column("measures")
    for (name, value), meaning in zip(metrics.items(), meanings(metrics), strict=True):
        shown = "not finite" if value is None else f"{value:,}" if type(value) is int else f"{value:.4g}"
        table.add_row(name, shown, *meaning)
    Console(highlight=False).print(table)


def print_dry_run(result: DryRun) -> None:
    """Print what a training will take: a row for each phase, then a line for each other fact."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    config = result.config
    title = f"dry run of {config.preset}, {config.objective.name}, {config.precision} on {config.device}"
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", min_width=len(title))
    table.add_column("phase")
    for name in ("iterations", "batch", "one takes (from, to)", "all take"):
        table.add_column(name, justify="right", no_wrap=True)
    for phase in result.phases:
        of_one, of_all = _spread(phase), _long(phase.iterations * phase.seconds)
        table.add_row(phase.name, f"{phase.iterations:,}", f"{phase.batch_size:,}", of_one, of_all)
    if len(result.phases) > 1:
        table.add_section()
        table.add_row("to the end", f"{config.total_steps:,}", "", "", _long(result.training_seconds))
    Console(highlight=False).print(table)
    if config.growth.grows:
        print("Each resolution was measured after it has been blended in.")
    print("Pictures, checkpoints and the metrics of the end take time besides.\n")
    for name, count in result.parameters.items():
        print(f"{name:<12}{count:,} parameters")
    print(f"{'memory':<12}{amount(result.memory_bytes)} of {result.memory_of} at its peak, without the metrics")
    print(f"{'checkpoint':<12}{amount(result.checkpoint_bytes)}")
    print(f"{'folder':<12}at most {amount(result.folder_bytes)} at the end")


def _spread(phase: Phase) -> str:
    """The time of an iteration: its median, the fastest and the slowest."""
    factor, unit = (1e3, "ms") if phase.seconds < 0.9995 else (1.0, "s")
    median, fastest, slowest = (f"{factor * one:.3g}" for one in (phase.seconds, phase.fastest, phase.slowest))
    return f"{median} {unit} ({fastest}, {slowest})"


def _long(seconds: float) -> str:
    """The time of a training."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:,.1f} h"


def print_latents(folder: Path, count: int, sample: str, shape: Sequence[int], std: float) -> None:
    """Print what :func:`sivae.evaluation.latents.write_latents` wrote, and where."""
    size = " x ".join(map(str, shape))
    print(f"latents of {plural(count, sample)}: {size} values each, of standard deviation {std:.4g}")
    print(folder)


def print_separation(title: str, metrics: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> None:
    """Print one row per score, one column per metric, each with its 95 % interval."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
    table.add_column("score", no_wrap=True)
    for name in ("AUROC", "AUPR", "FPR at 95 % TPR"):
        table.add_column(name, justify="right", no_wrap=True)
    for score, found in metrics.items():
        cells = (f"{one['value']:.3f} ({one['low']:.3f}–{one['high']:.3f})" for one in found.values())
        table.add_row(score, *cells)
    Console(highlight=False, soft_wrap=True).print(table)


def print_comparison(content: Mapping[str, Any], folder: Path, samples: Samples = "images") -> None:
    """Print how well two sets are separated, and the files of :func:`sivae.detection.comparison.write_comparison`."""
    from sivae.detection.comparison import FILES

    counts = [
        f"{which} {content[which]['data']} ({plural(content[which][samples], samples.removesuffix('s'))})"
        for which in ("in", "out")
    ]
    print_separation(", ".join(counts), content["metrics"])
    for name in FILES:
        print(folder / name)
