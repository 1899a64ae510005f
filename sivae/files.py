"""Write files and folders atomically, and lock folders.

A reader sees the old content or the new, never a part, even after a power failure: everything is first written under a
temporary name in the same folder, flushed to the disk, and then renamed.
"""

from __future__ import annotations

import csv
import errno
import fcntl
import io
import json
import os
import re
import secrets
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sivae.errors import FolderInUseError

if TYPE_CHECKING:
    from torch import Tensor

_TEMPORARY_PREFIX = ".tmp-"


def is_temporary(path: Path) -> bool:
    """True for a name that only a write which never finished leaves behind."""
    return path.name.startswith(_TEMPORARY_PREFIX)


def remove_leftovers(folder: Path) -> None:
    """Delete what interrupted writes left in `folder`. Only for the one process that writes there."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if is_temporary(path):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to; it becomes `path` when the block ends well."""
    temporary = _temporary_sibling(path)
    try:
        with named(path, temporary):
            yield temporary
            sync(temporary)
            os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)


@contextmanager
def named(path: Path, temporary: Path | None = None) -> Iterator[None]:
    """Have an error of the system name a file where it names none, as for a full disk.

    Args:
        path: the file or folder.
        temporary: the name that it has until it is written, which errors do not show.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None:  # a library's own, whose words are all that it has
            raise OSError(f"{path}: {error}") from error
        came = str(path if error.filename is None else error.filename)
        if temporary is not None and came.startswith(str(temporary)):
            came = f"{path}{came.removeprefix(str(temporary))}"
            if error.filename2 is not None:  # of a rename; a message would have both
                raise OSError(error.errno, error.strerror, came) from error
        error.filename = came
        raise


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder to fill with files; it becomes `path`, whole, when the block ends well.

    A folder of that name that is already there is replaced, and what killed writes of it left is deleted: only when the
    new one is in place, since it may be all that there is. A link to a folder stays, and the folder is replaced.
    """
    path = Path(os.path.realpath(path))
    temporary = _temporary_sibling(path)
    try:
        with named(path, temporary):
            temporary.mkdir()
            with locked(temporary, "writes to"):
                yield temporary
                for file in temporary.iterdir():
                    sync(file)
                sync(temporary)
                _put_in_place(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync(path.parent)
    _remove_abandoned(path)


def holds_only(folder: Path, names: Collection[str]) -> bool:
    """Whether a folder is not there yet, or holds files of these names alone, so that it can be replaced."""
    return not folder.exists() or (folder.is_dir() and {file.name for file in folder.iterdir()} <= set(names))


@contextmanager
def locked(folder: Path, work: str, *, needed: bool = False) -> Iterator[None]:
    """Lock a folder for this process; the lock ends with the process, however that ends.

    Args:
        folder: to lock.
        work: what a process does with the folder, for the message: "trains in".
        needed: raise an error on a file system without locks, instead of going on without one.

    Raises:
        FolderInUseError: another process has locked it.
        OSError: the folder cannot be opened, or locked.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FolderInUseError(f"another process {work} {folder}; wait for it, or stop it") from None
        except OSError as error:
            if needed or error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF):
                raise  # else a file system without locks: go on without one
        yield
    finally:
        os.close(descriptor)


def remove_folder(path: Path) -> None:
    """Delete a folder such that it is never seen half deleted under its own name."""
    doomed = _temporary_sibling(path)
    os.rename(path, doomed)
    shutil.rmtree(doomed)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically."""
    with atomic_file(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, content: str) -> None:
    """Write a file atomically, as UTF-8."""
    write_bytes(path, content.encode())


def write_json(path: Path, content: Any) -> None:
    """Write a file of indented JSON atomically.

    Raises:
        ValueError: a number is not finite, which JSON cannot hold.
    """
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Write a table atomically; missing folders are made, and names of files may hold any bytes."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, text.getvalue().encode(errors="surrogateescape"))


def write_npz(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write NumPy arrays by their names atomically; missing folders are made."""
    import numpy as np

    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as temporary, temporary.open("wb") as stream:
        np.savez(stream, **arrays)


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], texts: Mapping[str, str] | None = None) -> None:
    """Write tensors of any device, and texts about them, to one safetensors file atomically."""
    from safetensors.torch import save

    # Not by the library's own writing: it hides why a disk refuses, and lets nobody but the owner read the file.
    stored = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_bytes(path, save(stored, None if texts is None else dict(texts)))


def write_tensors(path: Path, content: Mapping[str, Any]) -> None:
    """Write nested containers of tensors, numbers and text by torch.save, atomically."""
    import torch

    written = io.BytesIO()  # an error of the disk then is the system's, not one of torch's archive
    torch.save(dict(content), written)
    write_bytes(path, written.getvalue())


def sync(path: Path) -> None:
    """Have the disk hold what was written to a file, or to a folder's list of names."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with named(path):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _put_in_place(temporary: Path, path: Path) -> None:
    """Rename a whole folder to its own name, and delete the one that had it."""
    if not path.exists():
        os.rename(temporary, path)
        return
    old = _temporary_sibling(path)
    os.rename(path, old)
    try:
        os.rename(temporary, path)
    except BaseException:
        os.rename(old, path)
        raise
    shutil.rmtree(old, ignore_errors=True)  # another process may delete it at the same time


def _remove_abandoned(path: Path) -> None:
    """Delete what killed writes of a folder left beside it. What another process still writes is locked, and stays."""
    name = re.compile(rf"{re.escape(_TEMPORARY_PREFIX + path.name)}-[0-9a-f]{{8}}")
    for left in path.parent.iterdir() if path.parent.is_dir() else ():
        if name.fullmatch(left.name) and left.is_dir() and not left.is_symlink():
            with suppress(FolderInUseError, OSError), locked(left, "writes to", needed=True):
                shutil.rmtree(left, ignore_errors=True)


def _temporary_sibling(path: Path) -> Path:
    return path.with_name(f"{_TEMPORARY_PREFIX}{path.name}-{secrets.token_hex(4)}")
