"""A reproduction: the files that it writes, how it resumes, and the folders that it refuses."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from sivae.errors import ConfigError, RunFolderError, RunInterrupted, TrainingFailed
from sivae.reproduce import reproduction
from sivae.reproduce.experiment import Settings
from sivae.reproduce.reproduction import reproduce
from sivae.training.recorder import last_step
from sivae.training.run import train
from tests.reproduce import toys

_SETTINGS = Settings(steps=4, device="cpu", changes=toys.TINY)
_TWO = (("vae", {"objective": "vae"}), ("soft", {}))


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Replace every experiment by a toy."""

    def put(*trainings: tuple[str, dict[str, Any]]) -> None:
        toy = toys.experiment(*trainings)
        monkeypatch.setattr(reproduction, "get_experiment", lambda name: toy)

    return put


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A reproduction that nothing interrupted."""
    folder = tmp_path_factory.mktemp("done") / "toy"
    with pytest.MonkeyPatch.context() as patch:
        toy = toys.experiment(*_TWO)
        patch.setattr(reproduction, "get_experiment", lambda name: toy)
        reproduce("toy", _SETTINGS, folder, workers=2, progress=False)
    yield folder


def _weights(run: Path, step: int) -> dict[str, torch.Tensor]:
    return load_file(run / "checkpoints" / str(step) / "model.safetensors")


def test_it_leaves_a_page_figures_numbers_and_the_runs(done: Path) -> None:
    assert {path.name for path in done.iterdir()} == {
        *("settings.json", "elapsed.json", "runs", "logs", "page.md", "results.json", "toy.png")
    }
    page = (done / "page.md").read_text()
    for words in ("# toy", "Two small networks.", "About the toy.", "## What we see", "Little.", "2 trainings took"):
        assert words in page
    assert "commit" in page and "torch" in page
    results = json.loads((done / "results.json").read_text())
    assert results["settings"]["steps"] == 4
    assert results["runs"].keys() == {"vae", "soft"}
    assert results["runs"]["soft"]["config"]["objective"]["name"] == "soft-intro"
    assert results["findings"]["jsd"]["vae"] == results["runs"]["vae"]["jsd"]
    assert results["versions"].keys() == {"sivae", "torch", "python"}
    assert results["training_seconds"] > 0
    assert json.loads((done / "runs" / "vae" / "summary.json").read_text())["steps"] == 4


def test_a_second_call_trains_nothing_and_draws_again(done: Path, use: Callable[..., None]) -> None:
    use(*_TWO)
    summaries = {path: path.stat().st_mtime_ns for path in done.glob("runs/*/summary.json")}
    (done / "page.md").unlink()
    before = json.loads((done / "results.json").read_text())
    paths = reproduce("toy", _SETTINGS, done, progress=False)
    assert paths == [done / "page.md", done / "results.json", done / "toy.png"]
    assert all(path.exists() for path in paths)
    assert {path: path.stat().st_mtime_ns for path in summaries} == summaries
    after = json.loads((done / "results.json").read_text())
    assert after["findings"] == before["findings"]
    assert after["elapsed_seconds"] > before["elapsed_seconds"]  # of all calls together


def test_other_settings_are_refused_by_name(done: Path, use: Callable[..., None]) -> None:
    use(*_TWO)
    with pytest.raises(RunFolderError, match=r"was begun with --steps 4, and this call has --steps 5; go on with"):
        reproduce("toy", Settings(steps=5, device="cpu", changes=toys.TINY), done)
    with pytest.raises(RunFolderError, match=r"with no --seeds, and this call has --seeds 2"):
        reproduce("toy", Settings(steps=4, seeds=2, device="cpu", changes=toys.TINY), done)
    with pytest.raises(RunFolderError, match="holds a reproduction of toy, not of other"):
        reproduce("other", _SETTINGS, done)
    use(("vae", {"objective": "vae", "beta_kl": 9.0}), _TWO[1])
    with pytest.raises(RunFolderError, match="a version of sivae that trains otherwise"):
        reproduce("toy", _SETTINGS, done)


def test_a_folder_of_other_things_is_refused(tmp_path: Path, use: Callable[..., None]) -> None:
    use(*_TWO)
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(RunFolderError, match="is not empty and holds no reproduction; choose another folder"):
        reproduce("toy", _SETTINGS, tmp_path)
    with pytest.raises(RunFolderError, match="a file stands there"):
        reproduce("toy", _SETTINGS, tmp_path / "thesis.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_signal_stops_the_trainings_and_a_second_call_goes_on_exactly(
    tmp_path: Path, use: Callable[..., None]
) -> None:
    use(("long", {"objective": "vae"}))
    steps = 3_000  # a second or more
    settings = Settings(steps=steps, device="cpu", changes={**toys.TINY, "log_every": 5, "checkpoint_every": 10_000})
    folder, run = tmp_path / "toy", tmp_path / "toy" / "runs" / "long"
    reached = []

    def interrupt() -> None:
        until = time.monotonic() + 60
        while time.monotonic() < until and last_step(run) == 0:
            time.sleep(0.02)
        reached.append(last_step(run))
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(RunInterrupted, match=r"stopped by SIGINT; go on with: sivae reproduce toy --steps 3000"):
        reproduce("toy", settings, folder, progress=False)
    thread.join()
    (checkpoint,) = (int(path.name) for path in (run / "checkpoints").iterdir())
    assert 0 < reached[0] <= checkpoint < steps
    assert not (run / "summary.json").exists()
    assert json.loads((folder / "elapsed.json").read_text())["seconds"] > 0

    reproduce("toy", settings, folder, progress=False)
    assert (folder / "page.md").exists()
    train(settings.configure("8gaussians", objective="vae"), tmp_path / "whole", progress=False)
    mine, theirs = _weights(run, steps), _weights(tmp_path / "whole", steps)
    assert all(torch.equal(mine[name], value) for name, value in theirs.items())


def test_a_divergence_is_a_result(tmp_path: Path, use: Callable[..., None]) -> None:
    use(("wild", {"learning_rate": 1e30}))
    settings = Settings(steps=40, device="cpu", changes=toys.TINY)
    reproduce("toy", settings, tmp_path / "toy", progress=False)
    assert "Training diverged and stopped: wild." in (tmp_path / "toy" / "page.md").read_text()
    results = json.loads((tmp_path / "toy" / "results.json").read_text())
    assert "training diverged in step" in results["runs"]["wild"]["diverged"]
    assert results["findings"]["jsd"]["wild"] is None
    log = tmp_path / "toy" / "logs" / "wild.log"
    size = log.stat().st_size
    reproduce("toy", settings, tmp_path / "toy", progress=False)
    assert log.stat().st_size == size  # it is over, and not tried again


@pytest.mark.parametrize("name", ["settings.json", "elapsed.json", "runs/vae/diverged.json", "runs/vae/rollback.json"])
def test_a_damaged_file_is_named_with_the_remedy(
    name: str, done: Path, tmp_path: Path, use: Callable[..., None]
) -> None:
    use(*_TWO)
    shutil.copytree(done, tmp_path / "toy")
    (tmp_path / "toy" / name).write_text("[" * 10_000)
    with pytest.raises(RunFolderError, match=rf"toy/{name} is damaged: .* nested .*delete"):
        reproduce("toy", _SETTINGS, tmp_path / "toy", progress=False)


def test_a_failure_names_the_training_and_what_it_said(tmp_path: Path, use: Callable[..., None]) -> None:
    use(("broken", {"ops": "abacus"}))
    with pytest.raises(TrainingFailed, match=r"the training broken failed: ops = 'abacus': expected .*broken\.log"):
        reproduce("toy", _SETTINGS, tmp_path / "toy", progress=False)


def test_a_training_without_memory_is_a_failure_with_a_remedy(tmp_path: Path, use: Callable[..., None]) -> None:
    use(("huge", {}))
    settings = Settings(steps=4, device="cpu", changes={**toys.TINY, "batch_size": 1 << 57})
    with pytest.raises(
        TrainingFailed, match=r"huge failed: the main memory has no room .*; train fewer at a time with --w"
    ):
        reproduce("toy", settings, tmp_path / "toy", progress=False)


@pytest.mark.parametrize("values", [{"seeds": 0}, {"steps": 0}, {"threads": 0}, {"size": "huge"}])
def test_settings_check_themselves(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(values))):
        Settings(**values)


def test_there_is_no_other_experiment() -> None:
    from sivae.reproduce import get_experiment

    with pytest.raises(ConfigError, match=r"no experiment 'stabilty'; did you mean stability\?"):
        get_experiment("stabilty")
