"""Log a run to Weights & Biases: offline, into the run's folder, unless WANDB_MODE says otherwise."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from sivae.training.callbacks import Callback, RunInfo


class Wandb(Callback):
    """Logs losses, pictures, settings and the metrics of the end; checkpoints stay in the run's folder.

    The files are in `FOLDER/wandb`, and `wandb sync` sends them. WANDB_MODE=online sends them while the run trains;
    WANDB_PROJECT and the other variables of W&B hold too. A run that is resumed goes on under the same id.
    """

    def __init__(self) -> None:
        self._logged: Any = None

    def _open(self, run: RunInfo) -> Any:
        if self._logged is None:
            os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # it would use the network, also offline
            import wandb

            known = os.environ.get("WANDB_RUN_ID") or _earlier_id(run.folder)
            self._logged = wandb.init(
                dir=run.folder,
                project=os.environ.get("WANDB_PROJECT", "sivae"),
                name=os.environ.get("WANDB_NAME", run.folder.name),
                config=json.loads(run.config.to_json()),
                mode=os.environ.get("WANDB_MODE", "offline"),
                id=known,
                resume=None if known is None else "allow",
                settings=wandb.Settings(console="off"),  # what the run prints is the terminal's
            )
            self._logged.define_metric("*", step_metric="step")  # W&B's own steps cannot go back, and a run can
        return self._logged

    def on_record(self, run: RunInfo, record: dict[str, Any]) -> None:
        """Log all values that there are."""
        self._open(run).log({key: value for key, value in record.items() if value is not None})

    def on_picture(self, run: RunInfo, step: int, name: str, path: Path) -> None:
        """Log a picture."""
        logged = self._open(run)
        import wandb

        logged.log({"step": step, name: wandb.Image(str(path))})

    def on_end(self, run: RunInfo, summary: dict[str, Any] | None) -> None:
        """Log the metrics, and end W&B's run: as a failed one if the training stopped early."""
        if self._logged is not None:
            if summary is not None:
                self._logged.summary.update({key: summary[key] for key in summary["metrics"]})
            self._logged.finish(exit_code=1 if summary is None else 0)
            self._logged = None


def _earlier_id(folder: Path) -> str | None:
    """Return the id that the last process logged a run under: its folder is named run-DATE_TIME-ID."""
    names = [path.name.removeprefix("offline-") for path in folder.glob("wandb/*run-*-*")]
    return max(names).split("-", 2)[2] if names else None
