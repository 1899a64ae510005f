"""A run: its files, that it resumes exactly after any stop, its reaction to a divergence, and that it learns."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from sivae import files
from sivae.errors import CheckpointError, ConfigError, DivergenceError, RunFolderError, RunInterrupted
from sivae.evaluation.density import evaluate_density
from sivae.machine import cpu_model
from sivae.method.target import TargetDecoder
from sivae.models import MLPVAE
from sivae.models.storage import save_model
from sivae.settings.presets import preset_config
from sivae.settings.run import RunConfig
from sivae.training import checkpoint as checkpoints
from sivae.training.checkpoint import list_checkpoints, load_checkpoint
from sivae.training.folder import new_folder, read_rollback
from sivae.training.parallel import Processes
from sivae.training.recorder import read_records
from sivae.training.run import train
from sivae.training.run_metrics import evaluate
from sivae.training.seeds import derived_seed, global_seed
from sivae.training.tasks import points
from sivae.training.tasks.points import PointsTask
from tests.training.runs import assert_resumes_exactly, assert_same

_TINY = {"steps": 60, "hidden": 32, "layers": 2, "batch_size": 32, "threads": 1, "seed": 3}
_OFTEN = {"log_every": 5, "checkpoint_every": 20, "sample_every": 1000}


def _config(**changes: Any) -> RunConfig:
    return preset_config("8gaussians", **{**_TINY, **_OFTEN, **changes})


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without a stop, with all pictures."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    torch.manual_seed(11)
    before = torch.get_rng_state()
    threads = torch.get_num_threads()
    train(_config(sample_every=30), folder, progress=False)
    assert torch.equal(torch.get_rng_state(), before), "the caller's generator has changed"
    assert torch.get_num_threads() == threads
    return folder


@pytest.fixture
def at_batch(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int, Callable[[], None]], None]]:
    """Call a function while a batch is drawn; batches are counted from 1 in this process."""
    count = 0

    def arrange(when: int, action: Callable[[], None]) -> None:
        original = PointsTask.batch

        def batch(self: PointsTask, step: int) -> tuple[torch.Tensor, None]:
            nonlocal count
            count += 1
            if count == when:
                action()
            return original(self, step)

        monkeypatch.setattr(PointsTask, "batch", batch)

    yield arrange


def test_a_run_writes_its_files_and_its_summary(whole: Path) -> None:
    expected = {"config.json", "metrics.jsonl", "samples", "samples.png", "density.png", "curves.png"}
    names = {path.name for path in whole.iterdir() if "tfevents" not in path.name}
    assert names == expected | {"checkpoints", "summary.json"}
    assert len(list(whole.glob("events.out.tfevents.*"))) == 1
    assert [path.name for path in (whole / "samples").iterdir()] == ["30.png"]
    assert all((whole / name).stat().st_size > 5_000 for name in expected if name.endswith(".png"))
    assert [path.name for path in list_checkpoints(whole / "checkpoints")] == ["40", "60"]

    records = read_records(whole)
    assert [record["step"] for record in records] == list(range(5, 61, 5))
    assert [record["phase"] for record in records] == ["soft-intro"] * 12
    assert {"rec", "kl_real", "kl_fake", "exp_elbo_fake", "learning_rate", "seconds"} <= records[0].keys()

    config = RunConfig.read(whole / "config.json")
    assert (config.device, config.threads) != ("auto", None)
    assert config.ops is not None
    summary = json.loads((whole / "summary.json").read_text())
    for key in ("gnelbo", "official_kl", "official_jsd", "kl", "jsd", "ms_per_iteration", "wall_seconds"):
        assert summary[key] > 0
    assert summary["wall_seconds"] > summary["train_seconds"]
    assert summary["ms_per_iteration"] == pytest.approx(1e3 * summary["train_seconds"] / 60)
    assert summary["final"]["rec"] == records[-1]["rec"]
    assert (summary["steps"], summary["seed"], summary["threads"]) == (60, 3, 1)
    assert summary["versions"].keys() == {"sivae", "torch", "python"}
    assert summary["device_name"] == cpu_model()
    assert "run" not in summary  # folders move
    assert (config.objective.gamma_r, config.objective.alpha) == (1e-8, 2.0)  # the file contains defaults too


def test_evaluating_gives_the_metrics_of_the_training_s_end(whole: Path) -> None:
    summary = json.loads((whole / "summary.json").read_text())
    result = evaluate(whole)
    assert (result.pop("step"), result.pop("seed")) == (60, 3)
    assert result == {key: summary[key] for key in summary["metrics"]}
    assert evaluate(whole, seed=4)["official_kl"] != summary["official_kl"]


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_finishes_the_iteration_and_the_run_resumes_exactly(
    whole: Path,
    tmp_path: Path,
    number: signal.Signals,
    at_batch: Callable[[int, Callable[[], None]], None],
) -> None:
    folder = tmp_path / "run"
    before = signal.getsignal(number)
    at_batch(33, lambda: signal.raise_signal(number))
    with pytest.raises(RunInterrupted) as caught:
        train(_config(), folder, progress=False)
    assert caught.value.exit_code == 0
    assert str(caught.value) == f"stopped at step 33 by {number.name}; go on with: sivae train --resume {folder}"
    assert list_checkpoints(folder / "checkpoints")[-1].name == "33"
    assert signal.getsignal(number) is before

    summary = train(out=folder, resume=True, progress=False)
    assert_same(folder, whole)
    assert train(out=folder, resume=True, progress=False) == summary  # nothing remains to be done


_KILLED_WHILE_SAVING = """
import os, signal, sys
from sivae import files
from sivae.settings.run import RunConfig
from sivae.training.run import resolve, train
write = files.write_json
def killed(path, content):
    if path.name == "manifest.json" and content["step"] == 40:
        os.kill(os.getpid(), signal.SIGKILL)
    write(path, content)
