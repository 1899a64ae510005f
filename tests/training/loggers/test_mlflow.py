"""MLflow gets a run's records, pictures and settings, in its local store."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from sivae.training.loggers.mlflow import MLflow
from sivae.training.recorder import read_records
from sivae.training.run import train
from sivae.training.tasks.points import PointsTask
from tests.training.loggers.runs import STEPS, draw_and_measure_little, tiny
from tests.training.runs import assert_same, train_until

mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed")


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A client of a store of the test's own."""
    for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
        monkeypatch.delenv(name)
    draw_and_measure_little(monkeypatch)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    return mlflow.MlflowClient()


def _runs(client: Any, experiment: str = "sivae") -> list[Any]:
    return list(client.search_runs([client.get_experiment_by_name(experiment).experiment_id]))


def _steps(client: Any, run: Any) -> list[tuple[int, float]]:
    return [(one.step, one.value) for one in client.get_metric_history(run.info.run_id, "rec")]


def test_a_run_is_logged_and_trains_as_without(client: Any, tmp_path: Path) -> None:
    train(tiny(), tmp_path / "plain", progress=False, callbacks=[])
    train(tiny(), tmp_path / "run", progress=False, callbacks=[MLflow()])
    (run,) = _runs(client)
    assert (run.info.run_name, run.info.status) == ("run", "FINISHED")
    assert (run.data.params["steps"], run.data.params["model.hidden"]) == (str(STEPS), "8")
    assert _steps(client, run) == [(one["step"], one["rec"]) for one in read_records(tmp_path / "run")]
    assert run.data.metrics["nothing"] == 1.0
    assert [one.path for one in client.list_artifacts(run.info.run_id, "samples")] == [
        "samples/10.png",
        "samples/20.png",
    ]
    assert_same(tmp_path / "run", tmp_path / "plain")
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"


@pytest.mark.parametrize("name", ["run", "it's"])
def test_a_resumed_run_goes_on_in_the_same_run(name: str, client: Any, tmp_path: Path) -> None:
    train_until(13, tiny(), tmp_path / name, task=PointsTask, callbacks=[MLflow()])
    (stopped,) = _runs(client)
    assert stopped.info.status == "FAILED"
    train(out=tmp_path / name, resume=True, progress=False, callbacks=[MLflow()])
    (run,) = _runs(client)
    assert (run.info.run_id, run.info.status) == (stopped.info.run_id, "FINISHED")
    assert [step for step, _ in _steps(client, run)] == [5, 10, 15, 20]


def test_a_new_run_in_a_folder_of_the_same_name_is_a_new_one(
    client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    train(tiny(), tmp_path / "run", progress=False, callbacks=[MLflow()])
    (tmp_path / "run").rename(tmp_path / "old")
    train(tiny(), tmp_path / "run", progress=False, callbacks=[MLflow()])
    assert len(_runs(client, "mine")) == 2
