"""Runs that go on with another batch size, rate or weights than they were started with."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from sivae.errors import ConfigError
from sivae.settings.presets import preset_config
from sivae.settings.run import RunConfig
from sivae.training.checkpoint import best_checkpoint, list_checkpoints
from sivae.training.diagnosis import Saturation
from sivae.training.folder import read_config
from sivae.training.parallel import Processes
from sivae.training.recorder import read_records
from sivae.training.run import train
from sivae.training.tasks.base import open_task
from sivae.training.tasks.images import ImageTask
from sivae.training.tasks.points import PointsTask
from tests.cli.running import run
from tests.training.runs import assert_same, train_until

SMALL = {"resolution": 8, "widths": (4,), "z_dim": 2, "precision": "fp32", "threads": 1, "device": "cpu"}
WRITES = {"log_every": 5, "checkpoint_every": 10, "beta_neg": 2.0}


def _points(**changes: Any) -> RunConfig:
    settings = {"steps": 40, "hidden": 8, "layers": 1, "batch_size": 16, "threads": 1, "log_every": 5}
    return preset_config("8gaussians", **{**settings, "checkpoint_every": 10, "milestones": (0.25, 0.5), **changes})


def _images(**changes: Any) -> RunConfig:
    settings = {
        "path": "digits",
        "batch_size": 64,
        "log_every": 5,
        "checkpoint_every": 10,
        "steps": 30,
        "beta_neg": 2.0,
    }
    return preset_config("mnist-small", **{**SMALL, **settings, **changes})


KINDS = {
    "points": (_points, PointsTask),
    "images": (_images, ImageTask),
}


@pytest.fixture(autouse=True)
def no_metrics(no_pictures: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the metrics, which take longer than short trainings."""
    for task in (PointsTask, ImageTask):
        monkeypatch.setattr(task, "evaluate", lambda *_: {"nothing": 1.0})


def _lose_checkpoints(folder: Path, *, after: int) -> None:
    for path in list_checkpoints(folder / "checkpoints"):
        if int(path.name) > after:
            (path / "state.pt").write_bytes(b"damaged")