files.write_json = killed
train(RunConfig.from_json(sys.argv[1]), sys.argv[2], progress=False)
"""


@pytest.mark.usefixtures("no_pictures")
def test_a_run_killed_in_the_middle_of_a_save_resumes_exactly(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    words = [sys.executable, "-c", _KILLED_WHILE_SAVING, _config().to_json(), str(folder)]
    process = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)
    assert process.returncode == -signal.SIGKILL, process.stderr
    assert list((folder / "checkpoints").glob(".tmp-40-*"))  # half a checkpoint
    assert [path.name for path in list_checkpoints(folder / "checkpoints")] == ["20"]
    assert read_records(folder)[-1]["step"] == 40
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 45, "lo')  # half a record

    train(out=folder, resume=True, progress=False)
    assert_same(folder, whole)
    assert not list((folder / "checkpoints").glob(".tmp-*"))


@pytest.mark.usefixtures("no_pictures")
def test_a_run_that_died_before_its_first_checkpoint_starts_over(
    whole: Path, tmp_path: Path, at_batch: Callable[[int, Callable[[], None]], None]
) -> None:
    class Death(BaseException):
        pass

    def die() -> None:
        raise Death

    folder = tmp_path / "run"
    at_batch(12, die)
    with pytest.raises(Death):
        train(_config(), folder, progress=False)
    with pytest.raises(RunFolderError, match="has no checkpoint yet"):
        evaluate(folder)
    train(out=folder, resume=True, progress=False)
    assert_same(folder, whole)


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("content", ['{"a": 1}', "[]", "{", '{"metrics": ["gnelbo"]}'])
def test_a_run_with_a_wrong_summary_counts_as_unfinished(whole: Path, tmp_path: Path, content: str) -> None:
    folder = tmp_path / "moved"
    shutil.copytree(whole, folder)
    finished = train(out=folder, resume=True, progress=False)
    assert finished["run"] == str(folder)
    (folder / "summary.json").write_text(content)
    summary = train(out=folder, resume=True, progress=False)
    assert summary.keys() == finished.keys()
    assert_same(folder, whole)


@pytest.mark.usefixtures("no_pictures")
def test_a_damaged_last_checkpoint_is_skipped_and_its_steps_are_repeated(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    (folder / "summary.json").unlink()
    damaged = folder / "checkpoints" / "60" / "model.safetensors"
    os.truncate(damaged, damaged.stat().st_size - 8)
    notices: list[str] = []
    assert evaluate(folder, notice=notices.append)["step"] == 40
    assert str(damaged) in notices[0]

    train(out=folder, resume=True, progress=False)
    assert str(damaged) in capsys.readouterr().err
    assert_same(folder, whole)


def test_when_every_checkpoint_is_damaged_nothing_is_overwritten(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    (folder / "summary.json").unlink()
    for path in list_checkpoints(folder / "checkpoints"):
        (path / "state.pt").unlink()
    with pytest.raises(CheckpointError, match="Restore the folder from a copy"):
        train(out=folder, resume=True, progress=False)
    assert len(read_records(folder)) == 12


@pytest.mark.usefixtures("no_pictures")
def test_a_run_without_its_records_is_finished_with_a_notice(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    finished = json.loads((folder / "summary.json").read_text())
    for name in ("summary.json", "metrics.jsonl"):
        (folder / name).unlink()
    summary = train(out=folder, resume=True, progress=False)
    assert summary["final"] == finished["final"]
    assert "metrics.jsonl has lost its records after step 0 up to step 60" in capsys.readouterr().err


@pytest.mark.usefixtures("no_pictures")
def test_records_that_are_deleted_during_a_run_do_not_end_it(
    whole: Path, tmp_path: Path, at_batch: Callable[[int, Callable[[], None]], None], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    at_batch(57, (folder / "metrics.jsonl").unlink)
    summary = train(_config(), folder, progress=False)
    assert summary["final"] == json.loads((whole / "summary.json").read_text())["final"]
    assert "was deleted or replaced" in capsys.readouterr().err


def _replace_state(path: Path, **changes: Any) -> None:
    """Change the state of a checkpoint, with a manifest that is right."""
    state = torch.load(path / "state.pt", weights_only=True) | changes
    torch.save(state, path / "state.pt")
    content = (path / "state.pt").read_bytes()
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["files"]["state.pt"] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (path / "manifest.json").write_text(json.dumps(manifest))


_MOMENTS = {"step": torch.tensor(1.0), "exp_avg": torch.zeros(3), "exp_avg_sq": torch.zeros(3)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizers": []}, r"optimizers = \[\]: expected an object"),
        ({"optimizers": {"encoder": {"state": {}}}}, "'decoder'"),
        (
            {"optimizers": {"encoder": {"state": {0: {"step": 1}}}}},
            r"encoder\.state\.0\.step = 1: expected",
        ),
        (
            {"optimizers": {"encoder": {"state": {0: _MOMENTS}}}},
            r"exp_avg of parameter 0 is .* shape \[3\]",
        ),
        ({"optimizers": {"encoder": {"state": {999: _MOMENTS}}}}, "the optimizer has no parameter 999"),
        ({"noise": "x"}, 'noise = "x": expected a value of type Tensor'),
        ({"noise": torch.zeros(3)}, "ByteTensor"),
        ({"guard": {"mean": 1}}, "mean = 1: expected a value of type Tensor"),
        ({"task": []}, r"task = \[\]: expected an object"),
        ({"scores": 5}, "scores = 5: expected a list"),
        ({"train_seconds": -1.0}, r"train_seconds = -1\.0: it must be a time in seconds"),
        ({"wall_seconds": "long"}, 'wall_seconds = "long": expected a finite number'),
        ({"record": 1}, "record = 1: expected an object"),
        ({"record": {"step": 60, "rec": "low"}}, 'rec = "low": expected a finite number'),
    ],
)
def test_a_state_of_other_types_does_not_fit(
    changes: dict[str, Any], message: str, whole: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    (folder / "summary.json").unlink()
    _replace_state(folder / "checkpoints" / "60", **changes)
    with pytest.raises(CheckpointError, match=rf"60/state\.pt does not fit this run .*{message}"):
        train(out=folder, resume=True, progress=False)


@pytest.mark.parametrize("slowdown", [-1, 0, 1e300, "half", None])
def test_a_rollback_that_cannot_be_is_an_error(slowdown: Any, whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    (folder / "summary.json").unlink()
    (folder / "rollback.json").write_text(
        json.dumps({"step": 20, "from_step": 36, "slowdown": slowdown, "diagnosis": ""})
    )
    with pytest.raises(RunFolderError, match=r"rollback\.json is damaged: slowdown = .*; restore it from a copy"):
        train(out=folder, resume=True, progress=False)


@pytest.mark.usefixtures("no_pictures")
def test_a_finished_run_with_more_steps_in_its_settings_says_how_to_train_on(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    path = folder / "config.json"
    path.write_text(path.read_text().replace('"steps": 60', '"steps": 80'))
    assert train(out=folder, resume=True)["steps"] == 60
    said = capsys.readouterr().err
    assert f"is finished with 60 steps, and its config.json now has 80. To train until step 80, delete {folder}" in said
    (folder / "summary.json").unlink()
    assert train(out=folder, resume=True, progress=False)["steps"] == 80
    assert [record["step"] for record in read_records(folder)] == list(range(5, 81, 5))


def test_a_checkpoint_after_the_run_s_end_is_not_concluded(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    (folder / "summary.json").unlink()
    path = folder / "config.json"
    path.write_text(path.read_text().replace('"steps": 60', '"steps": 50'))
    with pytest.raises(CheckpointError, match=r"60 is from after the run's end: .*config\.json has 50 steps"):
        train(out=folder, resume=True, progress=False)


@pytest.mark.usefixtures("no_pictures")
def test_what_a_killed_run_left_half_written_is_removed(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    (folder / "summary.json").unlink()
    for place in (folder, folder / "samples", folder / "checkpoints"):
        (place / ".tmp-30.png-0a1b2c3d").write_bytes(b"half")
    train(out=folder, resume=True, progress=False)
    assert not list(folder.rglob(".tmp-*"))


def test_folders_that_are_taken_or_are_no_runs_are_errors(whole: Path, tmp_path: Path) -> None:
    config = _config()
    with pytest.raises(RunFolderError, match=r"is not empty; go on with it by --resume .*another folder with --out"):
        train(config, whole)
    (tmp_path / "mine.txt").touch()
    with pytest.raises(RunFolderError, match="is not empty; choose another folder with --out"):
        train(config, tmp_path)
    with pytest.raises(RunFolderError, match="is a file; choose another folder"):
        train(config, tmp_path / "mine.txt")
    with pytest.raises(RunFolderError, match="there is no such folder"):
        train(out=tmp_path / "none", resume=True)
    with pytest.raises(RunFolderError, match=r"holds no config\.json"):
        evaluate(tmp_path)


def test_a_checkpoint_says_the_time_that_was_trained_also_0(tmp_path: Path) -> None:
    save_model(tmp_path / "start", MLPVAE(hidden=8, layers=1))
    config = _config(steps=2, hidden=8, layers=1, warmup_fraction=0.0, init_from=str(tmp_path / "start"))
    train(config, tmp_path / "run", progress=False)
    first, last = (tmp_path / "run" / "checkpoints" / step for step in ("0", "2"))
    assert load_checkpoint(first).state["train_seconds"] == 0.0
    _replace_state(last, train_seconds=0.0)
    (tmp_path / "run" / "summary.json").unlink()
    assert train(out=tmp_path / "run", resume=True, progress=False)["train_seconds"] < 1.0


def test_the_default_folder_is_never_one_that_exists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folders = [new_folder(_config(), None) for _ in range(3)]
    assert [str(folder) for folder in folders] == [
        "runs/8gaussians-seed3",
        "runs/8gaussians-seed3-2",
        "runs/8gaussians-seed3-3",
    ]


def test_two_processes_do_not_train_in_one_folder(whole: Path) -> None:
    with files.locked(whole, "trains in"):
        assert evaluate(whole)["step"] == 60
        with pytest.raises(RunFolderError, match="another process trains in"):
            train(out=whole, resume=True)


def test_a_finished_run_may_change_only_when_it_writes(whole: Path) -> None:
    summary = train(
        _config(sample_every=30, checkpoint_every=7, keep_checkpoints=3), whole, resume=True, progress=False
    )
    assert summary["steps"] == 60
    with pytest.raises(ConfigError, match=r"rate_factor = 0\.5: it cannot change in a resumed run"):
        train(_config(sample_every=30, rate_factor=0.5), whole, resume=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"device": "cuda:77"}, "device = 'cuda:77' is not there"),
        ({"device": "mps"}, "device = 'mps': sivae computes on cpu or cuda"),
        ({"ops": "fastest"}, "ops = 'fastest': expected one of"),
        ({"density": "torus"}, "density = 'torus': expected one of"),
    ],
)
def test_a_device_or_backend_that_is_missing_is_an_error_before_anything_is_written(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        train(_config(**changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Make the batches of some steps NaN, each a given number of times."""
    unharmed = PointsTask.batch

    def poison(times: dict[int, int]) -> None:
        def batch(self: PointsTask, step: int) -> tuple[torch.Tensor, None]:
            points, condition = unharmed(self, step)
            if times.get(step, 0) > 0:
                times[step] -= 1
                points = points * float("nan")
            return points, condition

        monkeypatch.setattr(PointsTask, "batch", batch)

    return poison


