"""TensorBoard's files hold each record and picture once, also of a run that goes on from an earlier step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sivae.settings.presets import preset_config
from sivae.training.callbacks import RunInfo
from sivae.training.loggers.tensorboard import TensorBoard

event_accumulator = pytest.importorskip(
    "tensorboard.backend.event_processing.event_accumulator", reason="tensorboard is not installed"
)


def _info(folder: Path, start: int) -> RunInfo:
    return RunInfo(folder, preset_config("8gaussians"), start)


def _log(logger: TensorBoard, run: RunInfo, steps: range) -> None:
    for step in steps:
        logger.on_record(run, {"step": step, "rec": step / 10 + run.start, "kl_real": None, "phase": "vae"})


def _scalars(folder: Path) -> list[tuple[int, float]]:
    events = event_accumulator.EventAccumulator(str(folder)).Reload()
    assert events.Tags()["scalars"] == ["rec"]
    return [(event.step, pytest.approx(event.value)) for event in events.Scalars("rec")]


def test_a_resumed_run_shows_each_step_once(tmp_path: Path) -> None:
    for start, steps in ((0, range(1, 7)), (4, range(5, 9))):
        logger, run = TensorBoard(), _info(tmp_path, start)
        _log(logger, run, steps)
        logger.on_end(run, None)
    assert _scalars(tmp_path) == [*((step, step / 10) for step in range(1, 5)), (5, 4.5), (6, 4.6), (7, 4.7), (8, 4.8)]


@pytest.mark.parametrize("start", [0, 4])
def test_a_run_that_goes_back_shows_its_later_records(start: int, tmp_path: Path) -> None:
    logger = TensorBoard()
    _log(logger, _info(tmp_path, 0), range(1, 7))
    back = _info(tmp_path, start)
    _log(logger, back, range(start + 1, 6))
    logger.on_end(back, {})
    assert [step for step, _ in _scalars(tmp_path)] == [1, 2, 3, 4, 5]


def test_events_are_on_the_disk_at_a_checkpoint(tmp_path: Path) -> None:
    logger, run = TensorBoard(), _info(tmp_path, 0)
    _log(logger, run, range(1, 4))
    logger.on_checkpoint(run, 3, tmp_path)
    assert len(_scalars(tmp_path)) == 3
    logger.on_end(run, None)


def test_a_picture_is_an_image_of_its_name(tmp_path: Path) -> None:
    Image.new("RGB", (3, 2), (255, 0, 0)).save(tmp_path / "10.png")
    logger, run = TensorBoard(), _info(tmp_path, 0)
    logger.on_picture(run, 10, "samples", tmp_path / "10.png")
    logger.on_end(run, None)
    events: Any = event_accumulator.EventAccumulator(str(tmp_path)).Reload()
    (event,) = events.Images("samples")
    assert (event.step, event.width, event.height) == (10, 3, 2)
