"""Read model files of other programs safely: tensors and plain containers are read, and no code is run."""

from __future__ import annotations

import os
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from sivae.errors import ModelFileError


class _Nothing:
    """Replaces an object of an unknown class, and keeps none of its data."""

    __slots__ = ()

    def __init__(self, *arguments: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a file of named tensors.

    Args:
        path: a file in the format safetensors if its name ends in `.safetensors`, else of `torch.save`. Nothing in it
            is executed.

    Returns:
        The tensors by name, on the CPU, with finite values.

    Raises:
        OSError: the file cannot be read.
        ModelFileError: the file has another format, is damaged, or contains anything but named tensors.
    """
    if path.suffix == ".safetensors":
        try:
            content = load(path.read_bytes())
        except SafetensorError as error:
            raise ModelFileError(f"{path} is not a safetensors file ({error})") from None
    else:
        content = _read(path, stand_ins=False)
        if not isinstance(content, Mapping):
            raise ModelFileError(f"{path} holds {described(content)}, expected a table of names and tensors")
    return checked_tensors(content, str(path))


def read_checkpoint(path: Path) -> Any:
    """Read a file of `torch.save`: tensors on the CPU and plain containers; other objects become empty ones.

    Raises:
        OSError: the file cannot be read.
        ModelFileError: the file has another format, is damaged, or names functions that could act on the system.
    """
    return _read(path, stand_ins=True)


def _read(path: Path, *, stand_ins: bool) -> Any:
    with path.open("rb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns about foreign files before it refuses them
        try:
            _check_size(file)
            foreign = _foreign_names(file) if stand_ins else []
            file.seek(0)
            with torch.serialization.safe_globals([(_Nothing, name) for name in foreign]):
                return torch.load(file, map_location="cpu", weights_only=True)
        except OSError:
            raise
        except Exception as error:  # a damaged file can make the reader raise any exception
            raise ModelFileError(f"{path}: {_reason(error)}") from None


def _foreign_names(file: IO[bytes]) -> list[str]:
    try:
        return torch.serialization.get_unsafe_globals_in_checkpoint(file)
    except ValueError:  # the format before torch 1.6 does not list them
        return []


def _check_size(file: IO[bytes]) -> None:
    """Refuse a file that would unpack to more than its size: torch.save does not compress, a zip bomb does."""
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            claimed = sum(entry.file_size for entry in archive.infolist())
        size = os.fstat(file.fileno()).st_size
        if claimed > size:
            raise ValueError(f"it would unpack to {claimed:,} bytes, and has {size:,}")
    file.seek(0)


def checked_tensors(table: Mapping[Any, Any], where: str) -> dict[str, Tensor]:
    """Check that a table contains only named dense tensors, whole and with finite values, and return it.

    Raises:
        ModelFileError: the table contains anything else.
    """
    for name, value in table.items():
        if not isinstance(name, str) or not isinstance(value, Tensor) or value.layout != torch.strided:
            raise ModelFileError(f"{where}: expected names and dense tensors, got {described({name: value})}")
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise ModelFileError(
                f"{where}: {name} claims {value.numel():,} values and contains fewer; the file is damaged"
            )
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise ModelFileError(
                f"{where}: {name} has infinite or NaN values; take one from before its training diverged"
            )
    return dict(table)


def described(content: Any) -> str:
    """Describe a content in a few words, for errors."""
    if not isinstance(content, Mapping):
        return f"one {type(content).__name__}"
    names = [str(name)[:40] for name in content]
    return f"a table of {', '.join(names[:3])}{' …' if len(names) > 3 else ''}" if names else "an empty table"


def _reason(error: Exception) -> str:
    foreign = re.search(r"GLOBAL ([\w.]+)", str(error))
    if foreign:
        return (
            f"refused, because it holds more than tensors and plain containers (it names {foreign[1]}, which could run "
            "code); if you trust the file, load it with its own program and save the state_dict alone"
        )
    if re.search(r"Can only (SETITEMS?|append|extend|APPENDS?)\b", str(error)):
        return (
            "refused, because objects of unknown classes act as lists or tables in it; if you trust the file, load it "
            "with its own program and save the table of tensors alone"
        )
    # Before that torch writes advice to load the file and run its code.
    first = " ".join(str(error).split("WeightsUnpickler error:")[-1].strip().split("\n")[0].split())[:200]
    return f"not a checkpoint of torch.save, or damaged ({type(error).__name__}: {first})"
