"""Print notices and tables of metrics on the terminal."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sivae.settings.models import Samples
from sivae.words import plural


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
