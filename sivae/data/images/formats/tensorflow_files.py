"""Read TensorFlow's files of records, and the images in TensorFlow's `Example` messages.

A record is its length (8 bytes, little endian), a checksum of the length, its data, and a checksum of the data. A
checksum is CRC-32C, rotated and with a constant added, so that checksums of data that contains checksums are not
trivial. (The format is defined by TensorFlow's `tensorflow/core/lib/io/record_writer.h`.)

An Example of an image holds `shape`, three whole numbers [C, H, W], and `data`, the bytes of the pixels.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sivae.data.free_memory import amount
from sivae.data.stores import SharedFile
from sivae.errors import DamagedImageError, DataError
from sivae.progress import counting

_HEAD = struct.Struct("<QI")  # length, its checksum
_TAIL = struct.Struct("<I")  # checksum of the data
_RECORD_LIMIT = 2 << 30  # bytes of one record
_REMEDY = "fetch the file again"


def masked_checksum(content: bytes) -> int:
    """CRC-32C as these files store it.

    Raises:
        DataError: google-crc32c is not installed.
    """
    try:
        import google_crc32c
    except ImportError:
        raise DataError("files of records need google-crc32c for their checksums: pip install google-crc32c") from None
    checksum = google_crc32c.value(content)
    return ((checksum >> 15 | checksum << 17) + 0xA282EAD8) & 0xFFFFFFFF


def open_records(paths: Sequence[Path]) -> list[RecordFile]:
    """Open one or more files of records, and show progress if it takes long.

    Raises:
        DataError: see :class:`RecordFile`.
    """
    size = sum(path.stat().st_size for path in paths)
    with paths[0].open("rb") as file:
        head = file.read(_HEAD.size)
    each = _HEAD.unpack(head)[0] + _HEAD.size + _TAIL.size if len(head) == _HEAD.size else size or 1
    with counting(f"finding the records of {paths[0].name}", size // each) as counter:
        return [RecordFile(path, counter.advance) for path in paths]


class RecordFile:
    """The records of one file. Opening it reads their lengths, not their data; threads and processes may share it.

    Args:
        path: path of the file.
        found: called for each record that is found.

    Raises:
        DataError: a length is damaged, or larger than the rest of the file.
    """

    def __init__(self, path: Path, found: Callable[[], None]) -> None:
        self.path = path
        self._file = SharedFile(path)
        self._starts, self._lengths = self._find_records(found)

    def __len__(self) -> int:
        return len(self._starts)

    def _find_records(self, found: Callable[[], None]) -> tuple[np.ndarray, np.ndarray]:
        size, position = self.path.stat().st_size, 0
        starts: list[int] = []
        lengths: list[int] = []
        while position < size:
            where = f"{self.path}: record {len(starts)}, at byte {position:,},"
            head = self._file.read_at(position, _HEAD.size)
            if len(head) < _HEAD.size:
                raise DataError(f"{where} is cut short; {_REMEDY}")
            length, checksum = _HEAD.unpack(head)
            if masked_checksum(head[:8]) != checksum:
                wrong = "is damaged" if starts else "is no TFRecord"
                raise DataError(f"{where} {wrong}: the checksum of its length does not fit; {_REMEDY}")
            left = max(0, size - position - _HEAD.size - _TAIL.size)
            if length > left:
                raise DataError(
                    f"{where} is cut short: it claims to hold {amount(length)}, and {amount(left)} are left; {_REMEDY}"
                )
            if length > _RECORD_LIMIT:
                raise DataError(f"{where} claims to hold {amount(length)}, more than an image takes")
            starts.append(position + _HEAD.size)
            lengths.append(length)
            position += _HEAD.size + length + _TAIL.size
            found()
        return np.array(starts, np.int64), np.array(lengths, np.int64)

    def read(self, index: int) -> bytes:
        """A record's data.

        Raises:
            DamagedImageError: the data do not fit their checksum.
        """
        start, length = int(self._starts[index]), int(self._lengths[index])
        content = self._file.read_at(start, length + _TAIL.size)
        if len(content) < length + _TAIL.size:
            raise DamagedImageError(f"{self.where(index)} is cut short; {_REMEDY}")
        data = content[:length]
        if masked_checksum(data) != _TAIL.unpack_from(content, length)[0]:
            raise DamagedImageError(f"{self.where(index)} is damaged: its checksum does not fit; {_REMEDY}")
        return data

    def where(self, index: int) -> str:
        """A record, for error messages."""
        return f"record {index} of {self.path}"


# From `tensorflow/core/example/{example,feature}.proto`, without lists of floats. A map is encoded as repeated pairs,
# and written so here.
_SCHEMA = """
name: "sivae/example.proto" package: "sivae" syntax: "proto3"
message_type { name: "Example"
  field { name: "features" number: 1 label: LABEL_OPTIONAL type: TYPE_MESSAGE type_name: ".sivae.Features" } }