@pytest.mark.usefixtures("no_pictures")
def test_an_accident_skips_one_update_with_a_notice(
    tmp_path: Path, poisoned: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    poisoned({38: 1})
    train(_config(), folder, progress=False)
    notice = capsys.readouterr().err
    assert "updates of 1 iterations" not in notice
    assert "an update was not finite or exploding, and left out, from step 38 on (loss_encoder nan, " in notice
    assert read_rollback(folder) is None
    for path in list_checkpoints(folder / "checkpoints"):
        assert all(torch.isfinite(value).all() for value in checkpoints.load_checkpoint(path).model.values())


@pytest.mark.usefixtures("no_pictures")
def test_a_divergence_goes_back_once_with_half_the_rate(
    tmp_path: Path, poisoned: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    poisoned(dict.fromkeys(range(36, 43), 1))
    summary = train(_config(), folder, progress=False)
    said = capsys.readouterr().err
    assert "training diverged in step 36 (soft-intro): " in said
    assert "Not finite: loss_encoder, rec, " in said
    assert "lower --learning-rate" in said
    assert "Going back to step 20 with half the learning rate" in said
    rollback = read_rollback(folder)
    assert rollback is not None
    assert (rollback["step"], rollback["from_step"], rollback["slowdown"]) == (20, 36, 0.5)
    config = RunConfig.read(folder / "config.json")
    for record in read_records(folder):
        factor = 0.5 if record["step"] > 20 else 1.0
        assert record["learning_rate"] == factor * config.learning_rate_at(record["step"])
    assert summary["steps"] == 60
    assert [record["step"] for record in read_records(folder)] == list(range(5, 61, 5))


@pytest.mark.usefixtures("no_pictures")
def test_a_run_goes_back_to_before_the_divergence(tmp_path: Path, poisoned: Callable[..., None]) -> None:
    """A checkpoint is due at step 40, in the middle of the series, when it could still be an accident."""
    folder = tmp_path / "run"
    poisoned(dict.fromkeys(range(38, 45), 1))
    train(_config(keep_checkpoints=1), folder, progress=False)
    rollback = read_rollback(folder)
    assert rollback is not None
    assert (rollback["step"], rollback["from_step"]) == (20, 38)


@pytest.mark.usefixtures("no_pictures")
def test_a_signal_during_a_divergence_is_not_lost(tmp_path: Path, poisoned: Callable[..., None]) -> None:
    folder = tmp_path / "run"
    poisoned(dict.fromkeys(range(31, 36), 1))
    original = PointsTask.batch

    def batch(self: PointsTask, step: int) -> tuple[torch.Tensor, None]:
        if step == 35 and read_rollback(folder) is None:
            signal.raise_signal(signal.SIGTERM)
        return original(self, step)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PointsTask, "batch", batch)
        with pytest.raises(RunInterrupted, match="stopped before going back by SIGTERM"):
            train(_config(), folder, progress=False)
    train(out=folder, resume=True, progress=False)
    assert read_records(folder)[-1]["learning_rate"] == 0.5 * _config().learning_rate_at(60)


def test_a_second_divergence_stops_the_run_and_leaves_the_last_good_checkpoint(
    tmp_path: Path, poisoned: Callable[..., None]
) -> None:
    folder = tmp_path / "run"
    poisoned({**dict.fromkeys(range(6, 13), 1), **dict.fromkeys(range(36, 43), 1)})
    with pytest.raises(DivergenceError, match=r"diverged in step 36 \(soft-intro\).* already gone back once") as caught:
        train(_config(), folder, progress=False)
    assert caught.value.step == 36
    assert f"The last good checkpoint is {folder / 'checkpoints' / '20'}." in str(caught.value)
    assert "docs/tuning.md" in str(caught.value)
    (path,) = list_checkpoints(folder / "checkpoints")
    weights = checkpoints.load_checkpoint(path).model
    assert all(torch.isfinite(value).all() for value in weights.values())
    assert [record["step"] for record in read_records(folder)] == list(range(5, 36, 5))


@pytest.mark.usefixtures("no_pictures")
def test_a_run_that_went_back_and_was_stopped_resumes_exactly(
    tmp_path: Path, poisoned: Callable[..., None], at_batch: Callable[[int, Callable[[], None]], None]
) -> None:
    poisoned(dict.fromkeys(range(36, 43), 1))
    train(_config(), tmp_path / "whole", progress=False)
    poisoned(dict.fromkeys(range(36, 43), 1))
    at_batch(50, lambda: signal.raise_signal(signal.SIGTERM))  # after the divergence
    with pytest.raises(RunInterrupted):
        train(_config(), tmp_path / "run", progress=False)
    train(out=tmp_path / "run", resume=True, progress=False)
    assert_same(tmp_path / "run", tmp_path / "whole")


@pytest.mark.usefixtures("no_pictures")
def test_an_automatic_beta_neg_is_recorded_and_resumed(tmp_path: Path) -> None:
    config = _config(beta_neg="auto", beta_rec=5.0, learning_rate=5e-3)
    train(config, tmp_path / "whole", progress=False)
    weights = [one["beta_neg"] for one in read_records(tmp_path / "whole") if one["phase"] == "soft-intro"]
    assert len(set(weights)) > 5
    assert_resumes_exactly(33, config, tmp_path / "stopped", tmp_path / "whole", task=PointsTask)


@pytest.mark.usefixtures("no_pictures")
def test_the_target_decoder_is_a_copy_of_every_tenth_iteration_and_is_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hundredth of an epoch of endless data. The warm-up of four iterations ends with a copy, too."""
    drawn: list[int] = []
    copies: list[int] = []
    batch, copy = PointsTask.batch, TargetDecoder.copy
    monkeypatch.setattr(PointsTask, "batch", lambda self, step: drawn.append(step) or batch(self, step))
    monkeypatch.setattr(TargetDecoder, "copy", lambda self: copies.append(drawn[-1]) or copy(self))
    config = _config(bootstrap=0.01)
    assert config.objective.gamma_r == 1.0
    train(config, tmp_path / "whole", progress=False)
    assert copies == [5, 11, 21, 31, 41, 51]
    assert_resumes_exactly(33, config, tmp_path / "stopped", tmp_path / "whole", task=PointsTask)


def test_averaged_weights_are_kept_measured_and_resumed(tmp_path: Path) -> None:
    config = _config(ema_half_life=200)
    whole = tmp_path / "whole"
    summary = train(config, whole, progress=False)
    assert {key: summary[key] for key in summary["metrics"]} == {
        key: value for key, value in evaluate(whole).items() if key in summary["metrics"]
    }
    assert_resumes_exactly(33, config, tmp_path / "stopped", whole, task=PointsTask)
    averaged, raw = (
        load_file(whole / "checkpoints" / "60" / name) for name in ("ema.safetensors", "model.safetensors")
    )
    assert averaged.keys() == raw.keys()
    assert not any(torch.equal(averaged[name], raw[name]) for name in raw)


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("objective", ["intro", "vae"])
def test_the_other_objectives_run(objective: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = preset_config("rings", objective=objective, **{**_TINY, "steps": 10, "log_every": 1})
    summary = train(config, tmp_path / "run")
    assert summary["objective"] == objective
    assert summary["gnelbo"] > 0
    phases = [record["phase"] for record in read_records(tmp_path / "run")]
    assert phases == ["warm-up"] + [objective] * 9
    shown = capsys.readouterr().err
    assert "run  1/10  rec " in shown
    assert "run  10/10  rec " in shown


@pytest.mark.usefixtures("no_pictures")
def test_300_iterations_at_full_width_improve_gnelbo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """gnelbo, lower is better, falls below 0.7 of the untrained model's.

    With seeds 0 to 4 it fell to 0.37, 0.53, 0.28, 0.40 and 0.32 of it. A model that learns nothing stays near 1, so the
    bound leaves room for other seeds and rounding. To save time, the batch is an eighth of the preset's and the grid of
    the metric an eighth as fine; the learning rate is constant.
    """
    monkeypatch.setattr(points, "evaluate_density", functools.partial(evaluate_density, grid_resolution=128))
    config = preset_config("8gaussians", steps=300, batch_size=64, milestones=(), threads=1, log_every=100)
    with global_seed(derived_seed(config.seed, "weights")):
        task = PointsTask(config, torch.device("cpu"), Processes())
        before = task.evaluate(task.build_model(), config.seed)
    after = train(config, tmp_path / "run", progress=False)
    assert after["gnelbo"] < 0.7 * before["gnelbo"]


def test_a_live_process_stops_at_ctrl_c(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    config = _config(steps=100_000, checkpoint_every=100_000)
    arguments = [sys.executable, "-m", "sivae", "train", "8gaussians", "--out", str(folder)]
    for key in (*_TINY, "log_every", "checkpoint_every"):
        value = getattr(config.model if key in ("hidden", "layers") else config, key)
        arguments += [f"--{key.replace('_', '-')}", str(value)]
    process = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 120
        while not read_records(folder) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0, errors
    assert "\nSIGINT: finishing the iteration, then writing a checkpoint; Ctrl-C stops at once\n" in errors
    last = errors.strip().splitlines()[-1]
    assert last.startswith("sivae: stopped at step ")
    assert last.endswith(f"by SIGINT; go on with: sivae train --resume {folder}")
    (path,) = list_checkpoints(folder / "checkpoints")
    assert last.startswith(f"sivae: stopped at step {int(path.name):,} ")
