"""A small experiment with real trainings, and trainings in this process, without pictures and with coarse metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sivae.evaluation.density import evaluate_density
from sivae.reproduce.experiment import Report, Settings, Trained, Training
from sivae.settings.run import RunConfig
from sivae.training.folder import read_summary
from sivae.training.run import train
from sivae.training.tasks.points import PointsTask

TINY: dict[str, Any] = {"hidden": 8, "layers": 1, "batch_size": 16, "log_every": 2}


def experiment(*trainings: tuple[str, Mapping[str, Any]]) -> SimpleNamespace:
    """An experiment called toy, on 8gaussians: the names of its trainings, and what they have different."""

    def make(settings: Settings) -> list[Training]:
        return [Training(name, settings.configure("8gaussians", **values)) for name, values in trainings]

    def report(settings: Settings, runs: Mapping[str, Trained], folder: Path, *, show: bool = False) -> Report:
        (folder / "toy.png").write_bytes(b"not really one")
        metrics = {name: run.metric("jsd") for name, run in runs.items()}
        return Report("About the toy.", [("What we see", "Little.")], {"jsd": metrics}, ["toy.png"])

    return SimpleNamespace(
        NAME="toy",
        SUMMARY="two small networks",
        NEEDS="nothing",
        TIME={"quick": "seconds", "full": "seconds"},
        trainings=make,
        report=report,
    )


def train_here(trainings: Sequence[Training], folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Trained]:
    """What :func:`sivae.reproduce.trainings.train_all` would give, in seconds."""

    def evaluate(self: PointsTask, model: Any, seed: int, **_: Any) -> dict[str, float]:
        return evaluate_density(model, self._density, seed=seed, elbo_points=500, grid_resolution=32)

    monkeypatch.setattr(PointsTask, "evaluate", evaluate)
    monkeypatch.setattr(PointsTask, "picture_run", lambda *_: [])
    runs = {}
    for one in trainings:
        run = folder / "runs" / one.name
        train(one.config, run, progress=False)
        config = RunConfig.read(run / "config.json")
        runs[one.name] = Trained(one.name, config, run, read_summary(run), divergence=None, went_back=False)
    return runs