message_type { name: "Features"
  field { name: "feature" number: 1 label: LABEL_REPEATED type: TYPE_MESSAGE type_name: ".sivae.Entry" } }
message_type { name: "Entry"
  field { name: "key" number: 1 label: LABEL_OPTIONAL type: TYPE_STRING }
  field { name: "value" number: 2 label: LABEL_OPTIONAL type: TYPE_MESSAGE type_name: ".sivae.Feature" } }
message_type { name: "Feature"
  field { name: "bytes_list" number: 1 label: LABEL_OPTIONAL type: TYPE_MESSAGE type_name: ".sivae.BytesList" }
  field { name: "int64_list" number: 3 label: LABEL_OPTIONAL type: TYPE_MESSAGE type_name: ".sivae.Int64List" } }
message_type { name: "BytesList" field { name: "value" number: 1 label: LABEL_REPEATED type: TYPE_BYTES } }
message_type { name: "Int64List" field { name: "value" number: 1 label: LABEL_REPEATED type: TYPE_INT64 } }
"""


def image_of(message: bytes, where: str) -> np.ndarray:
    """Read the image of an encoded Example.

    Args:
        message: the Example's bytes.
        where: name of the image in error messages.

    Returns:
        uint8 ``[C, H, W]`` with C = 1 or 3, for reading only.

    Raises:
        DamagedImageError: the message is no Example of an image.
    """
    from google.protobuf.message import DecodeError

    example = _example_class()()
    try:
        example.ParseFromString(message)
        features = {entry.key: entry.value for entry in example.features.feature}
    except (DecodeError, UnicodeDecodeError, MemoryError, RecursionError) as error:
        raise DamagedImageError(f"{where} is no Example of TensorFlow's, or damaged: {error}") from None
    if "shape" not in features or "data" not in features:
        have = ", ".join(sorted(map(ascii, features))[:8]) or "nothing"
        raise DamagedImageError(f"{where} holds {have}; expected 'shape' and 'data'")
    shape = list(features["shape"].int64_list.value)
    if len(shape) != 3 or shape[0] not in (1, 3) or min(shape) < 1:
        raise DamagedImageError(f"{where} has the shape {shape[:8]}; expected [1 or 3, height, width]")
    data = features["data"].bytes_list.value
    if len(data) != 1 or len(data[0]) != shape[0] * shape[1] * shape[2]:
        have = " and ".join(f"{len(part):,}" for part in data[:3]) or "no"
        raise DamagedImageError(
            f"{where} holds {have} bytes of pixels, where an image of shape {shape} has "
            f"{shape[0] * shape[1] * shape[2]:,}; only uint8 pixels are read"
        )
    return np.frombuffer(data[0], np.uint8).reshape(shape)


@functools.cache
def _example_class() -> Any:
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

    pool = descriptor_pool.DescriptorPool()  # not the default pool, where TensorFlow may have registered its Example
    pool.Add(text_format.Parse(_SCHEMA, descriptor_pb2.FileDescriptorProto()))
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("sivae.Example"))
