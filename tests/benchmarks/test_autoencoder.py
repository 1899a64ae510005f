"""The comparison of three ways to train an autoencoder: its settings, its baseline's runs, and its page."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from benchmarks.autoencoder import command, measured, patchgan_run, speed, worker
from benchmarks.autoencoder.comparison import METHODS, TITLES, Comparison, method_of
from benchmarks.autoencoder.speed import Speed
from benchmarks.baselines.patchgan import PatchGANStep
from sivae.errors import ConfigError, DivergenceError, RunFolderError
from sivae.pretrained import from_pretrained
from sivae.reproduce.experiment import Trained, Training
from sivae.settings.run import RunConfig
from sivae.training.folder import read_rollback, read_summary
from sivae.training.parallel import Processes
from sivae.training.recorder import read_records
from sivae.training.resolved_settings import resolve
from sivae.training.tasks.base import open_task
from sivae.training.trainer import Trainer
from tests.evaluation.small_features import small_network

SMALL = Comparison(
    data="digits",
    seconds=0.004,
    seeds=(0, 1),
    resolution=8,
    channels=1,
    widths=(4, 8),
    batch_size=16,
    critic_width=4,
    critic_start=0.5,
    count=8,
    components=2,
)
SPEED = Speed(plain=1.0, patchgan=3.0, patchgan_waiting=1.0, encoder=2.0, encoder_waiting=2.0)


def test_all_methods_get_the_same_seconds() -> None:
    long = dataclasses.replace(SMALL, seconds=6.0)
    # The PatchGAN's iterations take 1 and 3 milliseconds for one half each.
    assert speed.iterations(long, SPEED) == {"plain": 6_000, "patchgan": 3_000, "encoder": 3_000}
    assert long.critic_starts_after(3_000) == 1_500


def test_the_trainings_differ_in_the_method_alone() -> None:
    configs = [SMALL.config(method, 1, 10) for method in METHODS]
    assert [config.objective.name for config in configs] == ["vae", "vae", "soft-intro"]
    assert {(config.objective.kind, config.objective.structural) for config in configs} == {("l1", 1.0)}
    assert configs[0].value("beta_kl") == 1e-6  # as PatchGANStep has it
    assert len({(config.model, config.data, config.batch_size, config.learning_rate) for config in configs}) == 1
    assert [config.warmup_steps for config in configs] == [0, 0, 5]
    assert configs[0] == configs[1]


def test_a_name_shows_the_method() -> None:
    names = [one.name for one in SMALL.trainings(dict.fromkeys(METHODS, 2))]
    assert [method_of(name) for name in names] == [*METHODS, *METHODS]
    with pytest.raises(ConfigError, match="plain-seed0"):
        method_of("other")


def test_a_folder_keeps_its_settings(tmp_path: Path) -> None:
    SMALL.keep_in(tmp_path / "out")
    SMALL.keep_in(tmp_path / "out")
    assert Comparison.of(tmp_path / "out") == SMALL
    with pytest.raises(RunFolderError, match=r"begun with --count 8, and this call has --count 9.*--out"):
        dataclasses.replace(SMALL, count=9).keep_in(tmp_path / "out")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    with pytest.raises(RunFolderError, match="holds no comparison"):
        SMALL.keep_in(tmp_path / "other")


def test_the_baseline_starts_from_the_weights_and_images_of_the_package() -> None:
    config = resolve(SMALL.config("patchgan", 3, 4))
    device = torch.device("cpu")
    task = open_task(config, device)
    try:
        step = patchgan_run.make_step(SMALL, config, task, device, starts_after=2)
        theirs = Trainer(config, task, device, Processes()).model.state_dict()
    finally:
        task.close()
    mine = step.model.state_dict()
    assert mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_the_speed_is_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "_ROUNDS", 1)
    found = speed.measured_speed(SMALL, tmp_path, show=False)
    assert found.keys() == SPEED.keys() and min(found.values()) > 0
    assert speed.measured_speed(SMALL, tmp_path, show=False) == found


def test_a_loss_that_is_not_finite_ends_the_baseline_and_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    SMALL.keep_in(tmp_path)
    ordinary = PatchGANStep.__call__

    def fails_in_the_second(self: PatchGANStep, step: int, *rest: Any) -> dict[str, Any]:
        losses = ordinary(self, step, *rest)
        return losses | {"loss": losses["loss"] * (math.nan if step == 2 else 1.0)}

    monkeypatch.setattr(PatchGANStep, "__call__", fails_in_the_second)
    run = tmp_path / "runs" / "patchgan-seed0"
    with pytest.raises(DivergenceError, match="not finite in step 2"):
        patchgan_run.train(SMALL.config("patchgan", 0, 4), run)
    assert measured.not_finite(run) == 1 and [record["step"] for record in read_records(run)] == [1, 2]
    assert read_summary(run) is None


def _train_here(trainings: Sequence[Training], folder: Path, **_: Any) -> dict[str, Trained]:
    """What :func:`sivae.reproduce.trainings.train_all` would give, in this process."""
    runs = {}
    for one in trainings:
        run = folder / "runs" / one.name
        if read_summary(run) is None:
            worker.train(one.config, run, resume=False, progress=False)
        config = RunConfig.read(run / "config.json")
        runs[one.name] = Trained(one.name, config, run, read_summary(run), None, read_rollback(run) is not None)
    return runs


def test_three_methods_are_trained_measured_and_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measured, "effnet_lite0", small_network)
    monkeypatch.setattr("sivae.reproduce.trainings.train_all", _train_here)
    out = tmp_path / "out"
    SMALL.keep_in(out)
    (out / "speed.json").write_text(json.dumps(SPEED))
    written = command.compare(SMALL, out, command="the command", show=False)
    assert [path.name for path in written] == ["page.md", "results.json", "sheet.png"]
    run = out / "runs" / "patchgan-seed0"
    assert [("loss_critic" in record) for record in read_records(run)] == [False, True]
    assert from_pretrained(run).sample_shape == (1, 8, 8)
    page = (out / "page.md").read_text()
    assert all(page.count(f"| {title} |") == 3 for title in TITLES.values())  # a row in each table
    assert "`the command`" in page and "0 of 2" in page and "8 test images" in page
    results = json.loads((out / "results.json").read_text())
    for title in TITLES.values():
        for values in results["findings"][title]:
            assert (values["critic_parameters"] > 0) == (title == TITLES["patchgan"])
            assert values["not_finite"] == 0 and {"mse", "samples_kid", "prior_recall"} <= values["values"].keys()
    with Image.open(out / "sheet.png") as sheet:
        assert min(sheet.size) > 300

    def again(*_: object, **__: object) -> None:
        raise AssertionError("it was measured already")

    monkeypatch.setattr(measured, "fit_prior", again)
    command.compare(SMALL, out, command="the command", show=False)
    assert (out / "page.md").read_text() == page


def test_words_become_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    called = {}

    def compare(comparison: Comparison, out: Path, **options: Any) -> list[Path]:
        called.update(comparison=comparison, out=out, **options)
        return [out / "page.md"]

    monkeypatch.setattr(command, "compare", compare)
    words = ["--data", "digits", "--out", str(tmp_path), "--seconds", "5", "--seeds", "0", "7", "--critic-start", "0.2"]
    assert command.main(words) == 0
    assert called["comparison"] == Comparison(data="digits", seconds=5.0, seeds=(0, 7), critic_start=0.2)
    assert called["command"].startswith("python -m benchmarks.autoencoder --data digits")
    assert command.main(["--data", "digits"]) == 2
    assert "--out" in capsys.readouterr().err
