"""A training in two processes: how long it is, where it is stopped, and what is said of it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import pytest
from PIL import Image

from benchmarks import timed_training
from benchmarks.stages import ROOT
from benchmarks.timed_training import PROCESSES, REPORT, RUN
from sivae.errors import RunFolderError
from sivae.training import preset_config
from sivae.training.folder import read_config, read_summary

SMALL = preset_config("digits", widths=(4, 8), batch_size=8, device="cpu", threads=1, log_every=4)


def entries(out) -> list[dict]:
    return [json.loads(line) for line in (out / PROCESSES).read_text().splitlines()]


def test_the_second_process_ends_what_the_first_began(tmp_path, capsys):
    out, handler = tmp_path / "out", signal.getsignal(signal.SIGTERM)
    timed_training.first(out, SMALL, minutes=0.1, pilot_steps=24)
    assert signal.getsignal(signal.SIGTERM) is handler
    assert sorted(path.name for path in out.iterdir()) == [PROCESSES, RUN]  # the pilot is gone
    steps = read_config(out / RUN).total_steps
    assert 2 <= steps < preset_config("digits", batch_size=8).epochs * 200
    (began,) = entries(out)
    assert steps // 2 <= began["ends_at_step"] <= steps
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.timed_training", "second", str(out)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    summary = read_summary(out / RUN)
    assert summary is not None and summary["steps"] == steps
    assert [entry["ends_at_step"] for entry in entries(out)] == [began["ends_at_step"], steps]
    page = (out / REPORT).read_text()
    assert page in done.stdout
    with pytest.raises(RunFolderError, match="no second one"):
        timed_training.second(out)
    for text in (f"| iterations | {steps:,} |", f"| images seen | {8 * steps:,} |", "process 2", "run/samples.png"):
        assert text in page


def test_it_is_no_longer_than_the_preset_s(tmp_path, capsys):
    timed_training.first(tmp_path, SMALL.replace(epochs=0.2), minutes=60.0, pilot_steps=8)
    assert read_config(tmp_path / RUN).total_steps == round(0.2 * (1497 // 8))


def test_what_cannot_be_is_one_line(tmp_path, capsys):
    assert timed_training.main(["first", str(tmp_path), "--data", str(tmp_path / "nowhere"), "--device", "cpu"]) != 0
    error = capsys.readouterr().err.splitlines()
    assert len(error) == 1 and "nowhere" in error[0]
    with pytest.raises(SystemExit):
        timed_training.main(["third", str(tmp_path)])


def test_packages_of_the_command_line_and_of_other_data_are_not_needed(tmp_path):
    """A machine with a GPU often has what training needs and no more."""
    folder = tmp_path / "images"
    folder.mkdir()
    for index in range(8):
        Image.new("RGB", (32, 32), (30 * index, 0, 200)).save(folder / f"{index}.png")
    script = (
        "import sys; sys.modules.update(dict.fromkeys(('google_crc32c', 'nvtx', 'av')));"
        "from pathlib import Path;"
        "from benchmarks import gpu_check, gpu_speed, gpu_train, timed_training;"
        "from sivae.training import preset_config;"
        "config = preset_config('cifar10', path=sys.argv[1], widths=(4, 8), batch_size=4, log_every=1, epochs=4.0);"
        "timed_training.first(Path(sys.argv[2]), config.replace(device='cpu'), 1.0, 2)"
    )
    command = [sys.executable, "-c", script, str(folder), str(tmp_path / "out")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert read_config(tmp_path / "out" / RUN).total_steps == 8
