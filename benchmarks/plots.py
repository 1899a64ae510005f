"""Draw speed-ups and shares of the copy speed from rows, as PNG files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.names import EAGER, ITERATIONS, MODES
from benchmarks.op_timing import GRAPH
from benchmarks.rows import Row, spread_of
from sivae.files import atomic_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_AXES = {
    "speedup_over_eager": ("times faster than eager PyTorch", "log"),
    "share_of_copy": ("share of the copy speed", "linear"),
}


def draw(rows: Sequence[Row], folder: Path) -> list[Path]:
    """Draw speed-ups over eager and shares of the copy speed, those in CUDA graphs into other files.

    Args:
        rows: of one device.
        folder: an existing one; a file in it is replaced.

    Returns:
        The files.

    Raises:
        ImportError: matplotlib is not installed.
    """
    written = []
    timed = [row for row in rows if row["op"] not in ITERATIONS and row["seconds"] is not None]
    for launch in dict.fromkeys(row["launch"] for row in timed):
        suffix = f"-{GRAPH}" if launch == GRAPH else ""
        chosen = [row for row in timed if row["launch"] == launch]
        where = f"{chosen[0]['device']}{', in a CUDA graph' if launch == GRAPH else ''}"
        cold = [row for row in chosen if row["cold"]]
        for name, label, part in (
            ("speedup", "speedup_over_eager", [row for row in chosen if row["variant"] != EAGER]),
            ("share-of-copy", "share_of_copy", cold),
        ):
            if any(spread_of(row, label) for row in part):
                path = folder / f"{name}{suffix}.png"
                _draw_dots(part, label, where, path)
                written.append(path)
    return written


def _draw_dots(rows: Sequence[Row], field: str, where: str, path: Path) -> None:
    from matplotlib.figure import Figure

    label, scale = _AXES[field]
    names = list(dict.fromkeys(_case_name(row) for row in rows))
    variants = list(dict.fromkeys(row["variant"] for row in rows))
    figure = Figure(figsize=(12, 1.6 + 0.32 * len(names)), layout="constrained")
    panels = figure.subplots(1, len(MODES), sharey=True, sharex=True, squeeze=False)[0]
    for panel, mode in zip(panels, MODES, strict=True):
        for index, variant in enumerate(variants):
            offset = 0.5 * ((index + 0.5) / len(variants) - 0.5)
            part = [row for row in rows if row["mode"] == mode and row["variant"] == variant]
            _dots(panel, part, field, names, offset, variant, f"C{index}")
        panel.axvline(1.0, color="0.4", linewidth=1)
        panel.set(title=mode, xlabel=label, xscale=scale)
        panel.grid(axis="x", which="both", alpha=0.25)
    if scale == "linear":
        panels[0].set_xlim(left=0)
    else:
        from matplotlib.ticker import LogLocator, NullFormatter

        for panel in panels:
            panel.xaxis.set_major_locator(LogLocator(base=2, numticks=20))
            panel.xaxis.set_major_formatter("{x:g}")
            panel.xaxis.set_minor_formatter(NullFormatter())
    panels[0].set_yticks(range(len(names)), names)
    panels[0].invert_yaxis()
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    figure.suptitle(where)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")


def _dots(
    panel: Axes, rows: Iterable[Row], field: str, names: Sequence[str], offset: float, label: str, colour: str
) -> None:
    found = [(names.index(_case_name(row)) + offset, spread_of(row, field)) for row in rows]
    points = [(height, spread) for height, spread in found if spread is not None]
    medians = [spread.median for _, spread in points]
    whiskers = (
        [spread.median - spread.q1 for _, spread in points],
        [spread.q3 - spread.median for _, spread in points],
    )
    heights = [height for height, _ in points]
    panel.errorbar(medians, heights, xerr=whiskers, fmt="o", markersize=4, color=colour, label=label)


def _case_name(row: Row) -> str:
    return f"{row['op']} {'x'.join(map(str, row['shape']))} {row['dtype']}"
