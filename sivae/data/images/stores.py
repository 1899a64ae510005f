"""Read files by name from a folder, a zip or a tar, without unpacking archives to the disk.

Nothing is written to the disk, so a name in an archive cannot lead out of a folder.
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
from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from sivae.data.images.base import Notice, ignore
from sivae.data.images.free_memory import amount, available_memory
from sivae.errors import DamagedImageError, DataError

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2", ".tbz2")
_TAR_BUDGET = 8 << 30  # bytes of a compressed tar's content
_LONG = 4 << 20  # a compressed tar of more bytes takes seconds to read
_MEMBER_LIMIT = 2 << 30  # bytes of one file in an archive
_HEAD = 64


class Store(ABC):
    """Files by name.

    Attributes:
        path: the folder or the archive.
        sizes: bytes by name, in the order of names. A name has "/" between its parts; hidden files are left out.
    """

    path: Path
    sizes: dict[str, int]

    @abstractmethod
    def read(self, name: str) -> bytes:
        """A file's content.

        Raises:
            DamagedImageError: the file cannot be read.
        """

    def head(self, name: str) -> bytes:
        """The first 64 bytes of a file. Raises as :meth:`read` does."""
        return self.read(name)[:_HEAD]

    def where(self, name: str) -> str:
        """The file, for error messages."""
        return f"{name} in {self.path}"


def fingerprint(store: Store, names: Iterable[str]) -> str:
    """A digest of files' names and sizes, which distinguishes data sets of one name without reading them."""
    digest = hashlib.sha256()
    for name in names:
        digest.update(f"{name}\0{store.sizes[name]}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def is_archive(path: Path) -> bool:
    """Whether a file's name is that of an archive."""
    return path.name.lower().endswith((".zip", *TAR_SUFFIXES))


_open_tars: WeakValueDictionary[tuple[Path, int, int], TarStore] = WeakValueDictionary()


def open_store(path: Path, notice: Notice = ignore) -> Store:
    """Open a folder, or an archive by its suffix.

    Args:
        path: the folder or the archive.
        notice: called with a line about what takes long.

    Raises:
        DataError: the archive cannot be read.
    """
    if path.is_dir():
        return FolderStore(path)
    if path.name.lower().endswith(".zip"):
        return ZipStore(path)
    # A compressed tar is in memory as a whole, so its train and test parts share one.
    status = path.stat()
    key = (path.resolve(), status.st_size, status.st_mtime_ns)
    store = _open_tars.get(key)
    if store is None:
        store = _open_tars[key] = TarStore(path, notice=notice)
    return store


def _is_hidden(name: str) -> bool:
    return any((part.startswith(".") and part not in (".", "..")) or part == "__MACOSX" for part in name.split("/"))


class FolderStore(Store):
    """A folder and all folders below it.

    Args:
        path: the folder.
        recursive: False leaves out the folders below.
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
                except OSError:  # a broken link
                    continue
                if stat.S_ISREG(facts.st_mode):
                    sizes[prefix + entry.name] = facts.st_size
                elif recursive and stat.S_ISDIR(facts.st_mode):
                    self._walk(entry.path, f"{prefix}{entry.name}/", recursive, sizes, seen)

    def read(self, name: str) -> bytes:
        return self._read(name, -1)

    def head(self, name: str) -> bytes:
        return self._read(name, _HEAD)

    def _read(self, name: str, size: int) -> bytes:
        try:
            with (self.path / name).open("rb") as file:
                return file.read(size)
        except FileNotFoundError:
            raise DamagedImageError(f"{self.where(name)} has vanished since the folder was listed") from None
        except OSError as error:
            raise DamagedImageError(f"{self.where(name)} cannot be read: {error.strerror}") from None

    def where(self, name: str) -> str:
        return str(self.path / name)


def _check_size(store: Store, name: str) -> int:
    size = store.sizes[name]
    if size > _MEMBER_LIMIT:
        raise DamagedImageError(
            f"{store.where(name)} claims to hold {amount(size)}; files of more than {amount(_MEMBER_LIMIT)} are read "
            "from unpacked folders only"
        )
    return size


class ZipStore(Store):
    """A zip archive; each file is read without the others."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._opened: tuple[int, zipfile.ZipFile] | None = None
        members = [member for member in self._zip().infolist() if not member.is_dir()]
        names = {member.filename: member.file_size for member in members if not _is_hidden(member.filename)}
        self.sizes = dict(sorted(names.items()))

    def _zip(self) -> zipfile.ZipFile:
        # A forked process opens its own: processes that share a file also share the position in it.
        with self._lock:
            if self._opened is None or self._opened[0] != os.getpid():
                try:
                    self._opened = os.getpid(), zipfile.ZipFile(self.path)
                except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
                    raise DataError(f"{self.path} is no zip archive, or it is damaged: {error}") from None
            return self._opened[1]

    def read(self, name: str) -> bytes:
        _check_size(self, name)
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


class SharedFile:
    """A file that threads and processes read at given positions. It is opened at the first read.

    Args:
        path: path of the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._descriptor: int | None = None

    def read_at(self, position: int, size: int) -> bytes:
        """Read `size` bytes; fewer at the end of the file."""
        with self._lock:
            if self._descriptor is None:
                self._descriptor = os.open(self.path, os.O_RDONLY)
        parts = []
        while size and (part := os.pread(self._descriptor, size, position)):
            parts.append(part)
            position, size = position + len(part), size - len(part)
        return b"".join(parts)

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock(), _descriptor=None)

    def __del__(self) -> None:
        if self.__dict__.get("_descriptor") is not None:
            os.close(self._descriptor)  # type: ignore[arg-type]


class TarStore(Store):
    """A tar archive. A plain one is read in place; a compressed one is read once into memory.

    Raises:
        DataError: it is damaged, or a compressed one holds more than `budget` bytes (None: half the free memory, 8 GB
            at most).
    """

    def __init__(self, path: Path, *, budget: int | None = None, notice: Notice = ignore) -> None:
        self.path = path
        self._content: dict[str, bytes] = {}
        self._offsets: dict[str, int] = {}
        self._file = SharedFile(path)
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
        size = _check_size(self, name)
        content = self._file.read_at(self._offsets[name], size)
        if len(content) < size:
            raise DamagedImageError(f"{self.where(name)} is cut short")
        return content
