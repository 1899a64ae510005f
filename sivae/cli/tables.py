"""How figures look on a terminal."""

from __future__ import annotations

from collections.abc import Mapping

from rich import box
from rich.table import Table


def metrics_table(title: str, metrics: Mapping[str, float | None]) -> Table:
    """One row per metric; None stands for a value that is not finite."""
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
    table.add_column("metric")
    table.add_column("value", justify="right")
    for name, value in metrics.items():
        table.add_row(name, "not finite" if value is None else f"{value:.4g}")
    return table
