"""The suite's results as a table on the terminal, JSON and a Markdown page."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

from benchmarks.measure import Spread, last_level_cache_bytes
from benchmarks.results import CaseResult
from sivae import ops
from sivae.machine import cpu_model, versions

_HEADINGS = {"ops": "Fused ops, forward and backward", "step": "One training iteration"}
_COLUMNS = ("contender", "time", "time over baseline", "times faster")
_MEMORY_COLUMN = "share of copy speed"


def environment(threads: int) -> dict[str, Any]:
    """Where and with what the figures were taken."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "device": cpu_model(),
        "cores": os.cpu_count(),
        "threads": threads,
        "load_average_before": os.getloadavg()[0],
        "last_level_cache_bytes": last_level_cache_bytes(),
        "system": f"{platform.system()} {platform.release()}",
        "commit": git_commit(),
        "versions": versions(),
        "backends": ops.available_backends(),
    }


def git_commit() -> str | None:
    """The checkout's commit, with "+changes" where tracked files differ from it; None outside a repository."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, check=True).stdout.strip()

    try:
        commit = git("rev-parse", "HEAD")
        return f"{commit}+changes" if git("status", "--porcelain", "--untracked-files=no") else commit
    except (OSError, subprocess.CalledProcessError):
        return None


def to_json(meta: dict[str, Any], bandwidths: dict[str, Spread], results: Sequence[CaseResult]) -> dict[str, Any]:
    """Everything, in SI units: seconds, bytes, bytes per second."""
    return {
        "environment": meta,
        "bytes_per_second": {name: spread.to_dict() for name, spread in bandwidths.items()},
        "cases": [result.to_dict() for result in results],
    }


def format_seconds(seconds: float) -> str:
    """Three digits and a unit."""
    for limit, factor, unit in ((1e-3, 1e6, "µs"), (1.0, 1e3, "ms")):
        if seconds < limit:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds:.3g} s"


def columns(result: CaseResult) -> tuple[str, ...]:
    """The headings; the memory's only where the case is compared with it."""
    return (*_COLUMNS, _MEMORY_COLUMN) if "copy" in result.probes else _COLUMNS


def rows(result: CaseResult) -> list[tuple[str, ...]]:
    """A row of `columns` for each contender: medians, with the 10 % and 90 % quantiles in brackets."""
    lines: list[tuple[str, ...]] = []
    for name in result.contenders:
        seconds = result.measurement.spread(name)
        time = f"{format_seconds(seconds.median)} [{format_seconds(seconds.q10)}, {format_seconds(seconds.q90)}]"
        over = faster = "1"
        if name != result.baseline:
            over = _ratio(result.measurement.ratio(name, result.baseline))
            faster = _ratio(result.measurement.ratio(result.baseline, name))
        share = result.share_of_memory_speed(name)
        lines.append((name, time, over, faster, *([] if share is None else [_ratio(share)])))
    return lines


def _ratio(spread: Spread) -> str:
    return f"{spread.median:.2f} [{spread.q10:.2f}, {spread.q90:.2f}]"


def print_tables(results: Sequence[CaseResult], stream: TextIO | None = None) -> None:
    """A table per case: by rich where it is installed, in plain text where not."""
    stream = stream or sys.stdout
    try:
        from rich import box
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        print_plain_tables(results, stream)
        return
    console = Console(file=stream, width=None if stream.isatty() else 140)
    for result in results:
        table = Table(title=result.name, box=box.SIMPLE_HEAD, title_justify="left")
        for index, column in enumerate(columns(result)):
            table.add_column(column, justify="left" if index == 0 else "right", no_wrap=True)
        for row in rows(result):
            table.add_row(*row)
        console.print(table)


def print_plain_tables(results: Sequence[CaseResult], stream: TextIO) -> None:
    """The same in columns of blanks."""
    for result in results:
        lines = [columns(result), *rows(result)]
        widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
        print(result.name, file=stream)
        for line in lines:
            cells = (text.ljust(width) for text, width in zip(line, widths, strict=True))
            print("  " + "  ".join(cells).rstrip(), file=stream)
        print(file=stream)


def markdown(meta: dict[str, Any], bandwidths: dict[str, Spread], results: Sequence[CaseResult], command: str) -> str:
    """A page for docs/results."""
    versions = ", ".join(f"{name} {version}" for name, version in meta["versions"].items())
    commit = meta["commit"] or "none"
    page = [
        "# Speed on the CPU",
        "",
        f"`{command}`",
        "",
        f"- {meta['device']}, {meta['cores']} cores, {meta['threads']} threads, {meta['system']}",
        f"- {versions}, commit {commit}, {meta['date']}",
        f"- load average before the run: {meta['load_average_before']:.1f}",
        *(f"- memory {name}: {_gigabytes(spread)}" for name, spread in bandwidths.items()),
        "",
        "All contenders of a case are called in turn, round after round, in one process. Ratios are taken within each",
        "round. Figures are medians with the 10 % and 90 % quantiles in brackets. float32. The share of copy speed is",
        "the least number of bytes that has to be moved, over the time taken, over the speed of a large copy in the",
        "same round; it passes 1 where a case mostly reads, and reading is faster than copying.",
    ]
    if meta.get("quick"):
        page += ["", "**Quick run on tiny shapes: these figures say nothing about speed.**"]
    for suite, heading in _HEADINGS.items():
        chosen = [result for result in results if result.suite == suite]
        if not chosen:
            continue
        page += ["", f"## {heading}"]
        for result in chosen:
            headings = columns(result)
            table = [headings, ("---", *["--:"] * (len(headings) - 1)), *rows(result)]
            page += ["", f"### {result.name}", "", *map(_markdown_row, table)]
            if result.skipped:
                page += ["", *(f"Without {name}: {reason}" for name, reason in result.skipped.items())]
    return "\n".join(page) + "\n"


def _markdown_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _gigabytes(spread: Spread) -> str:
    return f"{spread.median / 1e9:.1f} GB/s [{spread.q10 / 1e9:.1f}, {spread.q90 / 1e9:.1f}]"
