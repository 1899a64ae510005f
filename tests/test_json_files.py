"""A JSON file of the program is read whole and checked, or one error names the file, the fault and the remedy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, TypedDict

import pytest

from sivae import json_files
from sivae.errors import RunFolderError
from sivae.fields import AT_LEAST_1
from sivae.json_files import parse, read_json


class _Part(TypedDict):
    size: int


class _Content(TypedDict):
    steps: Annotated[int, AT_LEAST_1]
    score: float | None
    kind: Literal["a", "b"]
    names: list[str]
    parts: dict[str, _Part]
    values: int
    more: NotRequired[bool]


_GOOD: dict[str, Any] = {"steps": 3, "score": 1, "kind": "a", "names": ["x"], "parts": {"p": {"size": 2}}, "values": 5}


def _read(path: Path, **options: Any) -> Any:
    return read_json(path, _Content, error=RunFolderError, remedy="restore it", **options)


def test_a_file_comes_back_with_its_numbers_as_floats_and_keys_of_later_versions(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    path.write_text(json.dumps({**_GOOD, "later": [1]}))
    content = _read(path)
    assert content == {**_GOOD, "later": [1]}
    assert isinstance(content["score"], float)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps = 0: it must be 1 or more"),
        ({"steps": True}, "steps = True: expected a whole number"),
        ({"steps": 2**63}, "expected a whole number of at most 63 bits"),
        ({"score": "high"}, 'score = "high": expected a finite number'),
        ({"kind": ["a"]}, 'kind = ["a"]: expected one of a, b'),
        ({"names": "x"}, 'names = "x": expected a list'),
        ({"names": [1]}, "names = 1: expected text"),
        ({"parts": []}, "parts = []: expected an object with keys"),
        ({"parts": {"p": 5}}, "parts.p = 5: expected an object with keys"),
        ({"parts": {"p": {}}}, "parts.p.size is missing"),
        ({"more": None}, "more = null: expected true or false"),
        ({"kind": "c" * 10_000}, "c …: expected one of a, b"),
    ],
)
def test_a_wrong_value_is_named_with_the_file_and_the_remedy(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "file.json"
    path.write_text(json.dumps(_GOOD | change))
    with pytest.raises(RunFolderError) as caught:
        _read(path)
    assert str(caught.value).startswith(f"{path} is damaged: ")
    assert message in str(caught.value)
    assert str(caught.value).endswith("; restore it")
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not JSON in line 1, column 1"),
        (b'{"steps": 3,', "not JSON in line 1"),
        (b"[]", "the content = []: expected an object"),
        (b'{"steps": Infinity}', "Infinity is no number of JSON"),
        (b'{"score": NaN}', "NaN is no number of JSON"),
        (b"\xff", "byte 0 is no UTF-8"),
        (b"[" * 10_000, "nested more than 32 deep"),
        (b"[" * 10_000 + b"]" * 10_000, "nested more than 32 deep"),
        (b"[" * 40 + b"]" * 40, "nested more than 32 deep"),
        (b'{"steps": ' + b"9" * 5_000 + b"}", "digits"),
    ],
)
def test_what_is_no_json_of_the_program_is_said(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    path.write_bytes(content)
    with pytest.raises(RunFolderError, match=r"file\.json is damaged") as caught:
        _read(path)
    assert message in str(caught.value)


def test_a_file_beyond_any_that_the_program_writes_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file.json"
    path.write_text(json.dumps(_GOOD))
    monkeypatch.setattr(json_files, "LARGEST", 1 << 20)
    assert _read(path)["steps"] == 3
    path.write_bytes(b" " * ((1 << 20) + 1))
    with pytest.raises(RunFolderError, match="it has more than 1 MiB"):
        _read(path)


def test_a_file_that_cannot_be_read_is_named_and_a_missing_one_is_the_caller_s(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        _read(tmp_path / "file.json")
    with pytest.raises(RunFolderError, match=r"cannot be read \(Is a directory\); restore it"):
        _read(tmp_path)


def test_another_version_is_said_before_its_keys_are_looked_at(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    path.write_text('{"format": 2}')
    with pytest.raises(RunFolderError, match=r"format is 2, expected 1; use the version of sivae that wrote it, or"):
        _read(path, version=1)
    path.write_text(json.dumps({**_GOOD, "format": 1}))
    assert _read(path, version=1)["steps"] == 3


def test_parse_takes_what_json_takes() -> None:
    assert parse('{"a": [1, 2.5, null, "x"]}') == {"a": [1, 2.5, None, "x"]}
    with pytest.raises(ValueError, match="not JSON"):
        parse("{'a': 1}")
