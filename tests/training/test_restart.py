"""A training that torchrun starts again goes on with the run that it started before, and with no other."""

from __future__ import annotations

import itertools
import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sivae.errors import RunFolderError
from sivae.settings.presets import preset_config
from sivae.settings.run import RunConfig
from sivae.training import restart
from sivae.training.recorder import read_records
from sivae.training.run import train
from sivae.training.tasks.points import PointsTask
from tests.training import killed_run
from tests.training.runs import assert_same

_SMALL: dict[str, Any] = {"steps": 6, "batch_size": 8, "hidden": 8, "layers": 1, "checkpoint_every": 2, "log_every": 1}


def small(**changes: Any) -> RunConfig:
    return preset_config("rings", **{**_SMALL, "device": "cpu", "threads": 1, **changes})


class Torchrun:
    """One torchrun on this machine: its attempts are processes that it starts one after another."""

    def __init__(self, patch: pytest.MonkeyPatch, *, run_id: str = "none", process: int = 7) -> None:
        self._patch, self._run_id, self._process = patch, run_id, process

    def start(self, attempt: int) -> None:
        """From here on, this process is the given attempt's."""
        self._patch.setenv("TORCHELASTIC_RUN_ID", self._run_id)
        self._patch.setenv("TORCHELASTIC_RESTART_COUNT", str(attempt))
        self._patch.setattr(restart, "_torchrun", lambda: ["boot", str(self._process), "1"])
        self._patch.setattr(restart, "_runs", itertools.count())


class _Killed(BaseException):
    """Stands for a signal that ends the process."""


def dies(config: RunConfig, out: Path | None, *, step: int) -> None:
    """Train until the process is killed while iteration `step` draws its batch."""
    original = PointsTask.batch

    def batch(self: PointsTask, at: int) -> Any:
        if at == step:
            raise _Killed
        return original(self, at)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(_Killed):
        patch.setattr(PointsTask, "batch", batch)
        train(config, out, progress=False)


@pytest.fixture(autouse=True)
def _without_metrics_and_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("picture_samples", "picture_run"):
        monkeypatch.setattr(PointsTask, name, lambda *_: [])
    monkeypatch.setattr(PointsTask, "evaluate", lambda *_: {"nothing": 1.0})


@pytest.fixture
def torchrun(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Torchrun:
    """A torchrun in a new working folder, at its first attempt."""
    monkeypatch.chdir(tmp_path)
    made = Torchrun(monkeypatch)
    made.start(0)
    return made


@pytest.mark.parametrize("step", [2, 5], ids=["before its first checkpoint", "after it"])
@pytest.mark.parametrize("out", [None, Path("asked")], ids=["default folder", "folder of its own"])
def test_a_restart_goes_on_with_its_run(
    out: Path | None, step: int, torchrun: Torchrun, capsys: pytest.CaptureFixture[str]
) -> None:
    dies(small(), out, step=step)
    torchrun.start(1)
    folder = out or Path("runs/rings-seed0")
    assert Path(train(small(), out)["run"]) == folder
    err = capsys.readouterr().err
    assert f"torchrun has started this training again; it goes on in {folder}" in err
    assert (f"{folder.name} continues after step 4 of 6" in err) == (step == 5)
    train(small(), "whole", progress=False)
    assert_same(folder, Path("whole"))
    assert [path.name for path in Path("runs").glob("*")] == ([] if out else ["rings-seed0"])


def test_each_run_of_a_script_is_found_again(torchrun: Torchrun) -> None:
    first = train(small(), progress=False)["run"]
    dies(small(), None, step=5)
    torchrun.start(1)
    assert [train(small(), progress=False)["run"] for _ in range(2)] == [first, "runs/rings-seed0-2"]
    assert train(small(), progress=False)["run"] == "runs/rings-seed0-3"


def test_a_script_may_train_the_same_twice(torchrun: Torchrun) -> None:
    first = train(small(), progress=False)["run"]
    torchrun.start(0)  # another process of the same script
    assert train(small(), progress=False)["run"] == f"{first}-2"
    with pytest.raises(RunFolderError, match="is not empty"):
        train(small(), first, progress=False)


def test_a_failure_after_the_end_trains_nothing_again(torchrun: Torchrun) -> None:
    first = train(small(), progress=False)
    torchrun.start(1)
    assert train(small(), progress=False) == first


def test_runs_of_another_torchrun_are_left_alone(torchrun: Torchrun, monkeypatch: pytest.MonkeyPatch) -> None:
    dies(small(), None, step=5)
    dies(small(), Path("asked"), step=5)
    for other in (Torchrun(monkeypatch, process=8), Torchrun(monkeypatch, run_id="job")):
        other.start(1)
        with pytest.raises(RunFolderError, match="asked is not empty; go on with it by --resume asked"):
            train(small(), "asked", progress=False)
        assert train(small(), progress=False)["run"] != "runs/rings-seed0"


def test_runs_with_other_settings_are_left_alone(torchrun: Torchrun) -> None:
    dies(small(), None, step=5)
    torchrun.start(1)
    assert train(small(beta_neg=2.0), progress=False)["run"] == "runs/rings-seed0-2"


def test_a_process_that_dies_while_it_makes_the_folder_leaves_it_usable(torchrun: Torchrun) -> None:
    launch = restart.launch_record(small())
    assert launch is not None
    Path("asked").mkdir()
    restart.record_launch(Path("asked"), launch)
    torchrun.start(1)
    assert train(small(), "asked", progress=False)["steps"] == 6


def test_without_torchrun_nothing_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    train(small(steps=1), tmp_path / "run", progress=False)
    assert not (tmp_path / "run" / "launch.json").exists()


def test_two_processes_go_on_after_one_of_them_is_killed(tmp_path: Path) -> None:
    """By torchrun's static rendezvous, the default, whose store keeps the addresses of the processes before."""
    words = "train rings --device cpu --steps 4 --batch-size 8 --hidden 8 --layers 1 --checkpoint-every 2 --log-every 1"
    with socket.socket() as reserved:
        # While it is bound, the system gives its port to no other; torchrun may listen there, since it does not.
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.bind(("", 0))
        port = reserved.getsockname()[1]
        done = subprocess.run(
            [sys.executable, killed_run.__file__, str(port), *words.split()],
            cwd=tmp_path,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert done.returncode == 0, done.stderr
    assert not any(line.startswith("Traceback") for line in done.stderr.splitlines())  # torch logs its own
    lost = [line for line in done.stderr.splitlines() if line.startswith("sivae: the exchange")]
    assert len(lost) == 1
    assert re.search(
        r"failed in process 0: \w[^;]*; if another process has ended, its own message says why; start all of them "
        r"again with --resume and the run's folder$",
        lost[0],
    )
    assert "torchrun has started this training again; it goes on in runs/rings-seed0\n" in done.stderr
    assert "rings-seed0 continues after step 2 of 4" in done.stderr
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["rings-seed0"]
    assert [record["step"] for record in read_records(tmp_path / "runs/rings-seed0")] == [1, 2, 3, 4]
