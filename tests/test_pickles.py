"""Pickles that would take a process down are refused by their program, before anything of it runs."""

from __future__ import annotations

import collections
import io
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from sivae.bounds import PICKLE_DEPTH
from sivae.data.images.formats.inert_pickle import read_pickle
from sivae.errors import DataError, ModelFileError
from sivae.models.official import import_official
from sivae.models.reading import read_weights
from sivae.pickles import check_pickle

NESTED = b"N" + b"\x85" * 100_000  # ((((None,),),),)
DOUBLED = b"N" + b"2\x86" * 40  # a tuple of itself twice
HOSTILE = {
    "a deep key": (b"\x80\x02}" + NESTED + b"Ns.", f"nests values more than {PICKLE_DEPTH} deep"),
    "a doubled key": (b"\x80\x02}" + DOUBLED + b"Ns.", "repeats values within values too often"),
    "a deep key of a set": (b"\x80\x04\x8f(" + NESTED + b"\x90.", f"nests values more than {PICKLE_DEPTH} deep"),
    "a doubled element": (b"\x80\x04(" + DOUBLED + b"\x91.", "repeats values within values too often"),
    "a doubled argument": (
        b"\x80\x02ccollections\nOrderedDict\n" + DOUBLED + b"\x85R.",
        "repeats values within values",
    ),
    "a repeated argument": (
        b"\x80\x02ccollections\nOrderedDict\n((" + b"N" * 10_000 + b"tq\x00" + b"h\x00" * 10_000 + b"tR.",
        "repeats values within values",
    ),
    "a slot of a high number": (b"\x80\x02}r\x00\x00\x00\x10.", "numbers a value 268,435,456, and has"),
    "a slot of a negative number": (b"}p-1\n.", "numbers a value -1"),
    "a tuple as a key": (b"\x80\x02}N\x85Ns.", "key of a table in it is neither text nor a number of 64 bits"),
    "a wide number as a key": (b"\x80\x02}\x8a\x09" + b"\x01" * 9 + b"Ns.", "neither text nor a number of 64 bits"),
    "a wide number as an argument": (
        b"\x80\x02ccollections\nCounter\n\x8a\x09" + b"\x01" * 9 + b"\x85R.",
        "a whole number of more than 64 bits",
    ),
    "a value that is not there": (b"\x80\x02s.", "takes a value that is not there"),
    "a slot that is not there": (b"\x80\x02h\x05.", "takes a value that is not there"),
    "a function without a name": (b"\x80\x04NN\x93.", "by something other than text"),
    "data outside": (b"\x80\x05\x97.", "refers to data outside"),
    "text that is cut short": (b"\x80\x04\x8d" + b"\xff" * 7 + b"\x7fx.", "remain"),
}


@pytest.mark.parametrize(("program", "message"), HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_program_is_refused(program: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_pickle(io.BytesIO(program), len(program))


@pytest.mark.parametrize("protocol", range(6))
def test_plain_pickles_pass_with_the_names_in_them(protocol: int) -> None:
    shared = [1, 2.5, None, True, 2**70]
    content = {b"a": np.zeros(3), "b": [shared, shared, (shared,)], 3: {4.5: {"x"}}, None: collections.OrderedDict(c=1)}
    file = io.BytesIO(pickle.dumps(content, protocol) + b"rest")
    names = check_pickle(file, len(file.getvalue()))
    assert ("collections", "OrderedDict") in names
    assert file.read() == b"rest"


def test_a_chain_of_lists_within_the_bound_passes() -> None:
    content: list[object] = []
    for _ in range(PICKLE_DEPTH - 1):
        content = [content]
    program = pickle.dumps(content)
    assert check_pickle(io.BytesIO(program), len(program)) == set()


@pytest.mark.parametrize("name", ["a deep key", "a doubled key", "a slot of a high number"])
def test_such_a_pickle_of_images_is_named(name: str) -> None:
    program, message = HOSTILE[name]
    with pytest.raises(DataError, match=f"data_batch_1 is damaged, .*{message}.*; nothing of it was executed"):
        read_pickle(program, "data_batch_1")


def _in_zip(path: Path, program: bytes) -> None:
    with torch.serialization._open_zipfile_writer(str(path)) as archive:  # type: ignore[no-untyped-call]
        archive.write_record("data.pkl", program, len(program))


def _as_legacy(path: Path, program: bytes) -> None:
    content = io.BytesIO()
    torch.save({}, content, _use_new_zipfile_serialization=False)
    path.write_bytes(content.getvalue().replace(b"\x80\x02}q\x00.", program, 1))


CHECKPOINTS = {
    name: HOSTILE[name] for name in ("a deep key", "a doubled key", "a slot of a high number", "a doubled argument")
} | {
    "gigabytes of zeros": (b"\x80\x02cbuiltins\nbytearray\nJ\x00\x00\x00\x7f\x85R.", "names builtins.bytearray"),
    "a tensor of any size": (b"\x80\x02ctorch\nFloatTensor\nJ\x00\x00\x00\x7f\x85R.", "names torch.FloatTensor"),
    "a state for an object": (b"\x80\x02ctorch._tensor\n_rebuild_from_type_v2\n(tR.", "names torch._tensor._rebuild"),
}


@pytest.mark.parametrize("write", [_in_zip, _as_legacy])
@pytest.mark.parametrize("read", [import_official, read_weights])
@pytest.mark.parametrize(("program", "message"), CHECKPOINTS.values(), ids=CHECKPOINTS)
def test_such_a_checkpoint_is_named(
    tmp_path: Path,
    program: bytes,
    message: str,
    read: Callable[[Path], object],
    write: Callable[[Path, bytes], None],
) -> None:
    path = tmp_path / "x.pth"
    write(path, program)
    with pytest.raises(ModelFileError, match=rf"x\.pth: not a checkpoint of torch\.save, or damaged \(.*{message}"):
        read(path)


def test_a_storage_larger_than_its_file_is_named(tmp_path: Path) -> None:
    content = io.BytesIO()
    torch.save({"model": torch.zeros(4)}, content, _use_new_zipfile_serialization=False)
    # The storage's number of values, and the list of the storages that follow: none, so that it stays as it was made.
    program = content.getvalue().replace(b"K\x04N", b"J\x00\x00\x10\x00N", 1)
    tail = program.rindex(b"\x80\x02]")
    (tmp_path / "x.pth").write_bytes(program[:tail] + b"\x80\x02].")
    with pytest.raises(ModelFileError, match=r"x\.pth: .*its tensors claim 4,194,304 bytes, and it has \d+"):
        read_weights(tmp_path / "x.pth")


def test_many_views_of_few_values_are_named(tmp_path: Path) -> None:
    values = torch.zeros(1000)
    torch.save({str(index): values for index in range(5)}, tmp_path / "x.pth")
    with pytest.raises(ModelFileError, match=r"x\.pth: its 5 tensors are views of the same few values"):
        read_weights(tmp_path / "x.pth")
