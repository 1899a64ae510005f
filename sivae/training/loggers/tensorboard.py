"""Write a run's losses and pictures as TensorBoard's event files, into the run's folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sivae.training.callbacks import Callback, RunInfo


class TensorBoard(Callback):
    """Writes TensorBoard's event files. Where iterations come twice, TensorBoard shows the later ones."""

    def __init__(self) -> None:
        self._run: RunInfo | None = None
        self._events: Any = None

    def _writer(self, run: RunInfo) -> Any:
        """Return the writer; where a run goes on from another step than before, a new one."""
        if self._run is not run:
            from torch.utils.tensorboard.writer import SummaryWriter

            again = self._run is not None or run.start > 0
            self._close()
            self._events = SummaryWriter(str(run.folder), purge_step=run.start + 1 if again else None)
            self._run = run
        return self._events

    def on_record(self, run: RunInfo, record: dict[str, Any]) -> None:
        """Write the losses, and the other values that are not whole numbers."""
        events = self._writer(run)
        for key, value in record.items():
            if isinstance(value, float):
                events.add_scalar(key, value, record["step"])

    def on_picture(self, run: RunInfo, step: int, name: str, path: Path) -> None:
        """Write a picture."""
        import numpy as np
        from PIL import Image

        with Image.open(path) as image:
            self._writer(run).add_image(name, np.asarray(image.convert("RGB")), step, dataformats="HWC")

    def on_checkpoint(self, run: RunInfo, step: int, path: Path) -> None:
        """Have the file hold all events so far."""
        if self._events is not None:
            self._events.flush()

    def on_end(self, run: RunInfo, summary: dict[str, Any] | None) -> None:
        """Close the file."""
        self._close()

    def _close(self) -> None:
        if self._events is not None:
            self._events.close()
        self._run = self._events = None
