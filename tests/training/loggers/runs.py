"""A tiny run for the tests of loggers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sivae.settings.presets import preset_config
from sivae.settings.run import RunConfig
from sivae.training.tasks.points import PointsTask

STEPS = 20


def tiny(**changes: Any) -> RunConfig:
    """A run of 8 Gaussians: at 5, 10, 15 and 20, checkpoints at 10 and 20, a picture at 10."""
    settings = {"steps": STEPS, "hidden": 8, "layers": 1, "batch_size": 16, "threads": 1, "device": "cpu"}
    often = {"log_every": 5, "checkpoint_every": 10, "sample_every": 10}
    return preset_config("8gaussians", **{**settings, **often, **changes})


def draw_and_measure_little(patch: pytest.MonkeyPatch) -> None:
    """Draw pictures of one pixel, and measure one metric."""

    def draw(self: PointsTask, path: Path, *_: object) -> list[Path]:
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (1, 1)).save(path)
        return [path]

    patch.setattr(PointsTask, "picture_samples", draw)
    patch.setattr(PointsTask, "picture_run", lambda self, folder, *_: draw(self, folder / "samples.png"))
    patch.setattr(PointsTask, "evaluate", lambda *_: {"nothing": 1.0})
