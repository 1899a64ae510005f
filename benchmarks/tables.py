"""Make tables of rows and print them: a table for each op and launch, a line for each shape, dtype and mode."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TextIO

from benchmarks.iterations.images import BF16, BF16_COMPILED, CHANNELS_LAST, TF32
from benchmarks.iterations.points import EAGER_FUSED_ADAM, PRODUCTS
from benchmarks.names import COMPILED, EAGER, ITERATIONS, OF_IMAGES, STYLE_STEP
from benchmarks.op_timing import CALL, GRAPH, STREAM
from benchmarks.rows import Row, spread_of
from benchmarks.timing import Spread

_LAUNCHES = {CALL: "", STREAM: "launched one by one", GRAPH: "in a CUDA graph"}


@dataclass(frozen=True)
class Table:
    """A title, headings, and lines of cells; the first `labels` columns are words, the others numbers."""

    title: str
    headings: Sequence[str]
    lines: Sequence[Sequence[str]]
    labels: int


def format_seconds(seconds: float) -> str:
    """A duration in three digits and a unit."""
    for limit, factor, unit in ((1e-3, 1e6, "µs"), (1.0, 1e3, "ms")):
        if seconds < limit:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds:.3g} s"


def format_bytes(count: float) -> str:
    """A size in three digits and a unit."""
    for limit, unit in ((1e3, "B"), (1e6, "kB"), (1e9, "MB")):
        if count < limit:
            return f"{count * 1e3 / limit:.3g} {unit}"
    return f"{count / 1e9:.3g} GB"


def with_spread(spread: Spread) -> str:
    """The median, with half the distance between the quartiles in percent of it."""
    half = (spread.q3 - spread.q1) / 2
    return f"{spread.median:.2f} ±{100 * half / spread.median:.0f} %" if spread.median > 0 else f"{spread.median:.2f}"


def with_quartiles(spread: Spread) -> str:
    """The median, with the quartiles in brackets."""
    return f"{spread.median:.2f} [{spread.q1:.2f}, {spread.q3:.2f}]"


def tables(rows: Iterable[Row], ratio: Callable[[Spread], str] = with_spread) -> list[Table]:
    """The tables of some rows, in their order.

    Args:
        rows: at most one of each group, variant and launch.
        ratio: writes speed-ups and shares.
    """
    parts: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        group = row["group"] if row["op"] in ITERATIONS else ""  # a table for each batch of an iteration
        parts.setdefault((row["op"], row["launch"], group), []).append(row)
    return [
        _step_table(part, ratio) if op in ITERATIONS else _op_table(op, launch, part, ratio)
        for (op, launch, _), part in parts.items()
    ]


def _op_table(op: str, launch: str, rows: Sequence[Row], ratio: Callable[[Spread], str]) -> Table:
    present = list(dict.fromkeys(row["variant"] for row in rows))
    baselines = [name for name in (EAGER, COMPILED) if name in present]
    backends = [name for name in present if name not in baselines]
    empty = any(row.get("time_over_empty_graph") is not None for row in rows)
    headings = ["shape", "dtype", "mode", *baselines]
    for name in backends:
        headings += [name, "x eager", *(["x compile"] if COMPILED in present else []), "of copy", "memory"]
        headings += ["x empty"] if empty else []
    groups: dict[str, dict[str, Row]] = {}
    for row in rows:
        groups.setdefault(row["group"], {})[row["variant"]] = row
    lines = []
    for group in groups.values():
        first = next(iter(group.values()))
        line = ["x".join(map(str, first["shape"])), first["dtype"], first["mode"]]
        line += [_time(group.get(name)) for name in baselines]
        for name in backends:
            row = group.get(name, {})
            line += [_time(row), _ratio(row, "speedup_over_eager", ratio)]
            line += [_ratio(row, "speedup_over_compile", ratio)] if COMPILED in present else []
            line += [_ratio(row, "share_of_copy", ratio) if row.get("cold") else "", _memory(row)]
            line += [_ratio(row, "time_over_empty_graph", ratio)] if empty else []
        lines.append(line)
    title = op + (f", {_LAUNCHES[launch]}" if _LAUNCHES[launch] else "")
    return Table(title, headings, lines, labels=3)


def _step_table(rows: Sequence[Row], ratio: Callable[[Spread], str]) -> Table:
    first = rows[0]
    names = {
        EAGER: "plain loop",
        EAGER_FUSED_ADAM: "plain loop, fused Adam",
        CHANNELS_LAST: "plain loop, channels-last",
        TF32: "plain loop, tf32, channels-last",
        BF16: "plain loop, bf16, channels-last",
        BF16_COMPILED: "plain loop, bf16, channels-last, compiled",
        PRODUCTS: PRODUCTS,
    }
    of_images = first["op"] in OF_IMAGES
    lines = [
        [
            names.get(row["variant"], f"shared-forward step, {row['variant']}"),
            _time(row),
            _rate(row),
            _ratio(row, "speedup_over_eager", ratio),
            *([_ratio(row, "share_of_matrix", ratio)] if of_images else []),
            _memory(row),
        ]
        for row in rows
    ]
    what = "images of {2}x{3}".format(*first["shape"]) if of_images else "in 2D"
    what += " with the style model" if first["op"] == STYLE_STEP else ""
    return Table(
        f"one training iteration, batch {first['shape'][0]} {what}, {first['dtype']}",
        [
            "",
            "time",
            "images/s" if of_images else "iterations/s",
            "x eager",
            *(["of matrix rate"] if of_images else []),
            "memory",
        ],
        lines,
        labels=1,
    )


def _time(row: Row | None) -> str:
    return "" if not row or row["seconds"] is None else format_seconds(row["seconds"])


def _rate(row: Row) -> str:
    if row["iterations_per_second"] is None:
        return ""
    per_iteration = row["shape"][0] if row["op"] in OF_IMAGES else 1
    return f"{row['iterations_per_second'] * per_iteration:.1f}"


def _memory(row: Row) -> str:
    return "" if row.get("peak_extra_bytes") is None else format_bytes(row["peak_extra_bytes"])


def _ratio(row: Row, name: str, ratio: Callable[[Spread], str]) -> str:
    spread = spread_of(row, name)
    return "" if spread is None else ratio(spread)


def markdown(table: Table) -> list[str]:
    """The lines of a Markdown table."""
    rule = ["---"] * table.labels + ["--:"] * (len(table.headings) - table.labels)
    return [f"| {' | '.join(cells)} |" for cells in (table.headings, rule, *table.lines)]


def print_tables(found: Sequence[Table], stream: TextIO | None = None) -> None:
    """Print tables, with columns aligned by blanks, to a stream (default: stdout)."""
    for table in found:
        lines = [table.headings, *table.lines]
        widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
        print(table.title, file=stream)
        for line in lines:
            cells = (
                text.ljust(width) if index < table.labels else text.rjust(width)
                for index, (text, width) in enumerate(zip(line, widths, strict=True))
            )
            print("  " + "  ".join(cells).rstrip(), file=stream)
        print(file=stream)
