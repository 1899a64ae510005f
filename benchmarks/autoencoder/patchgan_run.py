"""Train an autoencoder with a PatchGAN critic, and write the folder of a run of the package, which can be measured."""

from __future__ import annotations

import math
import shutil
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from benchmarks.autoencoder.comparison import Comparison
from benchmarks.baselines.patchgan import PatchGAN, PatchGANStep, layers_for
from sivae.errors import DivergenceError, RunInterrupted
from sivae.files import write_json, write_text
from sivae.machine import device_name, find_device, versions
from sivae.models.structural import StructuralDistance
from sivae.settings.run import RunConfig
from sivae.training.checkpoint import save_checkpoint
from sivae.training.clock import Clock
from sivae.training.folder import CHECKPOINTS, CONFIG, SUMMARY
from sivae.training.interruption import StopSignals
from sivae.training.process_settings import process_settings
from sivae.training.recorder import Recorder
from sivae.training.resolved_settings import resolve
from sivae.training.seeds import derived_seed, global_seed
from sivae.training.tasks.base import Task, open_task
from sivae.training.trainer import place


def make_step(
    comparison: Comparison, config: RunConfig, task: Task, device: torch.device, *, starts_after: int
) -> PatchGANStep:
    """Build the networks and their step; the autoencoder has the weights that the package's run starts from.

    Args:
        comparison: has the settings of the critic.
        config: of the run, resolved.
        task: of the run.
        device: to train on.
        starts_after: iterations without the critic.
    """
    with global_seed(derived_seed(config.seed, "weights")):
        model = task.build_model()
    place(model.train(), config, device)
    channels, side, _ = model.sample_shape
    with global_seed(derived_seed(config.seed, "critic")):
        critic = PatchGAN(channels, comparison.critic_width, layers_for(side))
    critic.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    low, high = model.value_range or (0.0, 1.0)
    assert config.objective.kind is not None
    return PatchGANStep(
        model,
        critic,
        StructuralDistance(config.objective.structural, config.objective.kind, (low, high)),
        starts_after=starts_after,
        generator=torch.Generator(device).manual_seed(derived_seed(config.seed, "noise")),
        autocast=torch.bfloat16 if config.precision == "bf16" else None,
    )


def train(config: RunConfig, folder: Path) -> dict[str, Any]:
    """Train from the start to the end; what is in the folder is deleted.

    Args:
        config: of the run.
        folder: of the run, in that of a comparison.

    Returns:
        The content of `summary.json`.

    Raises:
        DivergenceError: a loss is not finite.
        RunInterrupted: SIGINT or SIGTERM came.
    """
    comparison = Comparison.of(folder.parents[1])
    config, started = resolve(config), time.perf_counter()
    device = find_device(config.device)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write_text(folder / CONFIG, config.to_json())
    with ExitStack() as stack:
        stack.enter_context(process_settings(config))
        task = open_task(config, device)
        stack.callback(task.close)
        step = make_step(
            comparison, config, task, device, starts_after=comparison.critic_starts_after(config.total_steps)
        )
        recorder = Recorder(folder, 0, lambda text: print(text, file=sys.stderr))
        stack.callback(recorder.close)
        stop = stack.enter_context(StopSignals())
        clock = Clock(device)
        clock.start()
        for number in range(1, config.total_steps + 1):
            rate = config.learning_rate_at(number)
            losses = step(number, task.batch(number)[0], rate)
            clock.lap()
            record = recorder.record(number, losses, learning_rate=rate, seconds=clock.seconds)
            final = {name: record[name] for name in losses}
            if any(value is None for value in final.values()):
                found = ", ".join(f"{name} {float(value):.4g}" for name, value in losses.items())
                raise DivergenceError(f"a loss is not finite in step {number:,} ({found})", number)
            if stop.signal is not None:
                raise RunInterrupted(
                    f"stopped at step {number:,} by {stop.signal.name}; it starts again from the start"
                )
        clock.stop()
        save_checkpoint(folder / CHECKPOINTS, config.total_steps, step.model, {})
    summary = {
        "preset": config.preset,
        "objective": "patchgan",
        "steps": config.total_steps,
        "seed": config.seed,
        "metrics": [],
        "ms_per_iteration": 1e3 * clock.seconds / config.total_steps,
        "samples_per_second": config.samples_after(config.total_steps) / clock.seconds,
        "train_seconds": clock.seconds,
        "wall_seconds": time.perf_counter() - started,
        "final": final,
        "pictures": [],
        "device": config.device,
        "device_name": device_name(device),
        "ops": config.ops,
        "threads": torch.get_num_threads(),
        "versions": versions(),
        "critic_parameters": sum(map(math.prod, (parameter.shape for parameter in step.critic.parameters()))),
    }
    write_json(folder / SUMMARY, summary)
    return summary
