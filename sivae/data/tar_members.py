"""List the files of a tar by their headers, in one pass and within the bounds of :mod:`sivae.bounds`.

A tar is a sequence of blocks of 512 bytes. Each member has a header, and its content rounded up to whole blocks. Before
its header there may be others that hold a longer name or size (POSIX.1-2001, "pax Interchange Format"; GNU tar's types
L and K). Python's own reader follows a negative size backwards for ever, and its time grows with the square of a
header's length.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple, Protocol

from sivae.bounds import ARCHIVE_HEADER, MEMBERS, NAME_BYTES

BLOCK = 512
_REGULAR = (b"0", b"\0", b"7")
_WITHOUT_CONTENT = (b"1", b"2", b"3", b"4", b"5", b"6")  # links, devices, folders, pipes
_LINKS = (b"1", b"2")
_PAX, _LONG_NAME, _LONG_LINK, _GLOBAL, _SPARSE = (b"x", b"X"), b"L", b"K", b"g", b"S"
_EXTENDED = (*_PAX, _LONG_NAME, _LONG_LINK, _GLOBAL)
_RECORD = re.compile(rb"([0-9]{1,8}) ([^=\n]+)=")
_LARGEST = 1 << 62  # bytes


class Stream(Protocol):
    """Bytes that are read from beginning to end."""

    position: int

    def read(self, size: int) -> bytes: ...

    def skip(self, size: int) -> None: ...


class Member(NamedTuple):
    """A regular file in a tar.

    Attributes:
        name: its name with "/" between its parts.
        position: of its first byte in the tar.
        size: its bytes.
    """

    name: str
    position: int
    size: int


def is_header(block: bytes) -> bool:
    """Whether a block has the checksum of a header."""
    if len(block) < BLOCK:
        return False
    try:
        stated = _number(block[148:156])
    except ValueError:
        return False
    others = block[:148] + b" " * 8 + block[156:BLOCK]
    return stated in (sum(others), sum(others) - 256 * sum(byte > 127 for byte in others))  # some add signed bytes


def members(stream: Stream, lost: list[str]) -> Iterator[Member]:
    """List the regular files of a tar. After each, its content may be read from the stream.

    Args:
        stream: the tar, unpacked.
        lost: the names of links and sparse files, which are not read, are added here.

    Raises:
        ValueError: the tar is damaged or breaks a bound; the message says how and where.
    """
    name, size, is_sparse = b"", -1, False
    while True:
        start = stream.position
        block = stream.read(BLOCK)
        if not block.strip(b"\0"):
            return
        if not is_header(block):
            reason = "is no header" if len(block) == BLOCK else "is cut short"
            raise ValueError(f"its block at byte {start:,} {reason}")
        kind, stated = block[156:157], _number(block[124:136])
        if stated < 0 or stated > _LARGEST:
            raise ValueError(f"the file at byte {start:,} claims to hold {stated:,} bytes")
        if kind in _EXTENDED:
            content = _extended(stream, stated, start)
            if kind == _LONG_NAME:
                name = content.split(b"\0", 1)[0]
            elif kind in _PAX:
                records = _records(content, start)
                name = records.get(b"path", name)
                size = _size(records[b"size"], start) if b"size" in records else size
                is_sparse = any(key.startswith(b"GNU.sparse.") for key in records)
            continue
        if kind == _SPARSE:
            continues = block[482:483].strip(b"\0")
            while continues:
                continues = stream.read(BLOCK)[504:505].strip(b"\0")
        member = Member(_text(name or _own_name(block), start), stream.position, stated if size < 0 else size)
        content_size = 0 if kind in _WITHOUT_CONTENT else -(-member.size // BLOCK) * BLOCK
        if kind in _REGULAR and not is_sparse and not member.name.endswith("/"):
            yield member
        elif (kind in _LINKS or kind == _SPARSE or is_sparse) and len(lost) < MEMBERS:
            lost.append(member.name)
        stream.skip(member.position + content_size - stream.position)
        name, size, is_sparse = b"", -1, False


def _number(field: bytes) -> int:
    """A number in a header: octal digits, or binary after a first byte of 128 or 255."""
    if field[0] in (0x80, 0xFF):
        return int.from_bytes(field[1:], "big") - (256 ** (len(field) - 1) if field[0] == 0xFF else 0)
    return int(field.split(b"\0", 1)[0].strip() or b"0", 8)


def _extended(stream: Stream, size: int, start: int) -> bytes:
    if size > ARCHIVE_HEADER:
        raise ValueError(f"the header at byte {start:,} has {size:,} bytes, more than {ARCHIVE_HEADER:,}")
    content = stream.read(size)
    stream.skip(-size % BLOCK)
    return content


def _records(content: bytes, start: int) -> dict[bytes, bytes]:
    """The records of a pax header: their length, a space, key=value and a line feed."""
    records = {}
    position = 0
    while position < len(content):
        match = _RECORD.match(content, position)
        end = position + int(match[1]) if match else 0
        if match is None or not match.end() < end <= len(content):
            raise ValueError(f"the header at byte {start:,} is damaged")
        records[match[2]] = content[match.end() : end - 1]
        position = end
    return records


def _size(text: bytes, start: int) -> int:
    if re.fullmatch(rb"[0-9]{1,18}", text) is None:
        raise ValueError(f"the header at byte {start:,} has {text[:30].decode(errors='replace')!r} as a size")
    return int(text)


def _own_name(block: bytes) -> bytes:
    name, prefix = block[:100].split(b"\0", 1)[0], block[345:500].split(b"\0", 1)[0]
    return prefix + b"/" + name if prefix and block[257:263] == b"ustar\0" else name


def _text(name: bytes, start: int) -> str:
    if len(name) > NAME_BYTES:
        raise ValueError(f"the file at byte {start:,} has a name of {len(name):,} bytes, more than {NAME_BYTES:,}")
    return name.decode("utf-8", "surrogateescape")
