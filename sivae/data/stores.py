"""Read files by name from a folder, a zip or a tar, without unpacking archives to the disk.

Nothing is written to the disk, so a name in an archive cannot lead out of a folder.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import stat
import threading
import zipfile
from abc import ABC, abstractmethod
from collections import Counter, OrderedDict
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any, ClassVar
from weakref import WeakValueDictionary

from sivae.bounds import FOLDER_DEPTH, FOLDER_LINKS, MEMBERS, NAME_BYTES, UNPACKED_RATIO, unpacked_limit
from sivae.data.free_memory import amount, available_memory
from sivae.data.notice import Notice, ignore
from sivae.data.tar_members import BLOCK, is_header, members
from sivae.data.unpacking import Unpacked, fits_memory, is_compressed
from sivae.errors import DamagedImageError, DataError, reason_of

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2", ".tbz2")
_TAR_BUDGET = 8 << 30  # bytes of a compressed tar's content
_LONG = 4 << 20  # a compressed tar of more bytes takes seconds to read
HEAD = 64  # bytes that tell a file's kind
_OPEN_FILES = 32  # of those that are read in pieces; a system allows a process a few hundred
_SCARCE = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)  # what the system lacks at the moment; the file is not damaged
_PIECE, _SMALL_PIECE = 1 << 20, 1 << 12  # bytes that are unpacked at once; few where a byte may unpack to thousands


class Store(ABC):
    """Files by name.

    Attributes:
        path: the folder or the archive.
        sizes: bytes by name, in the order of names. A name has "/" between its parts; hidden files are left out.
        lost: names that lead to no content, such as broken links in a folder and links in a tar.
    """

    path: Path
    sizes: dict[str, int]
    lost: tuple[str, ...] = ()

    @abstractmethod
    def read(self, name: str) -> bytes:
        """A file's content.

        Raises:
            DamagedImageError: the file cannot be read.
            DataError: the file does not fit the free memory.
            OSError: the system has no memory or no more open files at the moment.
        """

    def head(self, name: str, size: int = HEAD) -> bytes:
        """The first `size` bytes of a file. Raises as :meth:`read` does."""
        return self.read(name)[:size]

    def where(self, name: str) -> str:
        """The file, for error messages."""
        return f"{name} in {self.path}"

    def inside(self, name: str) -> str:
        """A file's name without the archive that holds it, where the files are in several archives."""
        return name


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
    return open_tar(path, notice=notice)


def open_tar(path: Path, *, budget: int | None = None, notice: Notice = ignore) -> TarStore:
    """Open a tar; the one that is open already, if there is one, so that the parts of a set share it.

    Args:
        path: the tar.
        budget: see :class:`TarStore`.
        notice: called with a line about what takes long.

    Raises:
        DataError: the tar cannot be read.
    """
    status = path.stat()
    key = (path.resolve(), status.st_size, status.st_mtime_ns)
    store = _open_tars.get(key)
    if store is None:
        store = _open_tars[key] = TarStore(path, budget=budget, notice=notice)
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
        lost: list[str] = []
        try:
            self._walk(str(path), "", recursive, sizes, lost, set(), Counter())
        except OSError as error:
            raise DataError(f"{error.filename} cannot be listed: {error.strerror}; make it readable") from None
        self.sizes, self.lost = dict(sorted(sizes.items())), tuple(sorted(lost))

    def _walk(
        self,
        folder: str,
        prefix: str,
        recursive: bool,
        sizes: dict[str, int],
        lost: list[str],
        above: set[tuple[int, int]],
        visits: Counter[tuple[int, int]],
    ) -> None:
        _check_name(self.path, prefix)
        status = os.stat(folder)
        place = status.st_dev, status.st_ino
        if place in above:  # a link that leads back up
            return
        above = above | {place}
        visits[place] += 1
        if visits[place] > FOLDER_LINKS:  # a few links in each of a few folders lead to one of them millions of times
            raise DataError(f"{folder} is reached by more than {FOLDER_LINKS} links; remove links in {self.path}")
        with os.scandir(folder) as entries:
            for entry in entries:
                if _is_hidden(entry.name):
                    continue
                try:
                    facts = entry.stat()
                except OSError:  # a broken link
                    lost.append(prefix + entry.name)
                    continue
                if stat.S_ISREG(facts.st_mode):
                    sizes[prefix + entry.name] = facts.st_size
                elif recursive and stat.S_ISDIR(facts.st_mode):
                    self._walk(entry.path, f"{prefix}{entry.name}/", recursive, sizes, lost, above, visits)

    def read(self, name: str) -> bytes:
        return self._read(name, -1)

    def head(self, name: str, size: int = HEAD) -> bytes:
        return self._read(name, size)

    def _read(self, name: str, size: int) -> bytes:
        try:
            return read_file(self.path / name, size)
        except FileNotFoundError:
            raise DamagedImageError(f"{self.where(name)} has vanished since the folder was listed") from None
        except OSError as error:
            if error.errno in _SCARCE:
                raise
            raise DamagedImageError(f"{self.where(name)} cannot be read: {error.strerror}") from None

    def where(self, name: str) -> str:
        return str(self.path / name)


