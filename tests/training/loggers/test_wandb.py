"""Weights & Biases gets a run's records and pictures, offline in the run's folder, under one id."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from sivae.training.loggers.wandb import Wandb
from sivae.training.recorder import read_records
from sivae.training.run import train
from sivae.training.tasks.points import PointsTask
from tests.training.loggers.runs import STEPS, draw_and_measure_little, tiny
from tests.training.runs import assert_same, train_until

wandb = pytest.importorskip("wandb", reason="wandb is not installed")


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, list[dict[str, Any]]]]:
    """Every run of W&B that the test starts, with what was logged to it, and its summary at the end as the last."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    draw_and_measure_little(monkeypatch)
    started: list[tuple[Any, list[dict[str, Any]]]] = []
    original = wandb.init

    def init(**options: Any) -> Any:
        run = original(**options)
        log, finish, values = run.log, run.finish, []
        monkeypatch.setattr(run, "log", lambda data: values.append(data) or log(data))
        monkeypatch.setattr(run, "finish", lambda exit_code: values.append(dict(run.summary)) or finish(exit_code))
        started.append((run, values))
        return run

    monkeypatch.setattr(wandb, "init", init)
    return started


def test_a_run_is_logged_offline_in_its_folder_and_trains_as_without(logged: Any, tmp_path: Path) -> None:
    train(tiny(), tmp_path / "plain", progress=False, callbacks=[])
    train(tiny(), tmp_path / "run", progress=False, callbacks=[Wandb()])
    ((run, values),) = logged
    assert run.settings.mode == "offline"
    assert (run.project, run.name, run.config["steps"]) == ("sivae", "run", STEPS)
    assert values.pop()["nothing"] == 1.0
    assert [one for one in values if "rec" in one] == read_records(tmp_path / "run")
    assert [one["step"] for one in values if isinstance(one.get("samples"), wandb.Image)] == [10, STEPS]
    (kept,) = (tmp_path / "run" / "wandb").glob("offline-run-*")
    assert len(list(kept.rglob("samples_*.png"))) == 2
    assert_same(tmp_path / "run", tmp_path / "plain")
    assert os.environ["WANDB_ERROR_REPORTING"] == "false"


def test_a_resumed_run_goes_on_under_its_id(logged: Any, tmp_path: Path) -> None:
    train_until(13, tiny(), tmp_path / "run", task=PointsTask, callbacks=[Wandb()])
    train(out=tmp_path / "run", resume=True, progress=False, callbacks=[Wandb()])
    (first, _), (second, values) = logged
    assert first.id == second.id
    assert [one["step"] for one in values[:-1] if "rec" in one] == [15, 20]


def test_the_variables_of_wandb_hold(logged: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("MODE", "disabled"), ("PROJECT", "mine"), ("RUN_ID", "chosen")):
        monkeypatch.setenv(f"WANDB_{name}", value)
    train(tiny(), tmp_path / "run", progress=False, callbacks=[Wandb()])
    ((run, _),) = logged
    assert run.disabled and run.settings.mode == "disabled"
    assert not (tmp_path / "run" / "wandb").exists()
