"""Callbacks see a run's records, pictures, checkpoints and end, and nothing that they do changes or stops it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sivae.errors import ConfigError
from sivae.models import MLPVAE
from sivae.models.storage import save_model
from sivae.settings.run import RunConfig
from sivae.training import Callback, RunInfo
from sivae.training.recorder import read_records
from sivae.training.run import train
from sivae.training.tasks.points import PointsTask
from tests.training.loggers.runs import draw_and_measure_little, tiny
from tests.training.runs import assert_same, train_until

_METHODS = ("on_record", "on_picture", "on_checkpoint", "on_end")


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures and metrics take no time."""
    draw_and_measure_little(monkeypatch)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without callbacks."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    with pytest.MonkeyPatch.context() as patch:
        draw_and_measure_little(patch)
        train(tiny(), folder, progress=False, callbacks=[])
    return folder


class Watcher(Callback):
    """Notes the name of each call with its step, and what it got."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int | None]] = []
        self.got: dict[str, list[Any]] = {method: [] for method in _METHODS}
        self.runs: list[RunInfo] = []

    def _note(self, method: str, run: RunInfo, step: int | None, got: Any) -> None:
        self.calls.append((method, step))
        self.got[method].append(got)
        if run not in self.runs:
            self.runs.append(run)

    def on_record(self, run: RunInfo, record: dict[str, Any]) -> None:
        self._note("on_record", run, record["step"], dict(record))

    def on_picture(self, run: RunInfo, step: int, name: str, path: Path) -> None:
        assert path.exists()
        self._note("on_picture", run, step, (name, path))

    def on_checkpoint(self, run: RunInfo, step: int, path: Path) -> None:
        assert (path / "manifest.json").exists()
        self._note("on_checkpoint", run, step, path)

    def on_end(self, run: RunInfo, summary: dict[str, Any] | None) -> None:
        self._note("on_end", run, None, summary)


class Vandal(Callback):
    """Changes whatever it gets."""

    def on_record(self, run: RunInfo, record: dict[str, Any]) -> None:
        record.clear()
        torch.manual_seed(1)
        torch.rand(3)

    def on_end(self, run: RunInfo, summary: dict[str, Any] | None) -> None:
        assert summary is not None
        summary.clear()


def _failing(method: str, error: BaseException) -> Callback:
    """A callback with one method, which raises an error."""

    def fail(self: Callback, *_: object) -> None:
        raise error

    return type("Failing", (Callback,), {method: fail})()


def test_the_methods_are_called_in_the_order_of_the_run_with_what_it_writes(whole: Path, tmp_path: Path) -> None:
    watcher, folder = Watcher(), tmp_path / "run"
    summary = train(tiny(), folder, progress=False, callbacks=[watcher])
    assert watcher.calls == [
        ("on_record", 5),
        ("on_record", 10),
        ("on_checkpoint", 10),
        ("on_picture", 10),
        ("on_record", 15),
        ("on_record", 20),
        ("on_checkpoint", 20),
        ("on_picture", 20),
        ("on_end", None),
    ]
    assert watcher.got["on_record"] == read_records(folder)
    assert watcher.got["on_picture"] == [
        ("samples", folder / "samples" / "10.png"),
        ("samples", folder / "samples.png"),
    ]
    assert watcher.got["on_checkpoint"] == [folder / "checkpoints" / "10", folder / "checkpoints" / "20"]
    assert watcher.got["on_end"] == [json.loads((folder / "summary.json").read_text())]
    assert "run" in summary
    assert watcher.runs == [RunInfo(folder, RunConfig.read(folder / "config.json"), start=0)]
    assert_same(folder, whole)


def test_what_a_callback_changes_is_a_copy(whole: Path, tmp_path: Path) -> None:
    watcher = Watcher()
    train(tiny(), tmp_path / "run", progress=False, callbacks=[Vandal(), watcher])
    assert_same(tmp_path / "run", whole)
    assert watcher.got["on_record"] == read_records(tmp_path / "run")


@pytest.mark.parametrize("method", _METHODS)
@pytest.mark.parametrize(
    ("error", "words"),
    [(ValueError("no\nspace"), "ValueError: no space"), (ZeroDivisionError(), "ZeroDivisionError")],
    ids=["with words", "without words"],
)
def test_a_callback_that_fails_is_said_once_and_left_out(
    method: str, error: Exception, words: str, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    watcher = Watcher()
    train(tiny(), tmp_path / "run", progress=False, callbacks=[_failing(method, error), watcher])
    assert capsys.readouterr().err.splitlines() == [
        f"warning: the callback Failing failed in {method} ({words}) and is left out; the run goes on"
    ]
    assert_same(tmp_path / "run", whole)
    assert len(watcher.calls) == 9


def test_a_callback_that_failed_can_close_what_it_opened(tmp_path: Path) -> None:
    class Failing(Watcher):
        def on_record(self, run: RunInfo, record: dict[str, Any]) -> None:
            super().on_record(run, record)
            raise OSError("full")

        def on_end(self, run: RunInfo, summary: dict[str, Any] | None) -> None:
            super().on_end(run, summary)
            raise OSError("full")

    watcher = Failing()
    train(tiny(), tmp_path / "run", progress=False, callbacks=[watcher])
    assert [method for method, _ in watcher.calls] == ["on_record", "on_end"]


def test_ctrl_c_in_a_callback_stops_the_run_at_once(tmp_path: Path) -> None:
    watcher = Watcher()
    with pytest.raises(KeyboardInterrupt):
        callbacks = [_failing("on_record", KeyboardInterrupt()), watcher]
        train(tiny(), tmp_path / "run", progress=False, callbacks=callbacks)
    assert watcher.calls == [("on_end", None)]
    assert watcher.got["on_end"] == [None]


def test_a_resumed_run_reports_what_came_after_its_checkpoint_again(whole: Path, tmp_path: Path) -> None:
    first, second, folder = Watcher(), Watcher(), tmp_path / "run"
    train_until(13, tiny(), folder, task=PointsTask, callbacks=[first])
    assert first.calls[-2:] == [("on_checkpoint", 13), ("on_end", None)]
    assert first.got["on_end"] == [None]
    (folder / "checkpoints" / "13").rename(folder / "checkpoints" / "damaged-13")  # as if it had been killed
    train(out=folder, resume=True, progress=False, callbacks=[second])
    assert [run.start for run in (*first.runs, *second.runs)] == [0, 10]
    assert [step for method, step in second.calls if method == "on_record"] == [15, 20]
    assert_same(folder, whole)


def test_a_run_that_goes_back_says_from_where_it_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original, poisoned = PointsTask.batch, set(range(13, 20))

    def batch(self: PointsTask, step: int) -> tuple[Tensor, None]:
        points, condition = original(self, step)
        return (points * float("nan") if step in poisoned else points), (poisoned.discard(step) or condition)

    monkeypatch.setattr(PointsTask, "batch", batch)
    watcher = Watcher()
    train(tiny(steps=30), tmp_path / "run", progress=False, callbacks=[watcher])
    assert [run.start for run in watcher.runs] == [0, 10]
    assert [step for method, step in watcher.calls if method == "on_record"] == [5, 10, 15, 15, 20, 25, 30]
    assert watcher.calls.count(("on_end", None)) == 1


def test_the_weights_that_a_run_starts_from_are_its_first_checkpoint(tmp_path: Path) -> None:
    save_model(tmp_path / "start", MLPVAE(hidden=8, layers=1))
    watcher = Watcher()
    config = tiny(steps=2, init_from=str(tmp_path / "start"), warmup_fraction=0.0)
    train(config, tmp_path / "run", progress=False, callbacks=[watcher])
    assert watcher.calls[0] == ("on_checkpoint", 0)


def test_a_run_that_stops_before_its_first_record_ends_its_callbacks(tmp_path: Path) -> None:
    watcher = Watcher()
    train_until(2, tiny(), tmp_path / "run", task=PointsTask, callbacks=[watcher])
    assert watcher.calls == [("on_checkpoint", 2), ("on_end", None)]


@pytest.mark.parametrize("wrong", [print, Watcher, "wandb"])
def test_what_is_no_callback_is_an_error_before_anything_is_written(wrong: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"callbacks: .* is no callback; give objects of classes that derive from"):
        train(tiny(), tmp_path / "run", callbacks=[wrong])
    assert not (tmp_path / "run").exists()


def test_tensorboard_is_the_default_and_an_empty_list_leaves_it_out(whole: Path, tmp_path: Path) -> None:
    train(tiny(steps=2), tmp_path / "run", progress=False)
    assert len(list((tmp_path / "run").glob("events.out.tfevents.*"))) == 1
    assert not list(whole.glob("events.out.tfevents.*"))
