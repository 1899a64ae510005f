"""Runs that are resumed for more steps than they were started with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sivae.errors import ConfigError
from sivae.settings.presets import preset_config
from sivae.settings.run import RunConfig
from sivae.training.folder import read_config
from sivae.training.recorder import read_records
from sivae.training.run import train
from sivae.training.tasks.points import PointsTask
from tests.cli.running import run
from tests.training.runs import assert_same, train_until


def _config(**changes: Any) -> RunConfig:
    settings = {"steps": 40, "hidden": 8, "layers": 1, "batch_size": 16, "threads": 1, "log_every": 5}
    return preset_config("8gaussians", **{**settings, "checkpoint_every": 10, "milestones": (0.25, 0.5), **changes})


@pytest.fixture(autouse=True)
def no_metrics(no_pictures: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the metrics, which take longer than short trainings."""
    monkeypatch.setattr(PointsTask, "evaluate", lambda *_: {"nothing": 1.0})


def test_warm_up_milestones_and_frozen_steps_keep_their_iterations() -> None:
    config = _config(warmup_fraction=0.1, freeze="encoder", freeze_fraction=0.3)
    longer = config.for_longer(97, None, after=40)
    assert longer.total_steps == 97 and longer.warmup_steps == config.warmup_steps == 4
    for step in range(1, 41):
        for of_step in ("learning_rate_at", "phase_at", "frozen_at"):
            assert getattr(longer, of_step)(step) == getattr(config, of_step)(step), (of_step, step)
    assert [(one["after"], one["key"], one["before"]) for one in longer.changes] == [
        *((40, "steps", 40), (40, "warmup_fraction", 0.1)),
        *((40, "milestones", [0.25, 0.5]), (40, "freeze_fraction", 0.3)),
    ]
    assert RunConfig.from_json(longer.to_json()) == longer
    assert _config(freeze="encoder").for_longer(97, None, after=40).frozen_at(97) == "encoder"


def test_a_finished_run_goes_on_by_the_command_and_stays_exactly_resumable(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    for folder in (whole, stopped):
        train(_config(), folder, progress=False)
    code, _, err = run(capsys, "train", "--resume", whole, "--steps", 60, "--quiet")
    assert code == 0, err
    assert json.loads((whole / "summary.json").read_text())["steps"] == 60
    assert [record["step"] for record in read_records(whole)] == list(range(5, 61, 5))
    assert {(one["after"], one["key"]) for one in read_config(whole).changes} >= {(40, "steps"), (40, "milestones")}

    train_until(53, read_config(stopped).replace(steps=60), stopped, task=PointsTask, resume=True)
    assert not (stopped / "summary.json").exists()  # of the shorter run
    train(out=stopped, resume=True, progress=False)
    assert_same(stopped, whole)
    assert read_config(stopped) == read_config(whole)


def test_fewer_steps_are_an_error(tmp_path: Path) -> None:
    train(_config(), tmp_path / "run", progress=False)
    before = (tmp_path / "run" / "config.json").read_bytes()
    with pytest.raises(ConfigError, match="steps = 20: the run has 40 already, expected more; leave it out"):
        train(read_config(tmp_path / "run").replace(steps=20), tmp_path / "run", resume=True, progress=False)
    assert (tmp_path / "run" / "config.json").read_bytes() == before
    assert (tmp_path / "run" / "summary.json").exists()


def test_a_run_that_grows_cannot_go_on_for_longer() -> None:
    with pytest.raises(ConfigError, match="a run that grows cannot go on for longer"):
        preset_config("style32", steps=30).for_longer(40, None, after=30)
