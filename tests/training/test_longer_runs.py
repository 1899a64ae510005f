"""Runs that are resumed for more steps than they were started with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sivae.errors import CheckpointError, ConfigError
from sivae.settings.presets import preset_config
from sivae.settings.run import RunConfig
from sivae.training.folder import read_config
from sivae.training.recorder import read_records
from sivae.training.run import train
from sivae.training.tasks.points import PointsTask
from tests.cli.running import run
from tests.data.images.samples import pngs, write_files
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


@pytest.mark.parametrize(
    "schedule",
    [{"milestones": ()}, {"warmup_fraction": 0.1}, {"freeze": "encoder", "freeze_fraction": 0.3}],
    ids=["no schedule", "a warm-up", "frozen for a while"],
)
def test_a_script_that_makes_a_run_longer_can_run_again(schedule: dict[str, Any], tmp_path: Path) -> None:
    """Its settings are those of the run's start, whatever the run has changed since."""
    config, folder = _config(**schedule), tmp_path / "run"
    train(config, folder, progress=False)
    train_until(53, config.replace(steps=60), folder, task=PointsTask, resume=True)
    once = read_config(folder)
    train(config.replace(steps=60), folder, resume=True, progress=False)
    assert read_config(folder) == once and once.steps == 60
    for lengthened in (config.replace(steps=80), once.replace(steps=100)):
        train(lengthened, folder, resume=True, progress=False)
    stored = read_config(folder)
    assert [(one["after"], one["now"]) for one in stored.changes if one["key"] == "steps"] == [
        (40, 60),
        (60, 80),
        (80, 100),
    ]
    for step in range(1, 41):
        for of_step in ("learning_rate_at", "phase_at", "frozen_at"):
            assert getattr(stored, of_step)(step) == getattr(config, of_step)(step), (of_step, step)
    for other in (config.replace(steps=120, warmup_fraction=0.2), stored.replace(milestones=(0.9,))):
        with pytest.raises(ConfigError, match="cannot change in a resumed run"):
            train(other, folder, resume=True, progress=False)


def test_changes_come_after_the_checkpoint_that_the_run_goes_on_from(tmp_path: Path) -> None:
    train(_config(), tmp_path / "run", progress=False)
    (tmp_path / "run" / "checkpoints" / "40" / "state.pt").write_bytes(b"damaged")
    train(_config(steps=60), tmp_path / "run", resume=True, progress=False)
    assert {one["after"] for one in read_config(tmp_path / "run").changes} == {30}


def test_an_error_about_the_length_names_the_setting_that_was_given() -> None:
    with pytest.raises(ConfigError, match="epochs = 1: they make 24 steps, and the run has 40 already, expected more"):
        _config().for_longer(24, 1.0, after=40)


def test_fewer_steps_are_an_error(tmp_path: Path) -> None:
    train(_config(), tmp_path / "run", progress=False)
    before = (tmp_path / "run" / "config.json").read_bytes()
    with pytest.raises(ConfigError, match="steps = 20: the run has 40 already, expected more; leave it out"):
        train(read_config(tmp_path / "run").replace(steps=20), tmp_path / "run", resume=True, progress=False)
    assert (tmp_path / "run" / "config.json").read_bytes() == before
    assert (tmp_path / "run" / "summary.json").exists()


def test_a_run_that_grows_cannot_go_on_for_longer() -> None:
    config = preset_config("style32", steps=30)
    words = "a run that grows cannot go on for longer, as its stages count from its end; leave it out, or start a new"
    with pytest.raises(ConfigError, match=f"steps = 40: {words}"):
        config.for_longer(40, None, after=30)
    with pytest.raises(ConfigError, match=f"epochs = 500: {words}"):
        config.check_longer(None, 500.0)


@pytest.mark.parametrize("steps", [2, 4])
def test_a_refusal_of_other_data_leaves_the_run_as_it_is(steps: int, tmp_path: Path) -> None:
    small = {"resolution": 8, "widths": (4,), "z_dim": 2, "batch_size": 8, "precision": "fp32", "threads": 1}
    config = preset_config("mnist-small", path="digits", device="cpu", steps=2, **small)
    train_until(1, config, tmp_path / "run")
    if steps > 2:
        train(out=tmp_path / "run", resume=True, progress=False)
    before = {path: path.read_bytes() for path in (tmp_path / "run").glob("*.json")}
    other = write_files(tmp_path / "other", pngs([f"{number}.png" for number in range(16)], height=8, width=8))
    with pytest.raises(CheckpointError, match=r"images were 1497.*train on other data in a new run by --init-from"):
        train(config.replace(path=str(other), steps=steps), tmp_path / "run", resume=True, progress=False)
    assert {path: path.read_bytes() for path in (tmp_path / "run").glob("*.json")} == before
