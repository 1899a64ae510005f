"""Files of records in TensorFlow's framing, each found without reading the others.

A record is its length (8 bytes, little endian), a checksum of these, its data, and a checksum of the data. Checksums
are CRC-32C, rotated and with a constant added, so that one of data that holds checksums is no trivial one. (The format
is that of TensorFlow's `tensorflow/core/lib/io/record_writer.h`.)
"""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sivae.data.images.memory import amount
from sivae.errors import DamagedImageError, DataError
from sivae.progress import counting

_HEAD = struct.Struct("<QI")  # length, its checksum
_TAIL = struct.Struct("<I")  # checksum of the data
_RECORD_LIMIT = 2 << 30  # of one record
_REMEDY = "fetch the file again"


def masked_checksum(content: bytes) -> int:
    """CRC-32C as these files hold it.

    Raises:
        DataError: google-crc32c is not installed.
    """
    try:
        import google_crc32c
    except ImportError:
        raise DataError("files of records need google-crc32c for their checksums: pip install google-crc32c") from None
    checksum = google_crc32c.value(content)
    return ((checksum >> 15 | checksum << 17) + 0xA282EAD8) & 0xFFFFFFFF


def open_records(paths: Sequence[Path], *, progress: bool) -> list[RecordFile]:
    """Files of records of about one length.

    Args:
        paths: one or more.
        progress: show it where it takes long.

    Raises:
        DataError: see :class:`RecordFile`.
    """
    size = sum(path.stat().st_size for path in paths)
    with paths[0].open("rb") as file:
        head = file.read(_HEAD.size)
    each = _HEAD.unpack(head)[0] + _HEAD.size + _TAIL.size if len(head) == _HEAD.size else size or 1
    with counting(f"finding the records of {paths[0].name}", size // each, enabled=progress) as counter:
        return [RecordFile(path, counter.advance) for path in paths]


class RecordFile:
    """The records of one file. Opening it reads their lengths, not their data; threads and processes may share it.

    Args:
        path: of the file.
        found: called for each record that is found.

    Attributes:
        path: of the file.

    Raises:
        DataError: a length is damaged, or leads out of the file.
    """

    def __init__(self, path: Path, found: Callable[[], None]) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._descriptor: int | None = None
        self._starts, self._lengths = self._find_records(found)

    def __len__(self) -> int:
        return len(self._starts)

    def _find_records(self, found: Callable[[], None]) -> tuple[np.ndarray, np.ndarray]:
        size, position = self.path.stat().st_size, 0
        starts: list[int] = []
        lengths: list[int] = []
        while position < size:
            where = f"{self.path}: record {len(starts)}, at byte {position:,},"
            head = self._read_at(position, min(_HEAD.size, size - position))
            if len(head) < _HEAD.size:
                raise DataError(f"{where} is cut short; {_REMEDY}")
            length, checksum = _HEAD.unpack(head)
            if masked_checksum(head[:8]) != checksum:
                wrong = "is damaged" if starts else "is no TFRecord"
                raise DataError(f"{where} {wrong}: the checksum of its length does not fit; {_REMEDY}")
            left = max(0, size - position - _HEAD.size - _TAIL.size)
            if length > left:
                raise DataError(
                    f"{where} is cut short: it is said to hold {amount(length)}, and {amount(left)} are left; {_REMEDY}"
                )
            if length > _RECORD_LIMIT:
                raise DataError(f"{where} is said to hold {amount(length)}, more than an image takes")
            starts.append(position + _HEAD.size)
            lengths.append(length)
            position += _HEAD.size + length + _TAIL.size
            found()
        return np.array(starts, np.int64), np.array(lengths, np.int64)

    def read(self, index: int) -> bytes:
        """A record's data.

        Raises:
            DamagedImageError: it is not what was written.
        """
        start, length = int(self._starts[index]), int(self._lengths[index])
        content = self._read_at(start, length + _TAIL.size)
        if len(content) < length + _TAIL.size:
            raise DamagedImageError(f"{self.where(index)} is cut short; {_REMEDY}")
        data = content[:length]
        if masked_checksum(data) != _TAIL.unpack_from(content, length)[0]:
            raise DamagedImageError(f"{self.where(index)} is damaged: its checksum does not fit; {_REMEDY}")
        return data

    def where(self, index: int) -> str:
        """A record, for messages."""
        return f"record {index} of {self.path}"

    def _read_at(self, position: int, size: int) -> bytes:
        with self._lock:
            if self._descriptor is None:
                self._descriptor = os.open(self.path, os.O_RDONLY)
        parts = []
        while size:
            part = os.pread(self._descriptor, size, position)
            if not part:
                break
            parts.append(part)
            position, size = position + len(part), size - len(part)
        return b"".join(parts)

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key not in ("_descriptor", "_lock")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _descriptor=None, _lock=threading.Lock())

    def __del__(self) -> None:
        if self.__dict__.get("_descriptor") is not None:
            os.close(self._descriptor)  # type: ignore[arg-type]
