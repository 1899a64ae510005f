"""Records are appended once, and survive a crash."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from sivae.training.recorder import Recorder, last_step, read_records


def _silent(text: str) -> None:
    raise AssertionError(f"unexpected notice: {text}")


def _record(folder: Path, steps: range, resumed: int = 0) -> None:
    recorder = Recorder(folder, resumed, _silent)
    for step in steps:
        recorder.record(step, {"rec": torch.tensor(step / 10), "kl_real": torch.tensor(2.0)}, phase="warm-up")
    recorder.close()


def test_a_record_holds_the_losses_and_is_on_the_disk_at_once(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, 0, _silent)
    losses = {"rec": torch.tensor(0.1), "kl_real": torch.tensor(float("inf")), "kl_fake": torch.tensor(3)}
    record = recorder.record(5, losses, phase="vae", seconds=1.5)
    expected = {
        "step": 5,
        "rec": torch.tensor(0.1).item(),
        "kl_real": None,
        "kl_fake": 3.0,
        "phase": "vae",
        "seconds": 1.5,
    }
    assert record == expected
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == expected
    recorder.close()


def test_resuming_cuts_later_records_and_torn_lines(tmp_path: Path) -> None:
    _record(tmp_path, range(1, 7))
    path = tmp_path / "metrics.jsonl"
    first_four = b"".join(path.read_bytes().splitlines(keepends=True)[:4])
    with path.open("ab") as file:
        file.write(b'{"step": 7, "re')
    assert [record["step"] for record in read_records(tmp_path)] == [1, 2, 3, 4, 5, 6]
    Recorder(tmp_path, 4, _silent).close()
    assert path.read_bytes() == first_four
    _record(tmp_path, range(5, 7), resumed=4)
    assert [record["step"] for record in read_records(tmp_path)] == [1, 2, 3, 4, 5, 6]


def test_a_folder_without_records_has_none(tmp_path: Path) -> None:
    assert read_records(tmp_path) == []


@pytest.mark.parametrize(
    "line",
    [
        b"\0" * 300,
        b'{"step": 3, "rec": ',
        b'{"step": Infinity}',
        b'{"step": "3"}',
        b'{"step": 3, "rec": "low"}',
        b'{"step": 3, "rec": 1e999}',
        b'{"step": 3, "rec": 1' + b"0" * 400 + b"}",
        b'{"step": 3, "phase": 7}',
        b'{"step": 3, "rec": ' + b"[" * 10_000,
        b"[3]",
        b"\xff",
    ],
)
def test_a_damaged_line_loses_itself_alone_and_is_said(line: bytes, tmp_path: Path) -> None:
    _record(tmp_path, range(1, 7))
    path = tmp_path / "metrics.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], line + b"\n", *lines[3:]]))
    assert [record["step"] for record in read_records(tmp_path)] == [1, 2, 4, 5, 6]
    assert last_step(tmp_path) == 6
    notices: list[str] = []
    Recorder(tmp_path, 5, notices.append, last=5).close()
    assert notices == [f"{path}: damaged lines removed: 1, the first was line 3"]
    assert path.read_bytes() == b"".join([*lines[:2], *lines[3:5]])


def test_lost_records_are_said(tmp_path: Path) -> None:
    _record(tmp_path, range(1, 4))
    notices: list[str] = []
    Recorder(tmp_path, 6, notices.append, last=5).close()
    (notice,) = notices
    assert "has lost its records after step 3 up to step 5; the run goes on without them" in notice


def test_records_go_on_in_a_new_file_if_theirs_is_deleted(tmp_path: Path) -> None:
    notices: list[str] = []
    recorder = Recorder(tmp_path, 0, notices.append)
    for step in range(1, 6):
        if step == 3:
            (tmp_path / "metrics.jsonl").unlink()
        recorder.record(step, {"rec": torch.tensor(1.0)})
    recorder.close()
    assert [record["step"] for record in read_records(tmp_path)] == [3, 4, 5]
    (notice,) = notices
    assert "metrics.jsonl was deleted or replaced by another program; records from step 3 on" in notice
