"""Read model files of other programs safely: tensors and plain containers are read, and no code is run."""

from __future__ import annotations

import io
import os
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor
from torch._utils import IMPORT_MAPPING, NAME_MAPPING

from sivae.errors import ModelFileError
from sivae.pickles import check_pickle

_ZIP = b"PK\x03\x04"
_SHARING = 4  # bytes of tensors for each byte of their memory: a network may have the same weights in a few places
_LEGACY_PICKLES = 5  # magic number, protocol, system, content, keys of storages: the format before torch 1.6
# Of what torch itself calls while it reads a file, what tables of tensors need. Others take memory by their arguments.
_CALLED = re.compile(
    r"torch\._utils\._rebuild_(tensor|tensor_v2|parameter)|torch\.(Size|device|nn\.parameter\.Parameter)|_codecs\.encode"
    r"|torch\.\w+Storage|torch\.storage\.\w+Storage|torch\.(bfloat|u?int|float|complex)\d*|torch\.(bool|double|half|long)"
    r"|collections\.(OrderedDict|Counter)"
)


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
        content = read_plain(path)
        if not isinstance(content, Mapping):
            raise ModelFileError(f"{path} holds {described(content)}, expected a table of names and tensors")
    return checked_tensors(content, str(path))


def read_plain(path: Path) -> Any:
    """Read a file of `torch.save`: tensors on the CPU and plain containers.

    Raises:
        OSError: the file cannot be read.
        ModelFileError: the file has another format, is damaged, or contains anything else.
    """
    return _read(path, stand_ins=False)


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
            size = os.fstat(file.fileno()).st_size
            source, names = _checked(file, size)
            foreign = names & set(_foreign_names(source))
            for name in names - foreign:
                if _CALLED.fullmatch(name) is None:
                    raise ValueError(f"it names {name}, which no table of tensors needs")
            source.seek(0)
            with torch.serialization.safe_globals([(_Nothing, name) for name in foreign] if stand_ins else []):
                content = torch.load(source, map_location="cpu", weights_only=True)
            _check_storages(content, size)
            return content
        except OSError:
            raise
        except Exception as error:  # a damaged file can make the reader raise any exception
            raise ModelFileError(f"{path}: {_reason(error)}") from None


def _foreign_names(file: IO[bytes]) -> list[str]:
    file.seek(0)
    try:
        return torch.serialization.get_unsafe_globals_in_checkpoint(file)
    except ValueError:  # the format before torch 1.6 does not list them
        return []


def _checked(file: IO[bytes], size: int) -> tuple[IO[bytes], set[str]]:
    """Check a file's sizes and pickles, and return what torch may read, with the names in the pickles.

    Raises:
        ValueError: the file would unpack to more than its size (torch.save does not compress, a zip bomb does), or a
            pickle breaks a bound.
    """
    if file.read(len(_ZIP)) == _ZIP:
        with zipfile.ZipFile(file) as archive:
            claimed = sum(entry.file_size for entry in archive.infolist())
        if claimed > size:
            raise ValueError(f"it would unpack to {claimed:,} bytes, and has {size:,}")
        file.seek(0)
        program = torch._C.PyTorchFileReader(file).get_record("data.pkl")
        return file, _names(check_pickle(io.BytesIO(program), len(program)))
    file.seek(0)
    # In memory: of a file on the disk torch first looks whether it is a tar, and would unpack that.
    source = io.BytesIO(file.read())
    return source, set().union(*(_names(check_pickle(source, size)) for _ in range(_LEGACY_PICKLES)))


def _names(found: set[tuple[str, str]]) -> set[str]:
    """The names in a pickle, as torch reads those of Python 2."""
    names = set()
    for module, name in found:
        module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
        names.add(f"{module}.{name}")
    return names


def _check_storages(content: Any, size: int) -> None:
    """Raise ValueError if tensors take more memory than the file has bytes."""
    storages = {tensor.untyped_storage()._cdata: tensor.untyped_storage().nbytes() for tensor in _tensors(content)}
    if sum(storages.values()) > size:
        raise ValueError(f"its tensors claim {sum(storages.values()):,} bytes, and it has {size:,}")


def _tensors(content: Any) -> Iterator[Tensor]:
    """The dense tensors in nested containers."""
    waiting, seen = [content], set()
    while waiting:
        value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, Mapping):
            waiting.extend(value.values())
        elif isinstance(value, list | tuple):
            waiting.extend(value)
        elif isinstance(value, Tensor) and value.layout == torch.strided and value.device.type == "cpu":
            yield value


def checked_tensors(table: Mapping[Any, Any], where: str) -> dict[str, Tensor]:
    """Check that a table contains only named dense tensors, whole and with finite values, and return it.

    Raises:
        ModelFileError: the table contains anything else.
    """
    for name, value in table.items():
        if not isinstance(name, str) or not isinstance(value, Tensor) or value.layout != torch.strided:
            raise ModelFileError(f"{where}: expected names and dense tensors, got {described({name: value})}")
        if value.is_quantized or value.device.type != "cpu":
            raise ModelFileError(f"{where}: {name} is no tensor of plain numbers; save it in float32")
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise ModelFileError(
                f"{where}: {name} claims {value.numel():,} values and contains fewer; the file is damaged"
            )
    storages = {value.untyped_storage()._cdata: value.untyped_storage().nbytes() for value in table.values()}
    if sum(value.numel() * value.element_size() for value in table.values()) > _SHARING * sum(storages.values()):
        raise ModelFileError(f"{where}: its {len(table):,} tensors are views of the same few values; it is damaged")
    for name, value in table.items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise ModelFileError(
                f"{where}: {name} has infinite or NaN values; take one from before its training diverged"
            )
    return dict(table)


def without_data_parallel(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Take away the prefix that torch's DataParallel puts before all names."""
    prefix = "module."
    if not all(name.startswith(prefix) for name in tensors):
        return tensors
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}


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
    return f"not a checkpoint of torch.save, or damaged ({type(error).__name__}: {first}); fetch it again"
