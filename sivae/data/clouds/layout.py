"""Find the class and the part of each file from its folders, as in ShapeNet's and ModelNet's layouts."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from sivae.data.clouds.shapenet import SYNSETS

_PARTS = {"train": "train", "training": "train", "test": "test", "testing": "test", "val": "val", "valid": "val"}
_PART_OF_NAME = re.compile(r"(?:^|.*[-_.])(train|test|val)(?:[-_.].*)?$")
_SOME = 16  # folders with one file each: so many are not classes


class Place(NamedTuple):
    """What a file's folders say: its class, and its part ("train", "test", "val") or None."""

    class_name: str
    part: str | None


def places(names: Sequence[str], root: str) -> list[Place]:
    """The class and part of each file.

    A folder `train`, `test` or `val` at any depth is a part. A folder with a number of ShapeNet is a class. Else the
    first folder below those that all files share is the class, which is the layout of ModelNet.

    Args:
        names: with "/" between folders.
        root: the class of files in no folder.
    """
    if not names:
        return []
    folders: list[list[str]] = []
    parts: list[str | None] = []
    for name in names:
        above = name.split("/")[:-1]
        found = [_PARTS[folder.lower()] for folder in above if folder.lower() in _PARTS]
        parts.append(found[-1] if found else None)
        folders.append([folder for folder in above if folder.lower() not in _PARTS])
    shared = _shared(folders)
    below = [tuple(above[len(shared) : len(shared) + 1]) for above in folders]
    counts = Counter(below)
    if max(counts.values(), default=0) == 1 and len(counts) >= _SOME:  # a folder for each file, of one class
        below = [()] * len(names)
    top = shared[-1] if shared else root
    return [Place(_class_of(above, first, top), part) for above, first, part in zip(folders, below, parts, strict=True)]


def part_of_name(name: str) -> str | None:
    """The part that the name of a file with many clouds states, such as `train.npy` or `chairs_test.npz`."""
    match = _PART_OF_NAME.match(name.rpartition("/")[2].lower().rpartition(".")[0])
    return match[1] if match else None


def _shared(folders: list[list[str]]) -> list[str]:
    """The folders above all files."""
    first, last = min(folders), max(folders)
    count = 0
    while count < min(len(first), len(last)) and first[count] == last[count]:
        count += 1
    return first[:count]


def _class_of(above: Sequence[str], first: tuple[str, ...], top: str) -> str:
    synset = next((folder for folder in above if folder in SYNSETS), None)
    name = synset or (first[0] if first else top)
    return SYNSETS.get(name, name)
