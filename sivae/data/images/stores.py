"""Where files lie: a folder, a zip or a tar, all read in place by name.

A name out of an archive is only ever a name: nothing is written to the disk, so it cannot lead anywhere.
"""

from __future__ import annotations

import hashlib
import lzma
import os
import stat
import tarfile
import threading
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol
from weakref import WeakValueDictionary

from sivae.data.images.base import Notice, ignore
from sivae.data.images.free_memory import amount, available_memory
from sivae.errors import DamagedImageError, DataError

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2", ".tbz2")
_TAR_BUDGET = 8 << 30  # of a compressed tar's content
_LONG = 4 << 20  # a compressed tar that takes seconds to read
_MEMBER_LIMIT = 2 << 30  # of one file in an archive


class Store(Protocol):
    """Files by name.

    Attributes:
        path: of the folder or the archive.
        sizes: bytes by name, in the order of names. A name has "/" between its parts; hidden files are left out.
    """

    path: Path
    sizes: dict[str, int]

    def read(self, name: str) -> bytes:
        """A file's content."""

    def where(self, name: str) -> str:
        """The file for a reader of error messages."""


def fingerprint(store: Store, names: Iterable[str]) -> str:
    """A digest of files' names and sizes: tells another data set of the same name from this one, without reading."""
    digest = hashlib.sha256()
    for name in names:
        digest.update(f"{name}\0{store.sizes[name]}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def is_archive(path: Path) -> bool:
    """By its name."""
    return path.name.lower().endswith((".zip", *TAR_SUFFIXES))


_open_tars: WeakValueDictionary[tuple[Path, int, int], TarStore] = WeakValueDictionary()


def open_store(path: Path, notice: Notice = ignore) -> Store:
    """A folder, or an archive by its suffix.

    Args:
        path: of it.
        notice: told what takes long.

    Raises:
        DataError: the archive cannot be read.
    """
    if path.is_dir():
        return FolderStore(path)
    if path.name.lower().endswith(".zip"):
        return ZipStore(path)
    # A compressed tar is in memory as a whole, so whoever opens another part of it meanwhile shares it.
    status = path.stat()
    key = (path.resolve(), status.st_size, status.st_mtime_ns)
    store = _open_tars.get(key)
    if store is None:
        store = _open_tars[key] = TarStore(path, notice=notice)
    return store


def _is_hidden(name: str) -> bool:
    return any((part.startswith(".") and part not in (".", "..")) or part == "__MACOSX" for part in name.split("/"))


class FolderStore:
    """A folder and all below it.

    Args:
        path: the folder.
        recursive: False leaves out what lies in folders below.
    """

    def __init__(self, path: Path, *, recursive: bool = True) -> None:
        self.path = path
        sizes: dict[str, int] = {}
        self._walk(str(path), "", recursive, sizes, set())
        self.sizes = dict(sorted(sizes.items()))

    def _walk(self, folder: str, prefix: str, recursive: bool, sizes: dict[str, int], seen: set[Any]) -> None:
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:  # a link that leads back up
            return
        seen = seen | {(status.st_dev, status.st_ino)}
        with os.scandir(folder) as entries:
            for entry in entries:
                if _is_hidden(entry.name):
                    continue
                try:
                    facts = entry.stat()
                except OSError:  # a link that leads nowhere
                    continue
                if stat.S_ISREG(facts.st_mode):
                    sizes[prefix + entry.name] = facts.st_size
                elif recursive and stat.S_ISDIR(facts.st_mode):
                    self._walk(entry.path, f"{prefix}{entry.name}/", recursive, sizes, seen)

    def read(self, name: str) -> bytes:
        try:
            return (self.path / name).read_bytes()
        except FileNotFoundError:
            raise DamagedImageError(f"{self.where(name)} has vanished since the folder was listed") from None
        except OSError as error:
            raise DamagedImageError(f"{self.where(name)} cannot be read: {error.strerror}") from None

    def where(self, name: str) -> str:
        return str(self.path / name)


class _Archive:
    path: Path

    def where(self, name: str) -> str:
        return f"{name} in {self.path}"

    def _check_size(self, name: str, size: int) -> None:
        if size > _MEMBER_LIMIT:
            raise DamagedImageError(
                f"{self.where(name)} is said to hold {amount(size)}; more than {amount(_MEMBER_LIMIT)} in one file "
                "is read from unpacked folders only"
            )


class ZipStore(_Archive):
    """A zip archive, each of whose files is found without reading the others."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._opened: tuple[int, zipfile.ZipFile] | None = None
        members = [member for member in self._zip().infolist() if not member.is_dir()]
        names = {member.filename: member.file_size for member in members if not _is_hidden(member.filename)}
        self.sizes = dict(sorted(names.items()))

    def _zip(self) -> zipfile.ZipFile:
        # A process that was forked has its own: the position in a shared file would be moved by the other.
        with self._lock:
            if self._opened is None or self._opened[0] != os.getpid():
                try:
                    self._opened = os.getpid(), zipfile.ZipFile(self.path)
                except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
                    raise DataError(f"{self.path} is no zip archive, or it is damaged: {error}") from None
            return self._opened[1]

    def read(self, name: str) -> bytes:
        self._check_size(name, self.sizes[name])
        try:
            return self._zip().read(name)
        except RuntimeError as error:
            raise DataError(f"{self.where(name)} cannot be read: {error}; unpack the archive first") from None
        except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, NotImplementedError) as error:
            raise DamagedImageError(f"{self.where(name)} is damaged: {error}") from None

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "sizes": self.sizes}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock(), _opened=None)


class TarStore(_Archive):
    """A tar archive. A plain one is read in place; a compressed one has no places, so it is read once into memory.

    Raises:
        DataError: it is damaged, or a compressed one holds more than `budget` bytes (half the free memory, 8 GB at
            most, where None).
    """

    def __init__(self, path: Path, *, budget: int | None = None, notice: Notice = ignore) -> None:
        self.path = path
        self._content: dict[str, bytes] = {}
        self._offsets: dict[str, int] = {}
        self._descriptor: int | None = None
        self._lock = threading.Lock()
        sizes: dict[str, int] = {}
        try:
            with tarfile.open(path, "r:") as archive:
                for member in archive:
                    if self._wanted(member):
                        sizes[member.name] = member.size
                        self._offsets[member.name] = member.offset_data
        except tarfile.ReadError:
            sizes.clear()
            self._offsets.clear()
            if path.stat().st_size > _LONG:
                notice(f"{path}: unpacking into memory, as it is compressed as a whole")
            self._read_compressed(sizes, min(_TAR_BUDGET, available_memory() // 2) if budget is None else budget)
        self.sizes = dict(sorted(sizes.items()))

    @staticmethod
    def _wanted(member: tarfile.TarInfo) -> bool:
        return member.isreg() and not member.issparse() and not _is_hidden(member.name)

    def _read_compressed(self, sizes: dict[str, int], budget: int) -> None:
        left = budget
        try:
            with tarfile.open(self.path, "r|*") as archive:
                for member in archive:
                    if not self._wanted(member):
                        continue
                    left -= member.size
                    if left < 0:
                        raise DataError(
                            f"{self.path} holds more than {amount(budget)}, and a compressed tar has to be in memory "
                            "as a whole; unpack it, and name the folder"
                        )
                    file = archive.extractfile(member)
                    assert file is not None
                    sizes[member.name] = member.size
                    self._content[member.name] = file.read()
        except (tarfile.TarError, EOFError, OSError, lzma.LZMAError, zlib.error) as error:
            raise DataError(f"{self.path} is no tar archive, or it is damaged: {error}") from None

    def read(self, name: str) -> bytes:
        if name in self._content:
            return self._content[name]
        size = self.sizes[name]
        self._check_size(name, size)
        with self._lock:
            if self._descriptor is None:
                self._descriptor = os.open(self.path, os.O_RDONLY)
        parts, position, end = [], self._offsets[name], self._offsets[name] + size
        while position < end:
            part = os.pread(self._descriptor, end - position, position)
            if not part:
                raise DamagedImageError(f"{self.where(name)} is cut short")
            parts.append(part)
            position += len(part)
        return b"".join(parts)

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key not in ("_descriptor", "_lock")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _descriptor=None, _lock=threading.Lock())

    def __del__(self) -> None:
        if self.__dict__.get("_descriptor") is not None:
            os.close(self._descriptor)  # type: ignore[arg-type]
