"""Write a page with tables and plots of a device's results: `sivae bench report DIR`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.gpu.schedule_hours import hours_table
from benchmarks.iterations.profile import PROFILE_SUFFIX
from benchmarks.names import COMPILED, EAGER, MODES
from benchmarks.op_timing import GRAPH
from benchmarks.plots import draw
from benchmarks.rows import Row, newest, read_rows, spread_of
from benchmarks.tables import Table, markdown, tables, with_quartiles
from benchmarks.timing import Spread
from sivae.errors import ConfigError
from sivae.files import write_text

PAGE = "report.md"

_EXPLANATION = """\
The variants of a case are called in turn, round after round, in one process. Ratios are taken within each round;
numbers are medians, with the quartiles in brackets.

- **of copy**: the bytes that must at least be moved, divided by the time and by the speed of a large copy in the same
  rounds. It is given if no cache holds the inputs. It can exceed 1 for a case that mostly reads, on a machine that
  reads faster than it copies.
- **of matrix rate**: the operations of an iteration's products and convolutions, divided by the time and by the speed
  of one large matrix product in the same rounds (bfloat16 on a GPU, float32 on a CPU). It exceeds 1 if a library's
  convolutions are faster than its products.
- **memory**: the most that one call holds, with its results.

The bfloat16 baselines compute and sum in bfloat16, as one would write them first; the ops sum in float32. The rows
beside this page have more numbers."""


_HOURS = """\
The images of a stage divided by the images per second measured above, with noise and style mixing, and random images on
the device. Blending, pictures, metrics, checkpoints, and reading the images are not included."""


def device_folders(folder: Path) -> list[Path]:
    """The folders with results: the one given, or those in it.

    Raises:
        ConfigError: there are none.
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder}: there is no such folder; name the one that holds the results")
    found = [path for path in (folder, *sorted(folder.iterdir())) if path.is_dir() and any(path.glob("*.jsonl"))]
    if not found:
        raise ConfigError(f"{folder}: it holds no results (*.jsonl); sivae bench --out {folder} measures some")
    return found


def write_report(folder: Path) -> tuple[list[Path], list[str]]:
    """Write the page and the plots of one device beside its rows, and replace earlier ones.

    Args:
        folder: of one device, see `device_folders`.

    Returns:
        The files, and notices: lines that are no rows, why there are no plots.

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
    """A Markdown page: the machines and software, the summary that the README quotes, the plots, and every table.

    Args:
        rows: of one device.
        plots: files beside the page, to show.
        profiles: files beside the page, to link.
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
    """Forward and backward of each case on the fastest measured backend, launched from Python."""
    lines = []
    groups: dict[str, list[Row]] = {}
    for row in rows:
        if row["mode"] == MODES[-1] and row["launch"] != GRAPH and row["seconds"] is not None:
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
