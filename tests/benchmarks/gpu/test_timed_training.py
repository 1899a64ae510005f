"""A training in two processes: how long it is, where it is stopped, and what its report says."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.gpu.stages import ROOT
from benchmarks.gpu.timed_training import PROCESSES, REPORT, RUN, first, main, second
from sivae.errors import RunFolderError
from sivae.training import preset_config
from sivae.training.folder import read_config, read_summary

SMALL = preset_config("digits", widths=(4, 8), batch_size=8, device="cpu", threads=1, log_every=4)


def entries(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / PROCESSES).read_text().splitlines()]


def test_the_second_process_ends_what_the_first_started(tmp_path, capsys):
    out, handler = tmp_path / "out", signal.getsignal(signal.SIGTERM)
    first(out, SMALL, minutes=0.02, pilot_steps=24)
    assert signal.getsignal(signal.SIGTERM) is handler
    assert sorted(path.name for path in out.iterdir()) == [PROCESSES, RUN]  # the pilot is gone
    steps = read_config(out / RUN).total_steps
    assert 2 <= steps < preset_config("digits", batch_size=8).epochs * 200
    (started,) = entries(out)
    assert steps // 2 <= started["ends_at_step"] <= steps
    assert main(["second", str(out)]) == 0
    summary = read_summary(out / RUN)
    assert summary is not None and summary["steps"] == steps
    assert [entry["ends_at_step"] for entry in entries(out)] == [started["ends_at_step"], steps]
    page = (out / REPORT).read_text()
    assert page in capsys.readouterr().out
    with pytest.raises(RunFolderError, match="expected the run of one process, found 2"):
        second(out)
    for text in (f"| iterations | {steps:,} |", f"| images seen | {8 * steps:,} |", "process 2", "run/samples.png"):
        assert text in page


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("first DIR --data nowhere --device cpu", "nowhere"),
        ("third DIR", "invalid choice: 'third'"),
        ("first", "name a folder for the run"),
        ("second DIR", "expected the run of one process, found 0"),
    ],
)
def test_a_mistake_is_named_in_one_line(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(words.split()) != 0
    error = capsys.readouterr().err.splitlines()
    assert len(error) == 1 and message in error[0]


def test_few_packages_are_needed_and_the_preset_s_epochs_are_the_limit(tmp_path):
    """A machine with a GPU often has what training needs and no more."""
    folder = tmp_path / "images"
    folder.mkdir()
    for index in range(8):
        Image.new("RGB", (32, 32), (30 * index, 0, 200)).save(folder / f"{index}.png")
    missing = (
        "rich",
        "google_crc32c",
        "nvtx",
        "av",
        "tensorboard",
        "torchmetrics",
        "sklearn",
        "scipy",
        "torch_fidelity",
    )
    script = (
        f"import sys; sys.modules.update(dict.fromkeys({missing}));"
        "from pathlib import Path;"
        "from benchmarks.gpu.timed_training import first;"
        "from sivae.training import preset_config;"
        "config = preset_config('cifar10', path=sys.argv[1], widths=(4, 8), batch_size=4, log_every=1, epochs=4.0);"
        "first(Path(sys.argv[2]), config.replace(device='cpu'), 1.0, 2)"
    )
    command = [sys.executable, "-c", script, str(folder), str(tmp_path / "out")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert read_config(tmp_path / "out" / RUN).total_steps == 8
