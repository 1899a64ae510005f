"""Sets of point clouds in files: `.ply`, `.off`, `.npy` and `.npz` in a folder, a zip or a tar."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sivae.bounds import ARRAY_HEADER, CLOUD_ITEMS, CLOUDS
from sivae.data.clouds.base import CloudSet, Normalize, Part, Shape
from sivae.data.clouds.formats.off import read_off
from sivae.data.clouds.formats.ply import read_ply
from sivae.data.clouds.layout import part_of_name, places
from sivae.data.clouds.shapenet import SYNSETS
from sivae.data.notice import Notice
from sivae.data.npy import Arrays, map_array, read_array, read_header
from sivae.data.stores import TAR_SUFFIXES, FolderStore, Store, fingerprint
from sivae.errors import DataError, NoSuchSplitError, reason_of
from sivae.progress import PATIENCE_SECONDS, Progress
from sivae.words import listed, plural

_SURFACES = {".ply": read_ply, ".off": read_off}
_ARRAYS = (".npy", ".npz")
SUFFIXES = (*_SURFACES, *_ARRAYS)
_MOST_COLUMNS = 16  # of a point: its place, and its normal, colour or the like
_LABELS = "-labels.npy"  # the end of the name of a file beside NAME.npy
_WHOLE = ("points", "clouds", "point_clouds", "pointcloud", "pos", "xyz", "pc", "data", "x", "X", "arr_0")
_NAMED = 3  # files, or a part of them, in a notice
_TEST_OF = 10  # one shape in so many, where there are no parts


@dataclass(frozen=True)
class _Entry:
    """One shape of a set: a file, or a row of an array in a file.

    Attributes:
        name: of the file.
        key: of the array in an `.npz`.
        row: of an array of several clouds; None: the file is one shape.
        class_name, part: as :class:`sivae.data.clouds.layout.Place`.
    """

    name: str
    key: str
    row: int | None
    class_name: str
    part: str | None


class StoredClouds(CloudSet):
    """Point clouds and surfaces in files. All are read once when the set is opened, so that damage is found then.

    Args:
        store: the files.
        only: name of the only file to read; None: all.
        part, classes, points, normalize: as for :func:`sivae.data.clouds.open_clouds`.
        show: show progress.
        notice: called with a line about shapes that are in neither part, about the parts of a set that states none, or
            about clouds that have too few points.

    Raises:
        DataError: there are none, one is damaged or breaks a bound, or there is no such class.
        NoSuchSplitError: there is no such part.
    """

    def __init__(
        self,
        store: Store,
        only: str | None,
        *,
        part: Part,
        classes: Sequence[str] | None,
        points: int,
        normalize: Normalize,
        show: bool,
        notice: Notice,
    ) -> None:
        self._store, self._part = store, part
        self._array: tuple[tuple[str, str], NDArray[np.generic]] | None = None  # the one that was read last
        where = str(store.path if only is None else store.path / only)
        entries = self._entries(only, where)
        known = sorted({one.class_name for one in entries}, key=_by_number)  # of all parts, so that labels agree
        if classes is not None:
            known = _named_classes(classes, known, where)
            entries = [one for one in entries if one.class_name in known]
        entries = _chosen(entries, part, where, notice)
        self._entries_of_part = sorted(entries, key=lambda one: known.index(one.class_name))  # stable: by class, name
        names = [one.name + (f"[{one.row}]" if one.row is not None else "") for one in self._entries_of_part]
        labels = np.array([known.index(one.class_name) for one in self._entries_of_part], np.int64)
        super().__init__(Path(where).name, names, labels, tuple(known), points=points, normalize=normalize)
        self._check(show, notice)

    @property
    def fingerprint(self) -> str:
        return fingerprint(self._store, sorted({one.name for one in self._entries_of_part})) + self._part

    def where(self, index: int) -> str:
        one = self._entries_of_part[index]
        return self._store.where(one.name) + (f", row {one.row}" if one.row is not None else "")

    def shape(self, index: int) -> Shape:
        one = self._entries_of_part[index]
        read = _SURFACES.get(_suffix(one.name))
        try:
            if read is not None:
                return read(self._store.read(one.name))
            array = self._array_of(one.name, one.key)
            return _points_of(array if one.row is None else array[one.row])
        except ValueError as error:
            if isinstance(error, DataError):
                raise
            raise DataError(
                f"{self._store.where(one.name)} is damaged: {reason_of(error)}; fetch it again, or remove it"
            ) from None

    def _check(self, show: bool, notice: Notice) -> None:
        damaged: list[DataError] = []
        few = 0
        with Progress(
            f"reading {self.name}", len(self), unit="shapes/s", patience=PATIENCE_SECONDS, enabled=show
        ) as progress:
            for index in range(len(self)):
                try:
                    ready = self.prepared(index)
                    few += ready.areas is None and len(ready.values) < self.points
                except DataError as error:
                    damaged.append(error)
                progress.advance()
        self._array = None
        if len(damaged) > 1:
            raise DataError(f"{damaged[0]} ({len(damaged):,} of {len(self):,} shapes cannot be used)")
        if damaged:
            raise damaged[0]
        if few:
            notice(
                f"{self.name}: {few:,} of {plural(len(self), 'cloud')} have fewer than {self.points:,} points; random "
                "ones of them are repeated"
            )

    def _entries(self, only: str | None, where: str) -> list[_Entry]:
        names = [name for name in self._store.sizes if _suffix(name) in SUFFIXES] if only is None else [only]
        names = [name for name in names if not name.lower().endswith(_LABELS) or name == only]
        entries: list[_Entry] = []
        for name, place in zip(names, places(names, _title(where)), strict=True):
            one = _Entry(name, "", None, place.class_name, place.part)
            entries += [one] if _suffix(name) in _SURFACES else self._rows(one)
            if len(entries) > CLOUDS:
                raise DataError(f"{where} holds more than {CLOUDS:,} shapes; divide it into several sets")
        if not entries:
            others = ", ".join(list(self._store.sizes)[:3]) or "no files"
            raise DataError(
                f"{where} holds {others}, and no point clouds; expected files {', '.join(SUFFIXES)} in a folder, a zip "
                "or a tar; convert other kinds to .ply"
            )
        return entries

    def _rows(self, one: _Entry) -> Iterator[_Entry]:
        """The clouds of a file of arrays."""
        try:
            found = self._npz(one) if _suffix(one.name) == ".npz" else self._npy(one)
            for entry, shape, labels in found:
                _check_shape(shape)
                if len(shape) == 2:
                    yield entry
                    continue
                if shape[0] > CLOUDS:
                    raise ValueError(f"it holds {shape[0]:,} clouds, more than {CLOUDS:,}")
                if labels is not None and (labels.size != shape[0] or labels.dtype.kind not in "iu"):
                    raise ValueError(
                        f"its labels are {labels.dtype} of shape {list(labels.shape)} beside {shape[0]:,} clouds"
                    )
                classes = None if labels is None else [str(label) for label in labels.reshape(-1).tolist()]
                part = entry.part or part_of_name(one.name)
                for row in range(shape[0]):
                    class_name = one.class_name if classes is None else classes[row]
                    yield replace(entry, row=row, class_name=class_name, part=part)
        except ValueError as error:
            if isinstance(error, DataError):
                raise
            raise DataError(
                f"{self._store.where(one.name)} holds no point clouds: {reason_of(error)}; expected numbers "
                "[points, 3] or [clouds, points, 3]"
            ) from None

    def _npy(self, one: _Entry) -> Iterator[tuple[_Entry, tuple[int, ...], NDArray[np.generic] | None]]:
        header = read_header(self._store.head(one.name, ARRAY_HEADER), self._store.sizes[one.name])
        beside = one.name[: -len(".npy")] + _LABELS
        labels = read_array(self._store.read(beside)) if beside in self._store.sizes else None
        yield one, header.shape, labels

    def _npz(self, one: _Entry) -> Iterator[tuple[_Entry, tuple[int, ...], NDArray[np.generic] | None]]:
        arrays = self._open_npz(one.name)
        by_part = {
            part: next((key for key in _keys(part, ("", *_WHOLE)) if key in arrays), None)
            for part in ("train", "test", "val")
        }
        found = [(part, key) for part, key in by_part.items() if key is not None]
        if not found or found[0][0] == "val":  # alone it is no part
            key = next((key for key in _WHOLE if key in arrays), next(iter(arrays)) if len(arrays) == 1 else None)
            if key is None:
                raise ValueError(f"it has the arrays {', '.join(list(arrays)[:8]) or 'none'}, and none named points")
            found = [("", key)]
        for part, key in found:
            names = ("labels", "label", "y", "classes")
            stated = next((own for own in (_keys(part, names) if part else names) if own in arrays), None)
            labels = None if stated is None else arrays[stated]
            yield replace(one, key=key, part=part or one.part), self._array_of(one.name, key).shape, labels

    def _open_npz(self, name: str) -> Arrays:
        if isinstance(self._store, FolderStore):
            return Arrays(self._store.path / name)
        return Arrays(Path(self._store.where(name)), self._store.read(name))

    def _array_of(self, name: str, key: str) -> NDArray[np.generic]:
        last = self._array
        if last is not None and last[0] == (name, key):
            return last[1]
        if key:
            array = self._open_npz(name)[key]
        elif isinstance(self._store, FolderStore):
            array = map_array(self._store.path / name)
        else:
            array = read_array(self._store.read(name))
        self._array = (name, key), array
        return array


def _by_number(class_name: str) -> tuple[bool, int, str]:
    """The order of classes: numbers first."""
    is_number = class_name.isdecimal() and len(class_name) < 20
    return not is_number, int(class_name) if is_number else 0, class_name


def _title(where: str) -> str:
    """The name of a folder or a file without the ending that tells its kind."""
    name = Path(where).name
    endings = (*TAR_SUFFIXES, ".zip", *SUFFIXES)
    known = max((ending for ending in endings if name.lower().endswith(ending)), key=len, default="")
    return name[: len(name) - len(known)]


def _suffix(name: str) -> str:
    return Path(name).suffix.lower()


def _keys(part: str, names: Sequence[str]) -> Iterator[str]:
    """The names that arrays of a part have: train, x_train, train_x."""
    for name in names:
        yield from (f"{name}_{part}", f"{part}_{name}") if name else (part,)


def _check_shape(shape: tuple[int, ...]) -> None:
    if len(shape) not in (2, 3) or 0 in shape:
        raise ValueError(f"its array has the shape {list(shape)}")
    count = shape[-2] if 3 <= shape[-1] <= _MOST_COLUMNS else shape[-1] if shape[-2] == 3 else 0
    if not 0 < count <= CLOUD_ITEMS:
        raise ValueError(f"its array has the shape {list(shape)}")


def _points_of(array: NDArray[np.generic]) -> NDArray[np.float64]:
    """The places of an array of points, which are its first three columns, or its three rows."""
    _check_shape(array.shape)
    if array.dtype.kind not in "iuf":
        raise ValueError(f"it holds {array.dtype}, expected real numbers")
    places = array[:, :3] if array.shape[1] <= _MOST_COLUMNS and array.shape[1] >= 3 else array.T
    with np.errstate(invalid="ignore"):  # a NaN is refused with the file's name, without a warning before
        return places.astype(np.float64)


def _chosen(entries: list[_Entry], part: Part, where: str, notice: Notice) -> list[_Entry]:
    """The entries of a part; without parts the last tenth of each class is the test part, and at least one shape."""
    parts = {one.part for one in entries} - {None}
    if parts:
        used = {"train": "train", "test": "val" if "test" not in parts else "test"}
        chosen = [one for one in entries if one.part == used[part]]
        if not chosen:
            raise NoSuchSplitError(
                f"{where} has no {part} shapes; it has {listed(sorted(map(str, parts)))}; put the {part} shapes into a "
                f"folder or a file named {part}, or take these names away from all, to have the last tenth as test part"
            )
        _say_unused(where, [one for one in entries if one.part not in used.values()], notice)
        return chosen
    by_class: dict[str, list[_Entry]] = {}
    for one in entries:
        by_class.setdefault(one.class_name, []).append(one)
    chosen = []
    for own in by_class.values():
        first = len(own) - max(1, len(own) // _TEST_OF)
        chosen += own[first:] if part == "test" else own[:first]
    if not chosen:
        raise NoSuchSplitError(f"{where} has no {part} shapes, as no class has two shapes; add shapes")
    notice(
        f"{where} has no folders or files named train or test, so the last tenth of each class is the test part; read: "
        f"the {part} part, {len(chosen):,} of {plural(len(entries), 'shape')}"
    )
    return chosen


def _say_unused(where: str, entries: Sequence[_Entry], notice: Notice) -> None:
    counts = Counter(one.part or one.name for one in entries)
    if counts:
        some = [f"{name} ({count:,})" for name, count in counts.most_common(_NAMED)]
        more = [f"{len(counts) - _NAMED:,} more"] if len(counts) > _NAMED else []
        notice(
            f"{where}: left out: shapes of {listed(some + more)}; only those of the parts train and test are read; "
            "move the others into a folder of such a name"
        )


def _named_classes(classes: Sequence[str], known: Sequence[str], where: str) -> list[str]:
    by_word = {name.lower(): name for name in known}
    chosen = [by_word.get(SYNSETS.get(word, word).lower()) for word in classes]
    missing = [word for word, name in zip(classes, chosen, strict=True) if name is None]
    if missing or not chosen or len(set(chosen)) < len(chosen):
        raise DataError(
            f"{where} has the classes {', '.join(known[:60])}; expected some of them, each once, not "
            f"{', '.join(missing or classes) or 'none'}"
        )
    return [name for name in chosen if name is not None]
