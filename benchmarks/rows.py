"""The rows of results: their fields, and the files that they are appended to.

A row is one contender in one mode of one case. A file has a row in each line, as JSON: `OUT/DEVICE/DATE-COMMIT.jsonl`.
Times are in seconds, sizes in bytes. NAME, NAME_q1 and NAME_q3 are median and quartiles over the rounds; ratios are
taken within each round. The row of a contender that could not run has no times, and the reason in `skipped`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict

from benchmarks.iterations.base import IterationResult
from benchmarks.iterations.images import MATRIX
from benchmarks.names import COMPILED, EAGER
from benchmarks.op_timing import CALL, COPY, EMPTY, GRAPH, Contender, GroupResult
from benchmarks.timing import Measurement, Spread
from sivae.errors import ConfigError
from sivae.fields import table
from sivae.files import named
from sivae.json_files import parse

SCHEMA = 1
Row = dict[str, Any]


class _Row(TypedDict):
    schema: Literal[1]


_BASELINES = {EAGER: "eager", COMPILED: "compile"}  # variant -> its name in a row's keys
# The measured fields: those with quartiles, and the others.
_SPREADS = (
    "seconds",
    "share_of_copy",
    "share_of_matrix",
    *(f"speedup_over_{key}" for key in _BASELINES.values()),
    "time_over_empty_graph",
)
_VALUES = (
    "rounds",
    "calls_per_sample",
    "bytes",
    "bytes_per_second",
    "copy_bytes_per_second",
    "copy_in_rounds",
    "cold",
    "input_bytes",
    "peak_extra_bytes",
    "iterations_per_second",
    "flops",
    "matrix_flops_per_second",
    "skipped",
)


def spread_fields(name: str, spread: Spread | None) -> Row:
    """A median and its quartiles as a row's fields."""
    values = (None, None, None) if spread is None else (spread.median, spread.q1, spread.q3)
    return dict(zip((name, f"{name}_q1", f"{name}_q3"), values, strict=True))


def spread_of(row: Row, name: str) -> Spread | None:
    """The inverse of `spread_fields`."""
    if row.get(name) is None:
        return None
    return Spread(row[name], row[f"{name}_q1"], row[f"{name}_q3"])


def group_rows(result: GroupResult, facts: Row, copy_bandwidth: Spread) -> list[Row]:
    """The rows of one case in one mode.

    Args:
        result: the times.
        facts: fields of every row of the run: `environment` and the settings.
        copy_bandwidth: bytes per second, measured in this run; used if the case's own rounds have no copy.
    """
    case, measurement = result.case, result.measurement
    moved = case.moved_bytes(result.mode)

    def empty(contender: Contender) -> Row:
        op, shape = case.operation.name, list(case.shape)
        return facts | _empty_row("ops", op, shape, case.dtype, result.mode, contender) | {"bytes": moved}

    rows = []
    for contender in result.contenders:
        seconds = measurement.seconds[contender.name]
        if result.copy_moved is not None:
            copied = Spread.of([result.copy_moved / taken for taken in measurement.seconds[COPY]]).median
            share = measurement.ratio(COPY, contender.name).times(moved / result.copy_moved)
        else:
            copied = copy_bandwidth.median
            share = Spread.of([moved / taken / copied for taken in seconds])
        row = empty(contender) | _times(measurement, contender.name)
        row |= _speedups(measurement, contender, result.contenders) | spread_fields("share_of_copy", share)
        row |= {
            "bytes_per_second": moved / Spread.of(seconds).median,
            "copy_bytes_per_second": copied,
            "copy_in_rounds": result.copy_moved is not None,
            "cold": result.cold,
            "input_bytes": result.input_bytes,
            "peak_extra_bytes": result.peak_extra_bytes.get(contender.name),
        }
        if EMPTY in measurement.seconds and contender.launch == GRAPH:
            row |= spread_fields("time_over_empty_graph", measurement.ratio(contender.name, EMPTY))
        rows.append(row)
    return rows + [empty(contender) | {"skipped": reason} for contender, reason in result.skipped.items()]


