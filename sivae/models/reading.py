"""Reading files that come from somewhere else: tensors and plain containers, and nothing else."""

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
    """In the place of an object of a class that is not known here; it keeps nothing of it."""

    __slots__ = ()

    def __init__(self, *arguments: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors by name of a file that holds nothing else, on the CPU and finite.

    Args:
        path: of safetensors where it ends so, else of `torch.save`. Nothing in it is executed.

    Raises:
        OSError: it cannot be read.
        ModelFileError: it is no such file, is damaged, or holds something else.
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
    """The content of a file of `torch.save`, its tensors on the CPU, and something empty in the place of other objects.

    Raises:
        OSError: it cannot be read.
        ModelFileError: it is no such file, is damaged, or asks for what could act on the system.
    """
    return _read(path, stand_ins=True)


def _read(path: Path, *, stand_ins: bool) -> Any:
    with path.open("rb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch wonders at foreign files before it refuses them
        try:
            _check_size(file)
            foreign = _foreign_names(file) if stand_ins else []
            file.seek(0)
            with torch.serialization.safe_globals([(_Nothing, name) for name in foreign]):
                return torch.load(file, map_location="cpu", weights_only=True)
        except OSError:
            raise
        except Exception as error:  # what a damaged file makes the reader stumble over can be anything
            raise ModelFileError(f"{path}: {_reason(error)}") from None


def _foreign_names(file: IO[bytes]) -> list[str]:
    try:
        return torch.serialization.get_unsafe_globals_in_checkpoint(file)
    except ValueError:  # the old format, in which they are not listed
        return []


def _check_size(file: IO[bytes]) -> None:
    """Refuse what would not fit its own size once read: torch.save packs nothing, and a packed bomb is large then."""
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            claimed = sum(entry.file_size for entry in archive.infolist())
        size = os.fstat(file.fileno()).st_size
        if claimed > size:
            raise ValueError(f"it would unpack to {claimed:,} bytes, and has {size:,}")
    file.seek(0)


def checked_tensors(table: Mapping[Any, Any], where: str) -> dict[str, Tensor]:
    """A table of names and tensors that are all there in memory, with finite values.

    Raises:
        ModelFileError: something else is in it.
    """
    for name, value in table.items():
        if not isinstance(name, str) or not isinstance(value, Tensor) or value.layout != torch.strided:
            raise ModelFileError(f"{where}: expected names and dense tensors, got {described({name: value})}")
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise ModelFileError(f"{where}: {name} claims {value.numel():,} values, and holds fewer; it is damaged")
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise ModelFileError(
                f"{where}: {name} has infinite or NaN values; take one from before its training diverged"
            )
    return dict(table)


def described(content: Any) -> str:
    """In a few words, for errors."""
    if not isinstance(content, Mapping):
        return f"one {type(content).__name__}"
    names = [str(name)[:40] for name in content]
    return f"a table of {', '.join(names[:3])}{' …' if len(names) > 3 else ''}" if names else "an empty table"


def _reason(error: Exception) -> str:
    foreign = re.search(r"GLOBAL ([\w.]+)", str(error))
    if foreign:
        return (
            f"refused, as it holds more than tensors and plain containers (it asks for {foreign[1]}, which could run "
            "code); save the state_dict alone, where you trust the file"
        )
    if re.search(r"Can only (SETITEMS?|append|extend|APPENDS?)\b", str(error)):
        return (
            "refused, as objects that are not known here act as lists or tables in it; save the table of tensors "
            "alone, where you trust the file"
        )
    # What torch writes before that is advice to load the file with its code.
    first = " ".join(str(error).split("WeightsUnpickler error:")[-1].strip().split("\n")[0].split())[:200]
    return f"not a checkpoint of torch.save, or damaged ({type(error).__name__}: {first})"
