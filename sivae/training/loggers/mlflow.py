"""Log a run to MLflow: to its local store, unless MLFLOW_TRACKING_URI says otherwise."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from sivae.training.callbacks import Callback, RunInfo

_FOLDER = "sivae.folder"  # the tag by which a resumed run is found
_AT_ONCE = 100  # parameters in one call, the most that MLflow takes


class MLflow(Callback):
    """Logs losses, pictures, settings and the metrics of the end; checkpoints stay in the run's folder.

    The variables of MLflow hold, MLFLOW_EXPERIMENT_NAME for instance. A run that is resumed goes on in the same run of
    MLflow, where that is found by the folder.
    """

    def __init__(self) -> None:
        self._client: Any = None
        self._id = ""

    def _open(self, run: RunInfo) -> Any:
        if self._client is None:
            os.environ.setdefault(
                "MLFLOW_DISABLE_TELEMETRY", "true"
            )  # it would use the network, also for a local store
            from mlflow import MlflowClient

            client = MlflowClient()
            self._id = self._find(client, run) if run.start > 0 else ""
            if self._id:
                client.update_run(self._id, status="RUNNING")
            else:
                self._id = self._create(client, run)
            self._client = client
        return self._client

    def _find(self, client: Any, run: RunInfo) -> str:
        """Return the id of MLflow's last run for this folder; empty if there is none."""
        wanted = str(run.folder.absolute())
        quote = '"' if "'" in wanted else "'"  # MLflow's filters have no escape
        found = client.search_runs(
            [_experiment(client)],
            filter_string=f"tags.`{_FOLDER}` = {quote}{wanted}{quote}",
            order_by=["attributes.start_time DESC"],
            max_results=1,
        )
        return found[0].info.run_id if found else ""

    def _create(self, client: Any, run: RunInfo) -> str:
        from mlflow.entities import Param

        tags = {_FOLDER: str(run.folder.absolute())}
        made: str = client.create_run(_experiment(client), run_name=run.folder.name, tags=tags).info.run_id
        settings = [Param(key, value) for key, value in _flat(json.loads(run.config.to_json())).items()]
        for first in range(0, len(settings), _AT_ONCE):
            client.log_batch(made, params=settings[first : first + _AT_ONCE])
        return made

    def on_record(self, run: RunInfo, record: dict[str, Any]) -> None:
        """Log all numbers."""
        self._log_numbers(run, record, record["step"])

    def on_picture(self, run: RunInfo, step: int, name: str, path: Path) -> None:
        """Store a picture as `NAME/STEP.png`."""
        client = self._open(run)
        from PIL import Image

        with Image.open(path) as image:
            client.log_image(self._id, image, artifact_file=f"{name}/{step}.png")

    def on_end(self, run: RunInfo, summary: dict[str, Any] | None) -> None:
        """Log the metrics, and end MLflow's run: as a failed one if the training stopped early."""
        if self._client is not None:
            if summary is not None:
                self._log_numbers(run, {key: summary[key] for key in summary["metrics"]}, summary["steps"])
            self._client.set_terminated(self._id, "FAILED" if summary is None else "FINISHED")
            self._client = None

    def _log_numbers(self, run: RunInfo, values: dict[str, Any], step: int) -> None:
        client = self._open(run)
        from mlflow.entities import Metric

        now = time.time_ns() // 1_000_000
        numbers = [
            Metric(key, value, now, step)
            for key, value in values.items()
            if isinstance(value, int | float) and key != "step"
        ]
        client.log_batch(self._id, metrics=numbers)


def _experiment(client: Any) -> str:
    """Return the id of the experiment that MLflow's variables name, else of one that is named sivae."""
    if named := os.environ.get("MLFLOW_EXPERIMENT_ID"):
        return named
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "sivae")
    found = client.get_experiment_by_name(name)
    return str(client.create_experiment(name) if found is None else found.experiment_id)


def _flat(settings: dict[str, Any], before: str = "") -> dict[str, str]:
    """Settings by their dotted keys, as text."""
    flat: dict[str, str] = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{before}{key}.")
        else:
            flat[f"{before}{key}"] = str(value)
    return flat
