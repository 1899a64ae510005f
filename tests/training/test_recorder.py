"""Records are appended once, survive a crash, and do not need TensorBoard."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from sivae.training.recorder import Recorder, read_records


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


def test_tensorboard_shows_each_step_once_after_resuming(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    _record(tmp_path, range(1, 7))
    _record(tmp_path, range(5, 9), resumed=4)
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [event.step for event in events.Scalars("rec")] == list(range(1, 9))
    assert events.Scalars("rec")[2].value == pytest.approx(0.3)


def test_without_tensorboard_there_is_one_notice_and_the_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith("torch.utils.tensorboard")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    notices: list[str] = []
    recorder = Recorder(tmp_path, 0, notices.append)
    recorder.record(1, {"rec": torch.tensor(1.0)})
    recorder.close()
    (notice,) = notices
    assert "no TensorBoard events" in notice
    assert "pip install tensorboard" in notice
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_a_folder_without_records_has_none(tmp_path: Path) -> None:
    assert read_records(tmp_path) == []