def read_file(path: Path, size: int = -1) -> bytes:
    """Read a file, or its first `size` bytes.

    Raises:
        OSError: it cannot be read.
        DamagedImageError: it is a pipe or a device.
        DataError: it does not fit the free memory.
    """
    facts = path.stat()
    if not (stat.S_ISREG(facts.st_mode) or stat.S_ISDIR(facts.st_mode)):
        raise DamagedImageError(f"{path} is no file, but a pipe or a device; copy its content to a file")
    if size < 0:
        _check_memory(str(path), facts.st_size)
    with path.open("rb") as file:
        return file.read(facts.st_size if size < 0 else size)


def _check_name(path: Path, name: str) -> None:
    if len(name) > NAME_BYTES or name.count("/") > FOLDER_DEPTH:
        raise DataError(
            f"{path} holds folders within folders, more than {FOLDER_DEPTH} deep or with a name of more than "
            f"{NAME_BYTES:,} bytes: {name[:80]} …; move the files into fewer folders"
        )


def _check_memory(where: str, size: int) -> None:
    if not fits_memory(size):
        raise DataError(  # not of a damaged image: with more memory it is read
            f"{where} holds {amount(size)}, more than half of the free memory, which is "
            f"{amount(available_memory())}; free some, or take a smaller file"
        )


class ZipStore(Store):
    """A zip archive; each file is read without the others.

    Args:
        path: the archive.
        content: its bytes, where it is itself a file in an archive, so that `path` is only its name in messages.

    Raises:
        DataError: it is damaged, or breaks a bound.
    """

    def __init__(self, path: Path, content: bytes | None = None) -> None:
        self.path, self._bytes = path, content
        self._lock = threading.Lock()
        self._opened: tuple[int, zipfile.ZipFile] | None = None
        listed = self._zip().infolist()
        size = path.stat().st_size if content is None else len(content)
        if len(listed) > MEMBERS or sum(member.compress_size for member in listed) > size:
            raise DataError(
                f"{path} claims to hold {len(listed):,} files in more bytes than it has, as a file made to exhaust "
                "memory does; unpack it with another program, and name the folder"
            )
        names = {
            member.filename: member.file_size
            for member in listed
            if member.filename and not member.is_dir() and not _is_hidden(member.filename)
        }
        for name in names:
            _check_name(path, name)
        self.sizes = dict(sorted(names.items()))

    def _zip(self) -> zipfile.ZipFile:
        # A forked process opens its own: processes that share a file also share the position in it.
        with self._lock:
            if self._opened is None or self._opened[0] != os.getpid():
                try:
                    file = self.path if self._bytes is None else io.BytesIO(self._bytes)
                    self._opened = os.getpid(), zipfile.ZipFile(file)
                except (FileNotFoundError, PermissionError):
                    raise
                except Exception as error:  # damaged archives raise many kinds of errors
                    raise DataError(
                        f"{self.path} is no zip archive, or it is damaged: {reason_of(error)}; fetch it again"
                    ) from None
            return self._opened[1]

    def read(self, name: str) -> bytes:
        size = self.sizes[name]
        try:
            with self._zip().open(name) as file:
                # By the name's member, as a name may be there twice.
                packed = self._zip().getinfo(name)
                if size > unpacked_limit(packed.compress_size):
                    raise DamagedImageError(
                        f"{self.where(name)} claims to unpack to {amount(size)}, more than {UNPACKED_RATIO} times its "
                        "size, as a file made to exhaust memory does; unpack it with another program"
                    )
                _check_memory(self.where(name), size)
                plain = packed.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
                return _whole(file, size, _PIECE if plain else _SMALL_PIECE)
        except (DataError, MemoryError):
            raise
        except RuntimeError as error:
            if isinstance(error, NotImplementedError):
                raise DamagedImageError(f"{self.where(name)} is damaged: {error}; fetch it again") from None
            raise DataError(f"{self.where(name)} cannot be read: {error}; unpack the archive first") from None
        except Exception as error:  # damaged archives raise many kinds of errors
            if isinstance(error, OSError) and error.errno in _SCARCE:
                raise
            raise DamagedImageError(f"{self.where(name)} is damaged: {reason_of(error)}; fetch it again") from None

    def head(self, name: str, size: int = HEAD) -> bytes:
        packed = self._zip().getinfo(name)
        if packed.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # others unpack more than is asked for
            with contextlib.suppress(Exception), self._zip().open(packed) as file:
                return file.read(size)
        return super().head(name, size)  # raises the named error

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "sizes": self.sizes, "_bytes": self._bytes}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock(), _opened=None)


def _whole(file: IO[bytes], size: int, piece: int) -> bytes:
    """Read a file of a known size in pieces."""
    content = io.BytesIO()  # hands its bytes over without a copy
    while (left := size - content.tell()) and (part := file.read(min(piece, left))):
        content.write(part)
    if left:
        raise EOFError(f"it claims to hold {size:,} bytes, and has {content.tell():,}")
    return content.getvalue()


