"""Unpack gzip, bzip2 and xz in pieces, and refuse what unpacks to more than :mod:`sivae.bounds` allows."""

from __future__ import annotations

import bz2
import io
import lzma
import zlib
from collections.abc import Callable
from typing import IO, Any

from sivae.bounds import ALWAYS_UNPACKED, UNPACKED_RATIO, XZ_MEMORY, unpacked_limit
from sivae.data.free_memory import amount, available_memory
from sivae.errors import DataError

_PIECE = 1 << 16  # bytes
_LONGEST_MARK = 6

# First bytes of a compressed file, and what unpacks it.
_KINDS: tuple[tuple[bytes, Callable[[], Any]], ...] = (
    (b"\x1f\x8b", lambda: zlib.decompressobj(wbits=31)),
    (b"BZh", bz2.BZ2Decompressor),
    (b"\xfd7zXZ\x00", lambda: lzma.LZMADecompressor(memlimit=XZ_MEMORY)),
    (b"\x5d\x00\x00", lambda: lzma.LZMADecompressor(memlimit=XZ_MEMORY)),
)


def is_compressed(head: bytes) -> bool:
    """Whether a file's first bytes are those of gzip, bzip2 or xz."""
    return any(head.startswith(mark) for mark, _ in _KINDS)


def fits_memory(size: int) -> bool:
    """Whether a file of this many bytes may be read into memory: small, or at most half of what is free."""
    return size <= ALWAYS_UNPACKED or size <= available_memory() // 2


class Unpacked:
    """The content of a compressed file, to be read once from beginning to end.

    Args:
        file: the compressed file, at its beginning.
        where: its name in error messages.
        most: bytes that it may unpack to; None: as many as the bounds and half of the free memory allow.
        make: makes the object that unpacks it; None: by the file's first bytes.
        remedy: what to do about a file that unpacks to more; "" where the caller says what to do about any error.

    Attributes:
        position: number of bytes that were read.
    """

    def __init__(
        self,
        file: IO[bytes],
        where: str,
        *,
        most: int | None = None,
        make: Callable[[], Any] | None = None,
        remedy: str,
    ) -> None:
        self.position = 0
        self._file, self._where, self._remedy = file, where, remedy
        self._most = available_memory() // 2 if most is None else most
        self._taken = self._made = 0
        self._input = self._output = b""
        self._decoder: Any = None if make is None else make()

    def read(self, size: int) -> bytes:
        """Read `size` bytes; fewer at the end.

        Raises:
            DataError: the file is damaged or cut short, or unpacks to too much.
        """
        content = io.BytesIO()  # hands its bytes over without a copy
        while size and (self._output or self._unpack()):
            part, self._output = self._output[:size], self._output[size:]
            content.write(part)
            size -= len(part)
            self.position += len(part)
        return content.getvalue()

    def skip(self, size: int) -> None:
        """Read `size` bytes and forget them. Raises as :meth:`read` does."""
        while size > 0 and (part := self.read(min(size, _PIECE))):
            size -= len(part)

    def _unpack(self) -> bool:
        """Unpack the next piece into `_output`; False at the end."""
        try:
            while not self._output:
                if (self._decoder is None or self._decoder.eof) and not self._begin():
                    return False
                if not self._input and getattr(self._decoder, "needs_input", True) and not self._take():
                    raise EOFError("it is cut short")
                self._output = self._decoder.decompress(self._input, _PIECE)
                self._input = getattr(self._decoder, "unconsumed_tail", b"")
        except (EOFError, OSError, ValueError, lzma.LZMAError, zlib.error) as error:
            raise DataError(f"{self._where} is damaged: {error}{self._remedy and '; fetch it again'}") from None
        self._made += len(self._output)
        if self._made > self._most:
            raise DataError(f"{self._where} holds more than {amount(self._most)}{self._remedy}")
        if self._made > unpacked_limit(self._taken):
            raise DataError(
                f"{self._where} unpacks to more than {UNPACKED_RATIO} times its size, as a file made to exhaust memory "
                f"does{self._remedy}"
            )
        return True

    def _begin(self) -> bool:
        """Begin with the file or, as some programs write several streams one after another, with its next stream."""
        if self._decoder is not None:
            self._input = self._decoder.unused_data.lstrip(b"\0")
        while len(self._input) < _LONGEST_MARK and self._take():
            self._input = self._input if self._decoder is None else self._input.lstrip(b"\0")
        make = next((make for mark, make in _KINDS if self._input.startswith(mark)), None)
        if make is None:
            return False
        self._decoder = make()
        return True

    def _take(self) -> bool:
        more = self._file.read(_PIECE)
        self._taken += len(more)
        self._input += more
        return bool(more)