def _stopped(folder: Path, config: RunConfig, task: Any, step: int = 13) -> Path:
    train_until(step, config, folder, task=task)
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_a_changed_run_lists_its_changes_and_a_stop_after_them_changes_nothing(kind: str, tmp_path: Path) -> None:
    make, task = KINDS[kind]
    first = _stopped(tmp_path / "first", make(), task)
    copied = shutil.copytree(first, tmp_path / "copied")
    config = read_config(first)
    asked = config.replace(batch_size=config.batch_size // 2, beta_kl=0.1, beta_neg="auto", learning_rate=2e-3)
    train(asked, first, resume=True, progress=False)
    changes = {one["key"]: (one["after"], one["before"], one["now"]) for one in read_config(first).changes}
    assert changes["batch_size"] == (13, config.batch_size, config.batch_size // 2)
    assert changes["beta_kl"] == (13, config.value("beta_kl"), 0.1)
    assert changes["beta_neg"] == (13, config.value("beta_neg"), "auto")
    assert changes["learning_rate"] == (13, config.learning_rate, 2e-3)
    rates = {record["step"]: record["learning_rate"] for record in read_records(first)}
    assert rates[10] == config.learning_rate and rates[15] in (2e-3, 2e-4)  # a tenth after a milestone

    train_until(17, asked, copied, task=task, resume=True)
    train_until(26, read_config(copied), copied, task=task, resume=True)
    train(out=copied, resume=True, progress=False)
    assert_same(copied, first)
    assert read_config(copied) == read_config(first)


@pytest.mark.parametrize(("beta_neg", "later"), [(2.0, "auto"), ("auto", 2.0)])
def test_a_run_that_lost_its_checkpoints_after_a_change_repeats_the_same_iterations(
    beta_neg: Any, later: Any, tmp_path: Path
) -> None:
    """The settings of an iteration are those that it had, also when it is computed again."""
    folder = _stopped(tmp_path / "run", _images(keep_checkpoints=9, beta_neg=beta_neg), ImageTask)
    changes = {"batch_size": 32, "beta_kl": 0.1, "beta_neg": later}
    train_until(18, read_config(folder).replace(**changes), folder, resume=True)
    train(read_config(folder).replace(beta_neg=beta_neg), folder, resume=True, progress=False)
    damaged = shutil.copytree(folder, tmp_path / "damaged")
    (damaged / "summary.json").unlink()
    _lose_checkpoints(damaged, after=10)
    train(out=damaged, resume=True, progress=False)
    assert_same(damaged, folder)


def test_a_warning_names_the_settings_of_its_iteration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = _stopped(tmp_path / "run", _points(keep_checkpoints=9, checkpoint_every=4), PointsTask)
    train_until(17, read_config(folder).replace(beta_neg=7.0), folder, task=PointsTask, resume=True)
    _lose_checkpoints(folder, after=8)
    named: list[float] = []
    monkeypatch.setattr(Saturation, "begins", lambda *_: True)
    monkeypatch.setattr(Saturation, "words", lambda _, config, record: named.append(config.value("beta_neg")) or "")
    train_until(17, read_config(folder), folder, task=PointsTask, resume=True)
    assert named == [_points().value("beta_neg"), 7.0]  # in the records of steps 10 and 15


def test_a_change_after_lost_checkpoints_replaces_the_changes_that_were_lost(tmp_path: Path) -> None:
    folder = _stopped(tmp_path / "run", _points(keep_checkpoints=3), PointsTask)
    train_until(17, read_config(folder).replace(beta_kl=0.1, beta_rec=0.5), folder, task=PointsTask, resume=True)
    for step in (13, 17):
        (folder / "checkpoints" / str(step) / "state.pt").write_bytes(b"damaged")
    before = _points().value("beta_kl")
    train(read_config(folder).replace(beta_kl=0.7), folder, resume=True, progress=False)
    stored = read_config(folder)
    assert {(one["after"], one["key"], one["before"], one["now"]) for one in stored.changes} == {
        (10, "beta_kl", before, 0.7),
        (10, "beta_rec", _points().value("beta_rec"), 0.5),
    }
    assert [stored.at(step).value("beta_kl") for step in (10, 11, 40)] == [before, 0.7, 0.7]


def test_the_command_changes_a_run_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = _stopped(tmp_path / "run", _points(), PointsTask)
    code, _, err = run(capsys, "train", "--resume", folder, "--beta-neg", 2, "--batch-size", 8)
    assert code == 0, err
    assert "from step 14 on: batch_size 8 instead of 16, beta_neg 2.0 instead of" in err
    assert {one["key"] for one in read_config(folder).changes} == {"batch_size", "beta_neg"}


def test_settings_of_other_iterations_are_kept_for_a_script_that_runs_again(tmp_path: Path) -> None:
    """The values of the run's start are no changes; those of a config that lists the changes are."""
    folder = _stopped(tmp_path / "run", _points(), PointsTask)
    script = _points(beta_kl=0.1)
    train_until(17, script, folder, task=PointsTask, resume=True)
    train_until(23, script, folder, task=PointsTask, resume=True)
    train_until(27, _points(), folder, task=PointsTask, resume=True)
    assert [one["after"] for one in read_config(folder).changes] == [13]
    back = read_config(folder).replace(beta_kl=_points().value("beta_kl"))
    train(back, folder, resume=True, progress=False)
    assert [(one["after"], one["now"]) for one in read_config(folder).changes][1:] == [(27, back.value("beta_kl"))]


def test_a_run_of_epochs_keeps_them_with_another_batch_size(tmp_path: Path) -> None:
    """1,497 digits make 23 batches of 64, and 46 of 32. What is left of the schedule is counted in images."""
    config = _images(steps=None, epochs=4, milestones=(0.5, 0.75), rate_factor=0.1)
    folder = _stopped(tmp_path / "run", config, ImageTask, step=30)
    train(read_config(folder).replace(batch_size=32), folder, resume=True, progress=False)
    stored = read_config(folder)
    # 7 batches of the second epoch have 448 images, and the 1,049 others make 32 batches.
    assert stored.epochs == 4 and stored.total_steps == 30 + 32 + 2 * 46
    rates = [stored.learning_rate_at(step) / stored.learning_rate for step in (30, 62, 63, 108, 109)]
    assert rates == pytest.approx([1, 1, 0.1, 0.1, 0.01])  # 46 and 69 were 16 and 39 iterations away
    assert stored.samples_after(40) == 30 * 64 + 10 * 32


@pytest.mark.parametrize(
    ("asked", "steps", "rates"),
    [
        # 10 batches of 64 leave 857 images of the first epoch, which are 26 of 32 or 107 of 8; then three epochs.
        ({"batch_size": 8}, 10 + 107 + 3 * 187, (10 + 36 * 8, 10 + 59 * 8)),
        ({"batch_size": 64}, 92, (46, 69)),
        ({"beta_kl": 0.1}, 10 + 26 + 3 * 46, (10 + 36 * 2, 10 + 59 * 2)),
        ({"batch_size": 64, "epochs": 8}, 184, (46, 69)),
    ],
)
def test_a_run_that_lost_a_change_of_batch_size_counts_its_epochs_without_it(
    asked: dict[str, Any], steps: int, rates: tuple[int, int], tmp_path: Path
) -> None:
    config = _images(steps=None, epochs=4, milestones=(0.5, 0.75), rate_factor=0.1, keep_checkpoints=9)
    folder = _stopped(tmp_path / "run", config, ImageTask, step=17)
    train_until(23, read_config(folder).replace(batch_size=32), folder, resume=True)
    _lose_checkpoints(folder, after=10)
    train_until(13, read_config(folder).replace(**asked), folder, resume=True)
    stored = read_config(folder)
    assert stored.total_steps == steps
    of_step = [stored.learning_rate_at(step) / stored.learning_rate for rate in rates for step in (rate, rate + 1)]
    assert of_step == pytest.approx([1, 0.1, 0.1, 0.01])
    assert all(one["after"] == 10 for one in stored.changes)
    first = stored.with_length_at(0)
    assert (first.steps, first.epochs, first.milestones) == (92, 4, (0.5, 0.75))
    train_until(16, read_config(folder), folder, resume=True)
    assert read_config(folder) == stored


def test_the_images_of_an_epoch_are_read_once_with_two_batch_sizes(tmp_path: Path) -> None:
    config = _images(flip=False).replace(batch_size=32, changes=_changes(batch_size=(10, 64)))
    task = open_task(config, torch.device("cpu"))
    once = open_task(_images(flip=False, batch_size=1497), torch.device("cpu"))
    order = once.batch(1)[0].flatten(1)
    task_rows = torch.cat([task.batch(step)[0] for step in range(1, 11 + (1497 - 640) // 32)]).flatten(1)
    assert torch.equal(task_rows, order[: len(task_rows)])
    halves = [open_task(config, torch.device("cpu"), Processes(rank, 2)).batch(12)[0] for rank in (0, 1)]
    assert torch.equal(torch.cat(halves), task.batch(12)[0])


def _changes(**made: tuple[int, Any]) -> tuple[dict[str, Any], ...]:
    return tuple({"after": after, "key": key, "before": before, "now": None} for key, (after, before) in made.items())


def test_checkpoints_of_other_weights_do_not_compare(tmp_path: Path) -> None:
    folder = _stopped(tmp_path / "run", _points(keep_checkpoints=1), PointsTask)
    assert best_checkpoint(folder / "checkpoints") == folder / "checkpoints" / "10"
    train(read_config(folder).replace(beta_rec=100.0), folder, resume=True, progress=False)
    kept = [int(path.name) for path in list_checkpoints(folder / "checkpoints")]
    assert min(kept) > 13 and kept[-1] == 40


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden": 16}, "hidden = 16: it cannot change in a resumed run, which has 8; leave it out, or start a new"),
        ({"seed": 5}, "seed = 5: it cannot change in a resumed run, which has 0"),
        ({"neg_push": 0.5}, "neg_push: it has an effect only with beta_neg auto; leave it out"),
        ({"milestones": (0.9,)}, "milestones = .*: it cannot change in a resumed run"),
        ({"batch_size": 9, "accumulate": 2}, "accumulate = 2: it must divide the batch_size, 9"),
    ],
)
def test_other_settings_cannot_change(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    folder = _stopped(tmp_path / "run", _points(), PointsTask)
    before = (folder / "config.json").read_bytes()
    with pytest.raises(ConfigError, match=message):
        train(read_config(folder).replace(**changes), folder, resume=True, progress=False)
    assert (folder / "config.json").read_bytes() == before


def test_a_finished_run_changes_only_for_more_steps(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    train(_points(), folder, progress=False)
    changed = read_config(folder).replace(beta_kl=0.1)
    with pytest.raises(ConfigError, match=r"beta_kl = 0.1: the run is finished after 40 steps.*give more steps"):
        train(changed, folder, resume=True, progress=False)
    train(changed.replace(steps=50), folder, resume=True, progress=False)
    assert {(one["after"], one["key"]) for one in read_config(folder).changes} >= {(40, "beta_kl"), (40, "steps")}


def test_milestones_count_from_the_trained_length_and_not_from_an_edited_one(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    train(_points(), folder, progress=False)
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**content, "steps": 50}))
    train(read_config(folder).replace(steps=60), folder, resume=True, progress=False)
    stored = read_config(folder)
    assert [round(share * 60) for share in stored.milestones] == [10, 20]
    assert next(one["before"] for one in stored.changes if one["key"] == "steps") == 40


def test_a_changed_file_is_checked_when_it_is_read() -> None:
    content = json.loads(_points().to_json())
    wrong = {"after": 3, "key": "beta_kl", "before": "much", "now": 1.0}
    with pytest.raises(ConfigError, match='beta_kl = "much": expected a finite number'):
        RunConfig.from_json(json.dumps({**content, "changes": [wrong]}))
