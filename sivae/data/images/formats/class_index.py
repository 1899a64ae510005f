"""Read the classes of image files where a set states them itself.

* `dataset.json` of StyleGAN and EDM: {"labels": [[file, class], …]}, or null for no classes. A class is a number, or a
  list of numbers that is one-hot.
* `metadata.jsonl` or `metadata.csv` of Hugging Face: a row for each file, with `file_name` and a column of classes.
* `NAME.cls` or `NAME.json` beside `NAME.png`, as in WebDataset.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sivae.data.free_memory import amount
from sivae.data.stores import Store
from sivae.errors import DataError
from sivae.words import plural

CLASS_KEYS = ("label", "labels", "class", "cls", "fine_label")
_STYLEGAN, _METADATA = "dataset.json", ("metadata.jsonl", "metadata.csv")
_SIZE_LIMIT = 256 << 20  # bytes of an index; the labels of ImageNet take 50 MB
_BESIDE_LIMIT = 1 << 20  # bytes of a file beside an image
_MOST_CLASSES = 1 << 16
_MOST_COLUMNS = 1000


@dataclass(frozen=True)
class ClassIndex:
    """The classes that a set states.

    Attributes:
        source: the files that state them, for people.
        labels: the class of each image, int64 ``[N]``; None where there are none.
        class_names: by label; None without labels.
        reason: why there are none.
    """

    source: str
    labels: np.ndarray | None = None
    class_names: tuple[str, ...] | None = None
    reason: str = ""

    def __str__(self) -> str:
        if self.class_names is None:
            return f"labels: none, as {self.source} {self.reason}"
        return f"labels: {self.source}, {plural(len(self.class_names), 'class')}"


def read_index(store: Store, images: Sequence[str]) -> ClassIndex | None:
    """Read the classes that a set states for its images; None where it states nothing about classes.

    Args:
        store: the files.
        images: names of the image files.

    Raises:
        DataError: a file that states them is damaged.
    """
    for read in (_stylegan, _metadata, _beside):
        found = read(store, images)
        if found is not None:
            source, classes = found
            return _index(source, classes, images)
    return None


# The class of each image by name; None: the set states that there are none.
_Stated = tuple[str, dict[str, Any] | None]


def _stylegan(store: Store, images: Sequence[str]) -> _Stated | None:
    states, classes = False, dict[str, Any]()
    for name, folder in _named(store, (_STYLEGAN,)):
        content = _parsed(store, name, _text(store, name))
        rows = content.get("labels", ()) if isinstance(content, dict) else ()
        if rows is None:
            states = True
        elif isinstance(rows, list):  # other tools keep other things under this name
            states = True
            for row in rows:
                if not (isinstance(row, list) and len(row) == 2 and isinstance(row[0], str)):
                    raise DataError(
                        f"{store.where(name)}: labels has {_short(row)}; expected pairs of a file's name and its "
                        "class; mend the file, or remove it to go without its classes"
                    )
                classes[_joined(folder, row[0])] = row[1]
    return (_STYLEGAN, classes or None) if states else None


def _metadata(store: Store, images: Sequence[str]) -> _Stated | None:
    classes: dict[str, Any] = {}
    source = ""
    for name, folder in _named(store, _METADATA):
        for row in _rows(store, name):
            key = next((key for key in CLASS_KEYS if row.get(key) is not None), None)
            if key is not None and isinstance(row.get("file_name"), str):
                source = f"{key} in {name.rpartition('/')[2]}"
                classes[_joined(folder, row["file_name"])] = row[key]
    return (source, classes) if classes else None


def _rows(store: Store, name: str) -> Iterator[dict[str, Any]]:
    text = _text(store, name)
    if name.endswith(".csv"):
        try:
            rows = csv.DictReader(io.StringIO(text))
            if len(rows.fieldnames or ()) > _MOST_COLUMNS:  # each row takes time for all of them
                raise csv.Error(f"it has more than {_MOST_COLUMNS:,} columns")
            yield from rows
        except csv.Error as error:
            raise DataError(f"{store.where(name)} is no table of CSV: {error}; mend it, or remove it") from None
        return
    for line in io.StringIO(text, newline=None):  # JSON has other line ends within its words
        if line.strip():
            row = _parsed(store, name, line)
            if isinstance(row, dict):
                yield row


def _beside(store: Store, images: Sequence[str]) -> _Stated | None:
    readers: dict[str, Callable[[str], Any]] = {
        ".cls": lambda name: _text(store, name, _BESIDE_LIMIT).strip(),
        ".json": lambda name: _class_in(_parsed(store, name, _text(store, name, _BESIDE_LIMIT))),
    }
    for ending, read in readers.items():
        classes: dict[str, Any] = {}
        for image in images:
            beside = next((key + ending for key in _keys(image) if key + ending in store.sizes), None)
            value = None if beside is None else read(beside)
            if value is not None:
                classes[image] = value
            elif beside is not None and not classes:
                break  # the first such file has no class, so the others are taken to have none either
        if classes:
            return f"{ending} beside the images", classes
    return None


def _keys(image: str) -> tuple[str, str]:
    """The name of an image without its suffix, and, as in WebDataset, up to the first point."""
    folder, slash, own = image.rpartition("/")
    return image.rpartition(".")[0] or image, folder + slash + own.partition(".")[0]


def _class_in(content: Any) -> Any:
    return next((content[key] for key in CLASS_KEYS if key in content), None) if isinstance(content, dict) else None


def _index(source: str, classes: dict[str, Any] | None, images: Sequence[str]) -> ClassIndex:
    if classes is None:
        return ClassIndex(source, reason="states none")
    without = [image for image in images if image not in classes]
    if without:
        return ClassIndex(
            source, reason=f"has none for {len(without):,} of {len(images):,} images, such as {without[0]}"
        )
    values: list[int | str] = []
    for image in images:
        value = _value(classes[image])
        if value is None:
            reason = f"has {_short(classes[image])} for {image}, where one class is expected"
            return ClassIndex(source, reason=reason)
        values.append(value)
    if all(isinstance(value, int) or value.isdecimal() for value in values):
        numbers = [int(value) for value in values if len(str(value)) < 20]
        if len(numbers) < len(values) or max(numbers) >= _MOST_CLASSES:
            return ClassIndex(source, reason=f"has class numbers of {_MOST_CLASSES:,} and more")
        return ClassIndex(source, np.array(numbers, np.int64), tuple(map(str, range(max(numbers) + 1))))
    names = tuple(sorted({str(value) for value in values}))
    if len(names) > _MOST_CLASSES:
        return ClassIndex(source, reason=f"has more than {_MOST_CLASSES:,} classes")
    number = {name: label for label, name in enumerate(names)}
    return ClassIndex(source, np.array([number[str(value)] for value in values], np.int64), names)


def _value(stated: Any) -> int | str | None:
    """A class as a number from 0 or a name; None where it is no single class."""
    if isinstance(stated, list) and all(isinstance(one, int | float) for one in stated):
        hot = [index for index, one in enumerate(stated) if one == 1]
        return hot[0] if len(hot) == 1 and sum(one != 0 for one in stated) == 1 else None
    if isinstance(stated, str):
        return stated.strip() or None
    return stated if isinstance(stated, int) and not isinstance(stated, bool) and stated >= 0 else None


def _named(store: Store, names: Iterable[str]) -> list[tuple[str, str]]:
    """The files of these names in any folder, each with its folder."""
    wanted = set(names)
    parts = ((name, *name.rpartition("/")) for name in store.sizes)
    return [(name, folder) for name, folder, _, own in parts if own in wanted]


def _joined(folder: str, name: str) -> str:
    """The name in the store of a file that is named relative to a folder."""
    own = "/".join(part for part in name.replace("\\", "/").split("/") if part not in ("", "."))
    return f"{folder}/{own}" if folder else own


def _text(store: Store, name: str, limit: int = _SIZE_LIMIT) -> str:
    if store.sizes[name] > limit:
        raise DataError(
            f"{store.where(name)} takes {amount(store.sizes[name])}, where classes take at most {amount(limit)}; "
            "remove it to go without its classes"
        )
    try:
        return store.read(name).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{store.where(name)} is no text of UTF-8 ({error}); mend it, or remove it") from None


def _parsed(store: Store, name: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{store.where(name)} is no JSON ({error}); mend it, or remove it") from None


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