class _Descriptor:
    """A file that is open until nobody uses it any more."""

    def __init__(self, path: Path) -> None:
        self._close = os.close  # kept, because the module may be gone at the end of the process
        self.number = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        if "number" in self.__dict__:
            self._close(self.number)


class SharedFile:
    """A file that threads and processes read at given positions. Of all such files only those read last are open.

    Args:
        path: path of the file.
    """

    _open: ClassVar[OrderedDict[int, _Descriptor]] = OrderedDict()  # by the identity of the file, read last at the end
    _lock: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, path: Path) -> None:
        self.path = path

    def read_at(self, position: int, size: int) -> bytes:
        """Read `size` bytes; fewer at the end of the file."""
        descriptor = self._descriptor()  # stays open while it is read, even where others take its place
        parts = []
        while size and (part := os.pread(descriptor.number, size, position)):
            parts.append(part)
            position, size = position + len(part), size - len(part)
        return b"".join(parts)

    def _descriptor(self) -> _Descriptor:
        with SharedFile._lock:
            descriptor = self._open.get(id(self))
            if descriptor is None:
                descriptor = self._open[id(self)] = _Descriptor(self.path)
                if len(self._open) > _OPEN_FILES:
                    self._open.popitem(last=False)
            else:
                self._open.move_to_end(id(self))
        return descriptor

    def __del__(self) -> None:
        self._open.pop(id(self), None)  # without the lock, which the thread may hold when this is called


def _new_lock() -> None:
    SharedFile._lock = threading.Lock()


os.register_at_fork(after_in_child=_new_lock)  # another thread may have held it, which the new process lacks


class TarStore(Store):
    """A tar archive. A plain one is read in place; a compressed one is read once into memory.

    Raises:
        DataError: it is damaged or breaks a bound, or a compressed one holds more than `budget` bytes (None: half the
            free memory, 8 GB at most).
    """

    def __init__(self, path: Path, *, budget: int | None = None, notice: Notice = ignore) -> None:
        self.path = path
        self._content: dict[str, bytes] = {}
        self._offsets: dict[str, int] = {}
        self._file = SharedFile(path)
        self._size = path.stat().st_size
        sizes: dict[str, int] = {}
        lost: list[str] = []
        with path.open("rb") as file:
            head = file.read(BLOCK)
            file.seek(0)
            is_packed = is_compressed(head) and not is_header(head)
            if is_packed:
                if self._size > _LONG:
                    notice(f"{path}: unpacking into memory, as it is compressed as a whole")
                stream: _Plain | Unpacked = Unpacked(
                    file,
                    str(path),
                    most=min(_TAR_BUDGET, available_memory() // 2) if budget is None else budget,
                    remedy=", and a compressed tar has to be in memory as a whole; unpack it, and name the folder",
                )
            else:
                stream = _Plain(file)
            try:
                if not head:
                    raise ValueError("it is empty")
                for count, member in enumerate(members(stream, lost)):
                    if count >= MEMBERS:
                        raise ValueError(f"it has more than {MEMBERS:,} files")
                    if _is_hidden(member.name):
                        continue
                    _check_name(path, member.name)
                    sizes[member.name] = member.size
                    self._offsets[member.name] = member.position
                    if is_packed:
                        content = self._content[member.name] = stream.read(member.size)
                        if len(content) < member.size:
                            raise ValueError(f"{member.name} in it is cut short")
            except DataError:
                raise
            except (ValueError, OSError) as error:
                raise DataError(
                    f"{path} is no tar archive, or it is damaged: {reason_of(error)}; fetch it again"
                ) from None
        self.sizes = dict(sorted(sizes.items()))
        self.lost = tuple(name for name in lost if not _is_hidden(name))

    @property
    def bytes_in_memory(self) -> int:
        """Bytes of the content that is kept in memory, of a compressed tar."""
        return sum(map(len, self._content.values()))

    def head(self, name: str, size: int = HEAD) -> bytes:
        if name in self._content:
            return self._content[name][:size]
        return self._file.read_at(self._offsets[name], min(size, self.sizes[name]))

    def read(self, name: str) -> bytes:
        if name in self._content:
            return self._content[name]
        size, offset = self.sizes[name], self._offsets[name]
        if offset + size > self._size:
            raise DamagedImageError(f"{self.where(name)} is cut short; fetch it again")
        _check_memory(self.where(name), size)
        content = self._file.read_at(offset, size)
        if len(content) < size:
            raise DamagedImageError(f"{self.where(name)} is cut short; fetch it again")
        return content


class _Plain:
    """A file that is not compressed, as a stream that skips without reading."""

    def __init__(self, file: IO[bytes]) -> None:
        self.position = 0
        self._file = file

    def read(self, size: int) -> bytes:
        content = self._file.read(size)
        self.position += len(content)
        return content

    def skip(self, size: int) -> None:
        self.position += size
        self._file.seek(self.position)
