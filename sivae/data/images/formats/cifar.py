"""Read CIFAR-10 and CIFAR-100 as they were released, pickled for Python or binary."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial

import numpy as np

from sivae.data.images.base import Split
from sivae.data.images.formats.inert_pickle import byte_array, read_pickle
from sivae.data.images.formats.releases import Content, by_folder, found_arrays
from sivae.data.images.formats.table import Found
from sivae.data.stores import Store
from sivae.errors import DataError

_SIDE = 32
_LARGEST_LABEL = 0xFFFF
_PIXELS = 3 * _SIDE * _SIDE


def find(store: Store, only: str | None = None) -> list[Found]:
    """The releases in the folders of a store, by the names of their files."""
    found = []
    for folder, files in by_folder(store).items():
        for kind, images in _kinds(store, files):
            chosen = {part: [name for name in names if only in (None, name)] for part, names in images.items()}
            if any(chosen.values()):
                read: Callable[[list[str]], Content] = partial(_READERS[kind], store, files)
                found.append(found_arrays(f"{kind} in {store.path / folder}", store, chosen, read))
    return found


def _kinds(store: Store, files: dict[str, str]) -> list[tuple[str, dict[Split | None, list[str]]]]:
    """The releases in one folder, each with its image files by part."""

    def named(pattern: str) -> list[str]:
        return [name for own, name in files.items() if re.fullmatch(pattern, own)]

    kinds: list[tuple[str, dict[Split | None, list[str]]]] = [
        ("CIFAR-10 (python)", {"train": named(r"data_batch_\d"), "test": named("test_batch")}),
        ("CIFAR-10 (binary)", {"train": named(r"data_batch_\d\.bin"), "test": named(r"test_batch\.bin")}),
    ]
    if "meta" in files:
        kinds.append(("CIFAR-100 (python)", {"train": named("train"), "test": named("test")}))
    if "fine_label_names.txt" in files or _are_records(store, named(r"(train|test)\.bin")):
        kinds.append(("CIFAR-100 (binary)", {"train": named(r"train\.bin"), "test": named(r"test\.bin")}))
    return [(kind, images) for kind, images in kinds if any(images.values())]


def _are_records(store: Store, names: list[str]) -> bool:
    return all(store.sizes[name] % (_PIXELS + 2) == 0 for name in names)


def _read_python(store: Store, files: dict[str, str], names: list[str], *, meta: str, key: str, labels: str) -> Content:
    pixels, values = [], []
    for name in names:
        where = store.where(name)
        content = read_pickle(store.read(name), where)
        array = byte_array(content.get("data"), where)
        if array.ndim != 2 or array.shape[1] != _PIXELS:
            raise DataError(f"{where} holds an array of shape {list(array.shape)}; expected [N, {_PIXELS}]")
        given = content.get(labels)
        if not isinstance(given, list) or len(given) != len(array) or not all(type(one) is int for one in given):
            raise DataError(f"{where}: its {labels} are not {len(array):,} whole numbers, one for each image")
        if not all(0 <= one <= _LARGEST_LABEL for one in given):
            raise DataError(f"{where}: its {labels} are not all from 0 to {_LARGEST_LABEL}; fetch it again")
        pixels.append(array)
        values += given
    class_names = None
    if meta in files:
        listed = read_pickle(store.read(files[meta]), store.where(files[meta])).get(key)
        if isinstance(listed, list):
            class_names = _text(listed, store.where(files[meta]))
    return _content(pixels, np.array(values, np.int64), class_names, names, store)


def _text(names: list[object], where: str) -> tuple[str, ...]:
    if not all(isinstance(name, str | bytes) for name in names):
        raise DataError(f"{where}: its names of classes are not all text; fetch it again")
    return tuple(name.decode(errors="replace") if isinstance(name, bytes) else str(name) for name in names)


def _read_binary(store: Store, files: dict[str, str], names: list[str], *, meta: str, label_bytes: int) -> Content:
    size = label_bytes + _PIXELS
    pixels, labels = [], []
    for name in names:
        content = store.read(name)
        if not content or len(content) % size:
            raise DataError(
                f"{store.where(name)} has {len(content):,} bytes; expected a multiple of {size:,}, as a record is "
                f"{label_bytes} of label and {_PIXELS:,} of pixels: it is cut short, or another file"
            )
        records = np.frombuffer(content, np.uint8).reshape(-1, size)
        labels.append(records[:, label_bytes - 1])  # in CIFAR-100 the coarse label comes before the fine one
        pixels.append(records[:, label_bytes:])
    class_names = None
    if meta in files:
        lines = store.read(files[meta]).decode(errors="replace").split("\n")
        class_names = tuple(line.strip() for line in lines if line.strip())
    return _content(pixels, np.concatenate(labels).astype(np.int64), class_names, names, store)


def _content(
    pixels: list[np.ndarray], labels: np.ndarray, names: tuple[str, ...] | None, files: list[str], store: Store
) -> Content:
    rows = np.concatenate(pixels).reshape(-1, 3, _SIDE, _SIDE)  # red, green, blue planes
    low, high = int(labels.min(initial=0)), int(labels.max(initial=0))
    known = 100 if names is None else len(names)
    if low < 0 or high >= known:
        raise DataError(
            f"{', '.join(store.where(name) for name in files)}: labels span {low} to {high}, where there are "
            f"{known} classes; it is damaged, or another file"
        )
    names = names or tuple(str(label) for label in range(high + 1))
    return np.ascontiguousarray(rows.transpose(0, 2, 3, 1)), labels, names


_READERS: dict[str, Callable[..., Content]] = {
    "CIFAR-10 (python)": partial(_read_python, meta="batches.meta", key="label_names", labels="labels"),
    "CIFAR-10 (binary)": partial(_read_binary, meta="batches.meta.txt", label_bytes=1),
    "CIFAR-100 (python)": partial(_read_python, meta="meta", key="fine_label_names", labels="fine_labels"),
    "CIFAR-100 (binary)": partial(_read_binary, meta="fine_label_names.txt", label_bytes=2),
}