def iteration_rows(result: IterationResult, facts: Row) -> list[Row]:
    """The rows of a training iteration."""

    def empty(variant: str) -> Row:
        op, shape = result.case.op, list(result.case.shape)
        return facts | _empty_row("step", op, shape, "float32", "iteration", Contender(variant, CALL))

    rows = []
    measurement = result.measurement
    for variant in result.variants:
        row = empty(variant) | _times(measurement, variant)
        row["iterations_per_second"] = 1 / measurement.spread(variant).median
        row["peak_extra_bytes"] = result.peak_extra_bytes.get(variant)
        if variant != EAGER and EAGER in result.variants:
            row |= spread_fields("speedup_over_eager", measurement.ratio(EAGER, variant))
        if variant in result.flops:
            row |= _share_of_matrix(result, variant)
        rows.append(row)
    return rows + [empty(variant) | {"skipped": reason} for variant, reason in result.skipped.items()]


def _share_of_matrix(result: IterationResult, variant: str) -> Row:
    """The iteration's products and convolutions, relative to a large matrix product in the same time."""
    flops, matrix = result.flops[variant], result.measurement.spread(MATRIX)
    share = result.measurement.ratio(MATRIX, variant).times(flops / result.matrix_flops)
    return {
        "flops": flops,
        "matrix_flops_per_second": result.matrix_flops / matrix.median,
        **spread_fields("share_of_matrix", share),
    }


def _empty_row(suite: str, op: str, shape: list[int], dtype: str, mode: str, contender: Contender) -> Row:
    """A row that says what was measured, and whose measured fields are None."""
    identity = {
        "schema": SCHEMA,
        "suite": suite,
        "group": f"{op} {shape} {dtype} {mode}",
        "op": op,
        "shape": shape,
        "dtype": dtype,
        "mode": mode,
        "variant": contender.variant,
        "launch": contender.launch,
    }
    spreads = {key: None for name in _SPREADS for key in spread_fields(name, None)}
    return identity | spreads | dict.fromkeys(_VALUES)


def _times(measurement: Measurement, name: str) -> Row:
    return spread_fields("seconds", measurement.spread(name)) | {
        "rounds": len(measurement.seconds[name]),
        "calls_per_sample": measurement.calls_per_sample[name],
    }


def _speedups(measurement: Measurement, contender: Contender, others: Sequence[Contender]) -> Row:
    """How many times faster a contender is than the baselines that are launched the same way."""
    fields: Row = {}
    for variant, key in _BASELINES.items():
        baseline = Contender(variant, contender.launch)
        present = baseline in others and baseline != contender
        faster = measurement.ratio(baseline.name, contender.name) if present else None
        fields |= spread_fields(f"speedup_over_{key}", faster)
    return fields


class RowFile:
    """Appends rows to `out/DEVICE/DATE-COMMIT.jsonl`; existing rows stay.

    Args:
        out: folder of all results; made if it does not exist.
        slug: a folder's name for the device.
        facts: `environment` of the run; its date and commit name the file.

    Raises:
        ConfigError: the folder's path is a file's, or inside a file.
    """

    def __init__(self, out: Path, slug: str, facts: Mapping[str, Any]) -> None:
        self.facts = dict(facts)
        folder = out / slug
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise ConfigError(f"out = {out}: it is a file, or inside one; name a folder for the results") from None
        commit = facts["commit"] or "no-commit"
        short = commit[:12] + ("-changes" if commit.endswith("+changes") else "")
        self.path = folder / f"{facts['run'][:10]}-{short}.jsonl"

    def append(self, rows: Iterable[Row]) -> None:
        """Append rows as whole lines, and wait until the disk has them."""
        lines = [json.dumps(row, allow_nan=False) for row in rows]
        with named(self.path), self.path.open("ab+") as file:
            # An interrupted write may have left an unfinished line, which must not join with the next one.
            if file.tell() > 0:
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    file.write(b"\n")
            file.write("".join(f"{line}\n" for line in lines).encode())
            file.flush()
            os.fsync(file.fileno())


def read_rows(folder: Path) -> tuple[list[Row], list[str]]:
    """All rows of the files in a folder, in order, and a notice about each line that is no row."""
    rows, complaints = [], []
    for path in sorted(folder.glob("*.jsonl")):
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
            try:
                row = table(parse(line), _Row)
            except ValueError:
                complaints.append(f"{path}, line {number}: not a row of schema {SCHEMA}; left out")
            else:
                rows.append(row)
    return rows, complaints


def newest(rows: Iterable[Row]) -> list[Row]:
    """The newest row of each group, variant and launch; a quick run's row only if there is no other."""
    chosen: dict[tuple[str, str, str], Row] = {}
    for row in sorted(rows, key=lambda row: (not row["quick"], row["run"])):
        chosen[row["group"], row["variant"], row["launch"]] = row
    return list(chosen.values())
