"""Write and read the losses over time: `metrics.jsonl`, one JSON object per line, and TensorBoard's event files."""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sivae import files

METRICS = "metrics.jsonl"
_TAIL_BYTES = 8192  # more than two records


class Recorder:
    """Appends records to a run's folder.

    Args:
        folder: the run's folder.
        step: number of completed iterations. Records of later steps, which an interrupted process left, are removed.
        notice: called with a message if TensorBoard is missing; the run then writes no events.
    """

    def __init__(self, folder: Path, step: int, notice: Callable[[str], None]) -> None:
        self._path = folder / METRICS
        truncate_records(self._path, step)
        self._file = self._path.open("a", encoding="utf-8")
        self._events: Any = None
        try:
            from torch.utils.tensorboard.writer import SummaryWriter
        except ImportError as error:
            notice(f"no TensorBoard events: the package is missing ({error}); pip install tensorboard adds them")
        else:
            self._events = SummaryWriter(str(folder), purge_step=step + 1 if step else None)

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
        self._file.write(json.dumps(record, allow_nan=False) + "\n")
        self._file.flush()
        if self._events is not None:
            for key, value in record.items():
                if isinstance(value, float):
                    self._events.add_scalar(key, value, step)
        return record

    def picture(self, name: str, path: Path, step: int) -> None:
        """Add a PNG file to TensorBoard's events."""
        if self._events is None:
            return
        import numpy as np
        from PIL import Image

        with Image.open(path) as image:
            self._events.add_image(name, np.asarray(image.convert("RGB")), step, dataformats="HWC")

    def sync(self) -> None:
        """Make sure that all records are on the disk."""
        os.fsync(self._file.fileno())
        if self._events is not None:
            self._events.flush()

    def close(self) -> None:
        """Flush and close."""
        self.sync()
        self._file.close()
        if self._events is not None:
            self._events.close()


def read_records(folder: Path) -> list[dict[str, Any]]:
    """Read all whole records of a run, by step."""
    path = folder / METRICS
    if not path.exists():
        return []
    return [record for _, record in _whole_records(path.read_bytes())]


def last_step(folder: Path) -> int:
    """Return the step of a run's last whole record, without reading the others; 0 if there is none."""
    try:
        with (folder / METRICS).open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
            lines = file.read().splitlines(keepends=True)
    except OSError:
        return 0
    for line in reversed(lines):
        with contextlib.suppress(ValueError, KeyError, TypeError):
            if line.endswith(b"\n"):
                return int(json.loads(line)["step"])
    return 0


def truncate_records(path: Path, step: int) -> None:
    """Remove the records after `step`, and damaged lines, from a `metrics.jsonl`."""
    if not path.exists():
        return
    content = path.read_bytes()
    end = 0
    for offset, record in _whole_records(content):
        if record["step"] > step:
            break
        end = offset
    if end < len(content):
        os.truncate(path, end)
        files.sync(path)


def _whole_records(content: bytes) -> list[tuple[int, dict[str, Any]]]:
    """Parse the records before the first damaged line, each with the offset of its end."""
    records = []
    end = 0
    for line in content.splitlines(keepends=True):
        end += len(line)
        try:
            record = json.loads(line)
            if not line.endswith(b"\n") or not isinstance(record["step"], int):
                break
        except (ValueError, KeyError, TypeError):
            break
        records.append((end, record))
    return records
