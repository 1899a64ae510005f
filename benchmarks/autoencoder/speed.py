"""Time the iterations of the three methods in turns, to give all of them the same seconds."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TypedDict

import torch
from torch import Tensor

from benchmarks.autoencoder.comparison import METHODS, Comparison, Method
from benchmarks.autoencoder.patchgan_run import make_step
from sivae.errors import RunFolderError
from sivae.files import write_json
from sivae.json_files import read_json
from sivae.progress import measuring
from sivae.settings.run import RunConfig
from sivae.training.parallel import Processes
from sivae.training.process_settings import process_settings
from sivae.training.resolved_settings import resolve
from sivae.training.tasks.base import Task, open_task
from sivae.training.trainer import Trainer

SPEED = "speed.json"
_WARM_UP, _BLOCK, _ROUNDS = 3, 4, 9

_Iteration = Callable[[int, Tensor], object]


class Speed(TypedDict):
    """Milliseconds of a core for an iteration of each method; `*_waiting`: before its critic begins."""

    plain: float
    patchgan: float
    patchgan_waiting: float
    encoder: float
    encoder_waiting: float


def measured_speed(comparison: Comparison, folder: Path, *, show: bool) -> Speed:
    """Read the speed from the folder, or measure it and write it there."""
    try:
        return read_json(folder / SPEED, Speed, error=RunFolderError, remedy="delete it to measure again")
    except FileNotFoundError:
        speed = _measure(comparison, show)
        write_json(folder / SPEED, speed)
        return speed


def iterations(comparison: Comparison, speed: Speed) -> dict[Method, int]:
    """Return the number of iterations of each method that take the comparison's seconds."""
    share = comparison.critic_start
    taken: dict[Method, float] = {
        "plain": speed["plain"],
        "patchgan": share * speed["patchgan_waiting"] + (1.0 - share) * speed["patchgan"],
        "encoder": share * speed["encoder_waiting"] + (1.0 - share) * speed["encoder"],
    }
    return {method: max(2, round(1e3 * comparison.seconds / milliseconds)) for method, milliseconds in taken.items()}


def _measure(comparison: Comparison, show: bool) -> Speed:
    device = torch.device("cpu")
    configs = {method: resolve(comparison.config(method, 0, 1_000)) for method in METHODS}
    with ExitStack() as stack:
        stack.enter_context(process_settings(configs["plain"]))
        task = open_task(configs["plain"], device, show=show)
        stack.callback(task.close)
        contenders: dict[str, _Iteration] = {
            "plain": _of_package(configs["plain"], task, device),
            "encoder": _of_package(configs["encoder"].replace(warmup_fraction=0.0), task, device),
            "encoder_waiting": _of_package(configs["encoder"].replace(warmup_fraction=1.0), task, device),
            "patchgan": _with_patchgan(comparison, configs["patchgan"], task, device, starts_after=0),
            "patchgan_waiting": _with_patchgan(comparison, configs["patchgan"], task, device, starts_after=1_000_000),
        }
        batches = (task.batch(number)[0] for number in itertools.count(1))
        steps = dict.fromkeys(contenders, 0)
        taken: dict[str, list[float]] = {name: [] for name in contenders}
        display = stack.enter_context(measuring("timing", _ROUNDS + 1, enabled=show))
        for index in range(_ROUNDS + 1):
            count = _BLOCK if index else _WARM_UP
            for name, iterate in contenders.items():
                started = time.process_time()
                for _ in range(count):
                    steps[name] += 1
                    iterate(steps[name], next(batches))
                if index:
                    taken[name].append(1e3 * (time.process_time() - started) / count)
            display.advance()
    medians = {name: statistics.median(values) for name, values in taken.items()}
    return Speed(
        plain=medians["plain"],
        patchgan=medians["patchgan"],
        patchgan_waiting=medians["patchgan_waiting"],
        encoder=medians["encoder"],
        encoder_waiting=medians["encoder_waiting"],
    )


def _of_package(config: RunConfig, task: Task, device: torch.device) -> _Iteration:
    trainer = Trainer(config, task, device, Processes())
    return lambda number, x: trainer.iterate(number, x, None)


def _with_patchgan(
    comparison: Comparison, config: RunConfig, task: Task, device: torch.device, *, starts_after: int
) -> _Iteration:
    step = make_step(comparison, config, task, device, starts_after=starts_after)
    return lambda number, x: step(number, x, config.learning_rate_at(number))
