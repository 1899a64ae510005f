"""What is there of a set that is being packed: which blocks of images, of which source, asked for how."""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sivae import files
from sivae.errors import DataError


@dataclass
class Entry:
    """What the journal knows of a block: the images' digests one after another, and (index, reason) of damaged ones."""

    digests: str
    damaged: list[tuple[int, str]] = field(default_factory=list)


class Journal:
    """A line of JSON for what was asked for, then one for each block whose pixels are on the disk."""

    def __init__(self, path: Path, head: dict[str, Any]) -> None:
        self._path = path
        self._head = json.loads(json.dumps(head))

    def open(self) -> dict[int, Entry]:
        """The blocks that are done. A journal without any, or none at all, begins anew.

        Raises:
            DataError: it is of another request.
        """
        head, done, whole = self._read()
        if done:
            refuse_other(self._path.parent, head.get("asked", {}), self._head["asked"])
        if not done or head != self._head:
            files.write_text(self._path, json.dumps(self._head) + "\n")
            return {}
        with self._path.open("r+b") as file:
            file.truncate(whole)  # a last line that was being written when the power failed
        return done

    def _read(self) -> tuple[dict[str, Any], dict[int, Entry], int]:
        head: dict[str, Any] = {}
        done: dict[int, Entry] = {}
        whole = 0
        with contextlib.suppress(FileNotFoundError), self._path.open("rb") as file:
            for line in file:
                try:
                    content = json.loads(line)
                    if not line.endswith(b"\n"):
                        break
                    if whole:
                        damaged = [(int(index), str(reason)) for index, reason in content["damaged"]]
                        done[int(content["block"])] = Entry(str(content["digests"]), damaged)
                    else:
                        head = dict(content)
                except (ValueError, KeyError, TypeError):
                    break
                whole += len(line)
        return head, done, whole

    def append(self, block: int, entry: Entry) -> None:
        """A block whose pixels are on the disk."""
        line = json.dumps({"block": block, "digests": entry.digests, "damaged": entry.damaged})
        with self._path.open("ab") as file:
            file.write(f"{line}\n".encode())
            file.flush()
            os.fsync(file.fileno())


def refuse_other(folder: Path, made: dict[str, Any], asked: dict[str, Any]) -> None:
    """Refuse to go on with what was made of another source or with other arguments.

    Raises:
        DataError: naming what differs.
    """
    words = {"source": "source", "resolution": "--resolution", "crop": "--crop", "channels": "--channels"}
    words |= {
        "levels": "choice of lower resolutions",
        "part": "--split",
        "count": "number of images",
        "fingerprint": "source's content",
    }
    for key, word in words.items():
        if made.get(key) != asked[key]:
            came = "" if key == "fingerprint" else f" ({made.get(key)} there, {asked[key]} now)"
            raise DataError(
                f"{folder} was prepared with another {word}{came}; choose another folder, or delete this one"
            )
