"""Write and read the losses over time: `metrics.jsonl`, one JSON object per line."""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, NotRequired, TypedDict

import torch
from torch import Tensor

from sivae import files
from sivae.fields import SEED, converted, table
from sivae.json_files import parse

METRICS = "metrics.jsonl"
_TAIL_BYTES = 8192  # more than two records
_LONGEST = 1 << 20  # bytes of a line


class _Record(TypedDict):
    """A record. Its other keys are numbers, or None where a number is not finite."""

    step: Annotated[int, SEED]
    phase: NotRequired[str]


class Recorder:
    """Appends records to a run's folder.

    Args:
        folder: the run's folder.
        step: number of completed iterations. Records of later steps, which an interrupted process left, are removed.
        notice: called with a message if records are damaged or lost.
        last: the step of the last record up to `step`; None: unknown.
    """

    def __init__(self, folder: Path, step: int, notice: Callable[[str], None], *, last: int | None = None) -> None:
        self._path, self._notice = folder / METRICS, notice
        _remove_records(self._path, step, notice, last)
        self._file = self._path.open("a", encoding="utf-8")

    def record(self, step: int, losses: Mapping[str, Tensor], **more: float | str) -> dict[str, Any]:
        """Append one record. The losses come from the device in one transfer.

        Args:
            step: number of completed iterations.
            losses: scalar tensors, on one device.
            more: further values of the record, on the host.

        Returns:
            The record as written: `step`, the losses as floats (None if not finite, which JSON cannot express), and
            `more`.
        """
        values = torch.stack([value.detach().double() for value in losses.values()]).tolist()
        record: dict[str, Any] = {"step": step}
        record |= {key: value if math.isfinite(value) else None for key, value in zip(losses, values, strict=True)}
        record |= more
        self._open_again_if_gone(step)
        with files.named(self._path):
            self._file.write(json.dumps(record, allow_nan=False) + "\n")
            self._file.flush()
        return record

    def _open_again_if_gone(self, step: int) -> None:
        try:
            there = os.path.samestat(os.fstat(self._file.fileno()), self._path.stat())
        except OSError:
            there = False
        if not there:
            self._file.close()
            self._file = self._path.open("a", encoding="utf-8")
            self._notice(
                f"{self._path} was deleted or replaced by another program; records from step {step:,} on are written "
                "to it, and those before are lost unless it holds them"
            )

    def sync(self) -> None:
        """Make sure that all records are on the disk."""
        with files.named(self._path):
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Flush and close."""
        self.sync()
        self._file.close()


def read_records(folder: Path) -> list[dict[str, Any]]:
    """Read all whole records of a run, in the order of the file; damaged lines are left out."""
    return [record for _, record in _lines(folder / METRICS) if record is not None]


def last_step(folder: Path) -> int:
    """Return the step of a run's last whole record, without reading the others; 0 if there is none."""
    try:
        with (folder / METRICS).open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
            lines = file.read().splitlines(keepends=True)
    except OSError:
        return 0
    return next((int(record["step"]) for line in reversed(lines) if (record := _record_of(line)) is not None), 0)


def _remove_records(path: Path, step: int, notice: Callable[[str], None], last: int | None) -> None:
    """Remove the records after `step`, and damaged lines, from a `metrics.jsonl`."""
    lines = list(_lines(path))
    kept = [(line, record) for line, record in lines if record is not None and record["step"] <= step]
    # The last line is cut short by a power failure; a damaged one before it is no usual accident.
    damaged = [number for number, (line, record) in enumerate(lines, 1) if record is None and line.endswith(b"\n")]
    if damaged:
        notice(f"{path}: damaged lines removed: {len(damaged):,}, the first was line {damaged[0]:,}")
    reached = kept[-1][1]["step"] if kept else 0
    if last is not None and reached < last:
        notice(f"{path} has lost its records after step {reached:,} up to step {last:,}; the run goes on without them")
    if len(kept) < len(lines):
        files.write_bytes(path, b"".join(line for line, _ in kept))


def _lines(path: Path) -> Iterator[tuple[bytes, dict[str, Any] | None]]:
    """Read the lines of a `metrics.jsonl`, each with its record, or None where it is damaged."""
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        for line in iter(lambda: file.readline(_LONGEST), b""):
            yield line, _record_of(line)


def _record_of(line: bytes) -> dict[str, Any] | None:
    try:
        return checked_record(parse(line.decode())) if line.endswith(b"\n") else None
    except ValueError:
        return None


def checked_record(content: Any) -> dict[str, Any]:
    """Return a record that was read from a file.

    Raises:
        ValueError: it is none.
    """
    table(content, _Record)
    for key, value in content.items():
        if key not in _Record.__annotations__:
            converted(key, value, float | None)
    return dict(content)  # whole numbers stay whole
