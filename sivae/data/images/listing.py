"""List the image files of a store, by suffix or first bytes, and count the other files by kind."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

from sivae.data.images.kinds import RAW_SUFFIXES, SUFFIXES_OF, kind_of, readable_kinds, readable_suffixes
from sivae.data.stores import Store
from sivae.errors import DataError

# After so many files of one suffix that are all images, or none, the rest of the suffix are taken to be alike, because
# opening a million files takes minutes.
_LOOKED_AT = 1000

_SHOWN = 8  # kinds in a line

_SUFFIX = re.compile(r"\.[a-z0-9]*[a-z][a-z0-9]*$")  # without a letter it is a number, as in photo.0001

# Files that belong to a set and hold no image.
_SIDE_NAME = re.compile(
    r"(licen[cs]e|copying|readme|metadata|dataset|labels?|class(es|_names)?|(check|md5|sha1|sha256)sums?|thumbs|desktop)"
    r"([-_.][a-z0-9_.-]*)?"
)
_SIDE_SUFFIXES = (".json", ".cls", ".txt", ".caption", ".xml")  # of a file with the name of an image beside it

FileKind = Literal["image", "unreadable image", "no image", "unreadable file"]

REASONS: dict[FileKind, str] = {
    "unreadable image": "is an image of a kind that Pillow cannot read here",
    "unreadable file": "cannot be opened",
    "no image": "is no image",
}


@dataclass(frozen=True)
class Listing:
    """The files of a store.

    Attributes:
        images: names of the image files, in the order of the store.
        others: what each other file is, by name. Files that belong to the images, such as a license, are not among
            them.
        lost: names that lead to no file, such as broken links.
    """

    images: list[str]
    others: dict[str, FileKind] = field(default_factory=dict)
    lost: tuple[str, ...] = ()

    def left_out(self) -> str:
        """Count what is left out by suffix, images first; empty where nothing is left out.

        For example "left out: 3 .heic (images that Pillow cannot read here), 2 .txt".
        """
        counts: Counter[tuple[FileKind, str]] = Counter((found, suffix(name)) for name, found in self.others.items())
        words = {"unreadable image": " (images that Pillow cannot read here)", "unreadable file": " (cannot be opened)"}
        ranked = sorted(counts, key=lambda key: (list(REASONS).index(key[0]), -counts[key], key[1]))
        parts = [
            f"{counts[found, ending]:,} {ending or 'without a suffix'}{words.get(found, '')}"
            for found, ending in ranked[:_SHOWN]
        ]
        if len(ranked) > _SHOWN:
            parts.append(f"{sum(counts[key] for key in ranked[_SHOWN:]):,} of other kinds")
        if self.lost:
            parts.append(f"{len(self.lost):,} that cannot be reached (such as {self.lost[0]})")
        return f"left out: {', '.join(parts)}" if parts else ""


def suffix(name: str) -> str:
    """The suffix of a file's name in lower case, ".jpg"; empty where it has none."""
    match = _SUFFIX.search(name.rpartition("/")[2].lower())
    return match[0] if match else ""


def list_images(store: Store) -> Listing:
    """List the image files of a store.

    A file with the suffix of a readable kind is an image; of others the first bytes decide.
    """
    known = readable_suffixes()
    names = {name for name in store.sizes if name.lower().endswith(known)}
    others: dict[str, FileKind] = {}
    if len(names) < len(store.sizes):
        seen: dict[str, Counter[FileKind]] = {}
        for name in store.sizes:
            if name in names:
                continue
            before = seen.setdefault(suffix(name), Counter())
            if len(before) == 1 and before.total() >= _LOOKED_AT:
                (found,) = before
            else:
                found = look(store, name)
                before[found] += 1
            if found == "image":
                names.add(name)
            else:
                others[name] = found
        others = _without_side_files(others, names)
    return Listing([name for name in store.sizes if name in names], others, store.lost)


def look(store: Store, name: str) -> FileKind:
    """What a file is, by its suffix or else its first bytes."""
    ending = suffix(name)
    if ending in RAW_SUFFIXES:
        return "unreadable image"
    if ending in readable_suffixes():
        return "image"
    try:
        kind = kind_of(store.head(name))
    except DataError:
        return "unreadable file"
    if kind in readable_kinds():
        return "image"
    is_image = kind is not None or any(ending in suffixes for suffixes in SUFFIXES_OF.values())
    return "unreadable image" if is_image else "no image"


def _without_side_files(others: dict[str, FileKind], images: set[str]) -> dict[str, FileKind]:
    stems: set[str] | None = None
    kept = {}
    for name, found in others.items():
        own = name.rpartition("/")[2].lower()
        if found == "no image":
            if _SIDE_NAME.fullmatch(own):
                continue
            if own.endswith(_SIDE_SUFFIXES):
                stems = {_stem(image) for image in images} if stems is None else stems
                if _stem(name) in stems or name.rpartition(".")[0] in images:
                    continue
        kept[name] = found
    return kept


def _stem(name: str) -> str:
    return name.rpartition(".")[0] or name
