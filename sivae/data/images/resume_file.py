"""Progress file of an unfinished `sivae prepare`, so that it can resume.

Its first line is JSON for the request; each further line is JSON for a block of images whose pixels are on the disk.
"""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict

from sivae import files
from sivae.errors import DataError
from sivae.fields import converted, table
from sivae.json_files import parse

# Keys of a request, and their names in error messages.
_WORDS = {
    "source": "source",
    "resolution": "--resolution",
    "crop": "--crop",
    "channels": "--channels",
    "levels": "choice of lower resolutions",
    "part": "--split",
    "count": "number of images",
    "fingerprint": "source's content",
}


_LONGEST = 16 << 20  # bytes of a line


class _Head(TypedDict):
    asked: dict[str, Any]


class _Block(TypedDict):
    block: int
    digests: str
    damaged: list[list[Any]]


@dataclass
class BlockRecord:
    """A finished block.

    Attributes:
        digests: the digests of its images, one after another, in hexadecimal.
        damaged: number of each damaged image, and why it is damaged.
    """

    digests: str
    damaged: list[tuple[int, str]] = field(default_factory=list)


class ResumeFile:
    """The progress file.

    Args:
        path: path of the file.
        head: content of the first line; the user's request is under "asked".
    """

    def __init__(self, path: Path, head: dict[str, Any]) -> None:
        self._path = path
        self._head = json.loads(json.dumps(head))

    def open(self) -> dict[int, BlockRecord]:
        """Return the blocks that the file lists as finished. A missing or damaged file, or one without blocks, is begun
        anew; a damaged line loses its block alone.

        Raises:
            DataError: the file is of another request.
        """
        head, done, whole = self._read()
        if head is not None and done:
            check_same_request(self._path.parent, head["asked"], self._head["asked"])
        if not done or head != self._head:
            files.write_text(self._path, json.dumps(self._head) + "\n")
            return {}
        with self._path.open("r+b") as file:
            file.truncate(whole)  # the last line is cut short after a power failure
        return done

    def _read(self) -> tuple[_Head | None, dict[int, BlockRecord], int]:
        """The first line, the blocks, and the number of bytes in whole lines."""
        head: Any = None
        done: dict[int, BlockRecord] = {}
        whole = 0
        with contextlib.suppress(FileNotFoundError), self._path.open("rb") as file:
            for number, line in enumerate(iter(lambda: file.readline(_LONGEST), b"")):
                if line.endswith(b"\n"):
                    whole += len(line)
                    with contextlib.suppress(ValueError):
                        content = parse(line.decode())
                        if number == 0:
                            head = table(content, _Head)
                        else:
                            block = table(content, _Block)
                            damaged = [
                                (converted("index", index, int), converted("reason", reason, str))
                                for index, reason in block["damaged"]
                            ]
                            done[block["block"]] = BlockRecord(block["digests"], damaged)
        return head, done, whole

    def append(self, block: int, record: BlockRecord) -> None:
        """Add a block whose pixels are on the disk."""
        line = json.dumps({"block": block, "digests": record.digests, "damaged": record.damaged})
        with files.named(self._path), self._path.open("ab") as file:
            file.write(f"{line}\n".encode())
            file.flush()
            os.fsync(file.fileno())


def check_same_request(folder: Path, made: dict[str, Any], asked: dict[str, Any]) -> None:
    """Check that a folder was made from the same source with the same arguments.

    Raises:
        DataError: naming the difference.
    """
    for key, word in _WORDS.items():
        if made.get(key) != asked[key]:
            came = "" if key == "fingerprint" else f" ({made.get(key)} there, {asked[key]} now)"
            raise DataError(
                f"{folder} was prepared with another {word}{came}; choose another folder, or delete this one"
            )
