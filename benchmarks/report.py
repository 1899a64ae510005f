"""A page and plots from the rows of results: `sivae bench report DIR`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.cases import ITERATIONS, MODES
from benchmarks.gpu.schedule_hours import hours_table
from benchmarks.iteration_profile import PROFILE_SUFFIX
from benchmarks.measure import Spread
from benchmarks.ops_suite import COMPILED, EAGER
from benchmarks.results import Row, newest, read_rows, spread_of
from benchmarks.tables import Table, markdown, tables, with_quartiles
from sivae.errors import ConfigError
from sivae.files import atomic_file, write_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PAGE = "report.md"
_GRAPH = "graph"

_EXPLANATION = """\
All variants of a case are called in turn, round after round, in one process. Ratios are taken within each round;
figures are medians, with the quartiles in brackets. "of copy" is the least number of bytes that has to be moved, over
the time taken, over the speed of a large copy in the same rounds; it stands where no cache holds the inputs, and
passes 1 where a machine reads faster than it copies and a case mostly reads. "of matrix rate" is the operations of an
iteration's products and convolutions, over the time, over the speed of one large matrix product in the same rounds
(bfloat16 on a GPU, float32 on a CPU); it passes 1 where a library's convolutions are faster than its products. "memory"
is what one call holds at its height, results included. The bfloat16 baselines compute and sum in bfloat16, as one would
first write them; the ops sum in float32. The rows beside this page have all of it."""


_HOURS = """\
Images of a stage over the images per second measured above, with noise and style mixing and random images that are on
the device. Not measured: blending, pictures, metrics, checkpoints, and reading the images."""


def device_folders(folder: Path) -> list[Path]:
    """The folders that hold results: the one given, or those in it.

    Raises:
        ConfigError: there are none; the message says what to do.
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder}: there is no such folder; name the one that holds the results")
    found = [path for path in (folder, *sorted(folder.iterdir())) if path.is_dir() and any(path.glob("*.jsonl"))]
    if not found:
        raise ConfigError(f"{folder}: it holds no results (*.jsonl); sivae bench --out {folder} measures some")
    return found


def write_report(folder: Path) -> tuple[list[Path], list[str]]:
    """Write the page and the plots of one device beside its rows, over those of an earlier report.

    Args:
        folder: of one device, see `device_folders`.

    Returns:
        What was written, and notices: lines that are no rows, plots that are missing.

    Raises:
        ConfigError: no line of the files is a row.
    """
    everything, notices = read_rows(folder)
    rows = newest(everything)
    if not rows:
        raise ConfigError(f"{folder}: no line of its *.jsonl is a row of results; sivae bench measures again")
    written = [folder / PAGE]
    plots: list[Path] = []
    try:
        plots = draw(rows, folder)
    except ImportError as error:
        notices.append(f"no plots: {error}; pip install matplotlib")
    profiles = [path.name for path in sorted(folder.glob(f"*{PROFILE_SUFFIX}"))]
    write_text(folder / PAGE, page(rows, [path.name for path in plots], profiles))
    return written + plots, notices


def page(rows: Sequence[Row], plots: Sequence[str] = (), profiles: Sequence[str] = ()) -> str:
    """A Markdown page: where and with what, the summary that the README quotes, the plots, and every table.

    Args:
        rows: of one device.
        plots, profiles: files beside the page, to show and to link.
    """
    lines = [f"# Throughput on {rows[0]['device']}", "", *_facts(rows), "", _EXPLANATION]
    if any(row["quick"] for row in rows):
        lines += ["", "**Some of these come from quick runs: few rounds, so take them as a hint.**"]
    summary = summary_table(rows)
    if summary.lines:
        lines += ["", f"## {summary.title}", "", *markdown(summary)]
    for name in plots:
        lines += ["", f"![{Path(name).stem.replace('-', ' ')}]({name})"]
    for table in tables(rows, ratio=with_quartiles):
        lines += ["", f"## {table.title}", "", *markdown(table)]
    if profiles:
        lines += ["", f"Where an iteration's time goes: {', '.join(f'[{name}]({name})' for name in profiles)}."]
    hours = hours_table(rows)
    if hours.lines:
        lines += ["", f"## {hours.title}", "", _HOURS, "", *markdown(hours)]
    skipped = dict.fromkeys(f"{row['variant']}: {row['skipped']}" for row in rows if row["skipped"])
    if skipped:
        lines += ["", "## Not measured", "", *(f"- {line}" for line in skipped)]
    return "\n".join(lines) + "\n"


def _facts(rows: Sequence[Row]) -> list[str]:
    runs = {row["run"]: row for row in rows}
    lines = []
    for run, row in sorted(runs.items()):
        cuda = f", CUDA {row['cuda']}" if row["cuda"] else ""
        triton = f", triton {row['triton']}" if row["triton"] else ""
        lines.append(
            f"- {run[:16].replace('T', ' ')} UTC, commit {row['commit'] or 'unknown'}, sivae {row['sivae']}, "
            f"torch {row['torch']}{cuda}{triton}, python {row['python']}, {row['threads']} of {row['cores']} cores, "
            f"{row['system']}, load average before {row['load_average_before']}: `{row['command']}`"
        )
    copies = [row["copy_bytes_per_second"] for row in rows if row["copy_bytes_per_second"]]
    if copies:
        lines.append(f"- copying memory: {min(copies) / 1e9:.0f} to {max(copies) / 1e9:.0f} GB/s")
    return lines


def summary_table(rows: Sequence[Row]) -> Table:
    """Forward and backward of each case on the fastest backend that was measured, launched from Python."""
    lines = []
    groups: dict[str, list[Row]] = {}
    for row in rows:
        if row["mode"] == MODES[-1] and row["launch"] != _GRAPH and row["seconds"] is not None:
            groups.setdefault(row["group"], []).append(row)
    for group in groups.values():
        backends = [row for row in group if row["variant"] not in (EAGER, COMPILED)]
        if not backends:
            continue
        best = min(backends, key=lambda row: row["seconds"])
        share = spread_of(best, "share_of_copy") if best["cold"] else None
        lines.append(
            [
                f"`{best['op']}` [{', '.join(map(str, best['shape']))}] {best['dtype']}",
                best["variant"],
                _words(spread_of(best, "speedup_over_eager")),
                _words(spread_of(best, "speedup_over_compile")),
                _words(share),
            ]
        )
    headings = ["", "backend", "times faster than eager", "than torch.compile", "share of copy speed"]
    return Table("Forward and backward", headings, lines, labels=2)


def _words(spread: Spread | None) -> str:
    return "" if spread is None else with_quartiles(spread)


def draw(rows: Sequence[Row], folder: Path) -> list[Path]:
    """The plots: speed-ups over eager by shape, and shares of the copy speed; for CUDA graphs, ones of their own.

    Raises:
        ImportError: matplotlib is missing.
    """
    written = []
    timed = [row for row in rows if row["op"] not in ITERATIONS and row["seconds"] is not None]
    for launch in dict.fromkeys(row["launch"] for row in timed):
        suffix = f"-{_GRAPH}" if launch == _GRAPH else ""
        chosen = [row for row in timed if row["launch"] == launch]
        where = f"{chosen[0]['device']}{', in a CUDA graph' if launch == _GRAPH else ''}"
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


_AXES = {
    "speedup_over_eager": ("times faster than eager PyTorch", "log"),
    "share_of_copy": ("share of the copy speed", "linear"),
}


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
