"""Measure what a training will take: some iterations of each of its phases, a picture and a checkpoint, no run.

The networks, the batches and the precision are the run's. What is written goes to a temporary folder.
"""

from __future__ import annotations

import contextlib
import itertools
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sivae.progress import naming
from sivae.settings.growth import Growing
from sivae.settings.run import RunConfig
from sivae.training.callbacks import RunInfo
from sivae.training.checkpoint import save_checkpoint
from sivae.training.folder import CHECKPOINTS, CONFIG
from sivae.training.graph import EAGER_CALLS
from sivae.training.initial import InitialWeights
from sivae.training.loggers import default_loggers
from sivae.training.parallel import Processes, claim_gpu, joined
from sivae.training.recorder import Recorder
from sivae.training.resolved_settings import resolve, with_steps
from sivae.training.tasks.base import Task, task_to_train
from sivae.training.trainer import Trainer

_BLOCK_SECONDS = 0.1  # that iterations are timed together for, at least
_LARGEST_BLOCK = 50  # iterations
_FEWEST_BLOCKS, _MOST_BLOCKS = 3, 10  # in a phase
_PHASE_SECONDS = 3.0  # after which a phase that has the fewest blocks is measured
_SLOW_SECONDS = 10.0  # an iteration that takes longer is timed twice


@dataclass(frozen=True)
class Phase:
    """A part of the schedule whose iterations take the same time.

    Attributes:
        name: "warm-up" or the objective's name; with the network that is frozen and the images' side, where they change
            on the way.
        batch_size: samples of an iteration, of all processes together.
        iterations: of the run.
        measured: number of iterations that were timed.
        seconds: of an iteration, the median of several blocks of iterations.
        fastest, slowest: of the blocks, seconds of an iteration.
    """

    name: str
    batch_size: int
    iterations: int
    measured: int
    seconds: float
    fastest: float
    slowest: float


@dataclass(frozen=True)
class DryRun:
    """What a training will take.

    Attributes:
        config: the run's settings, complete.
        parameters: number of parameters by network: "encoder", "decoder" and others that the model has.
        memory_bytes: peak so far, while training, drawing and writing a checkpoint.
        memory_of: of which memory: that of a GPU, as far as this process holds it, or the main memory of this process.
        phases: of the whole schedule, in its order.
        checkpoint_bytes: of one checkpoint.
        folder_bytes: of the run's folder at its end, with TensorBoard's files; at most, as noise makes large pictures.
    """

    config: RunConfig
    parameters: dict[str, int]
    memory_bytes: int
    memory_of: str
    phases: tuple[Phase, ...]
    checkpoint_bytes: int
    folder_bytes: int

    @property
    def training_seconds(self) -> float:
        """Of all iterations; pictures, checkpoints and the metrics of the end come on top."""
        return sum(phase.iterations * phase.seconds for phase in self.phases)


def dry_run(config: RunConfig, *, data: Any = None, progress: bool = True) -> DryRun:
    """Measure what a training with these settings will take, on this machine.

    The first iterations of each phase are trained, from the first weights on; of a growing model's stage those after it
    has been blended in, so that blending, which takes little, is not counted. Under `torchrun` all processes measure
    together.

    Args:
        config, data, progress: as for :func:`sivae.training.train`.

    Raises:
        ConfigError: the settings do not fit each other, the machine or the data, or the data is missing.
        ExchangeError: the processes cannot reach each other.
        OSError: the temporary folder has no room for a checkpoint.
    """
    claim_gpu()
    config = resolve(config)
    with contextlib.ExitStack() as stack:
        processes = stack.enter_context(joined(config.device))
        device = processes.device(config.device)
        show = progress and processes.first
        task = stack.enter_context(task_to_train(config, device, processes, data=data, show=show))
        config = with_steps(task)
        initial = None
        if config.init_from is not None:
            initial = InitialWeights.read_for(config.init_from, task.build_model, config.freeze)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        trainer = Trainer(config, task, device, processes)
        if initial is not None:
            trainer.start_from(initial)
            del initial
        parts = _parts(config)
        phases = []
        checkpoint_bytes = folder_bytes = 0
        with naming("dry run", len(parts) + 1) if show else contextlib.nullcontext() as display:
            for after, until in parts:
                name, batch_size = _name(config, until), _batch_size(config, until)
                if display is not None:
                    display.begin(f"{name}, batch {batch_size:,}")
                timed = _Timed(trainer, task, device, processes)
                first = _blended_in(config, after, until)
                phases.append(timed.phase(name, batch_size, until - after, range(first + 1, until + 1)))
                if display is not None:
                    display.advance()
            if display is not None:
                display.begin("pictures, a checkpoint")
            if processes.first:
                checkpoint_bytes, folder_bytes = _sizes(trainer, task, timed.losses)
        processes.wait()
        return DryRun(
            config,
            _parameters(trainer),
            _peak_memory(device),
            str(device) if device.type == "cuda" else "this process",
            tuple(phases),
            checkpoint_bytes,
            folder_bytes,
        )


def _parts(config: RunConfig) -> list[tuple[int, int]]:
    """The parts of a schedule whose iterations differ, each by the numbers of iterations before it and at its end."""
    total = config.total_steps
    ends = {total, config.warmup_steps}
    if config.freeze is not None:
        ends.add(round(config.freeze_fraction * total))
    if isinstance(config.growth, Growing):
        ends |= set(itertools.accumulate(config.growth.stage_steps or ()))
    return list(itertools.pairwise(sorted({0, *(end for end in ends if end < total), total})))


def _blended_in(config: RunConfig, after: int, until: int) -> int:
    """The number of iterations before the first one of a part that blends nothing; of the part if it has none."""
    growth = config.growth
    if not isinstance(growth, Growing) or growth.blend_steps is None:
        return after
    stage = growth.stage_at(until)
    first = max(after, until - 1 - stage.index + growth.blend_steps[stage.lod])
    return first if first < until else after


def _name(config: RunConfig, step: int) -> str:
    """Describe the part of the schedule that an iteration belongs to."""
    frozen, stage = config.frozen_at(step), config.stage_at(step)
    words = config.phase_at(step)
    words += "" if frozen is None else f", {frozen} frozen"
    return words if stage is None else f"{words} at {stage.side}x{stage.side}"


def _batch_size(config: RunConfig, step: int) -> int:
    stage = config.stage_at(step)
    return config.batch_size if stage is None else stage.batch_size


class _Timed:
    """Runs and times iterations.

    Attributes:
        losses: of the last iteration.
    """

    def __init__(self, trainer: Trainer, task: Task, device: torch.device, processes: Processes) -> None:
        self._trainer, self._task, self._device, self._processes = trainer, task, device, processes
        self.losses: dict[str, Tensor] = {}

    def phase(self, name: str, batch_size: int, iterations: int, steps: Sequence[int]) -> Phase:
        """Time iterations of a phase.

        Args:
            name, batch_size, iterations: see :class:`Phase`.
            steps: the iterations that may be run, one or more; the first ones allocate memory, and count only if there
                are no others.
        """
        left = iter(steps)
        warm = EAGER_CALLS + 2 if self._trainer.graphed else 1
        alone = [self._block(left, 1) for _ in range(min(warm + 1, len(steps)))][-1]
        size = max(1, min(_LARGEST_BLOCK, round(_BLOCK_SECONDS / alone[1])))
        blocks = [alone] if size == 1 and len(steps) > warm else []
        fewest = _FEWEST_BLOCKS if alone[1] < _SLOW_SECONDS else 2
        until = time.perf_counter() + _PHASE_SECONDS
        while len(blocks) < _MOST_BLOCKS:
            late = len(blocks) >= fewest and time.perf_counter() > until
            block = (0, 0.0) if self._of_first(late) else self._block(left, size)
            if block[0] == 0:
                break
            blocks.append(block)
        times = [seconds for _, seconds in blocks or [alone]]
        measured = sum(count for count, _ in blocks or [alone])
        return Phase(name, batch_size, iterations, measured, statistics.median(times), min(times), max(times))

    def _block(self, steps: Iterator[int], count: int) -> tuple[int, float]:
        """Run up to so many iterations. Returns their number, and the seconds of one, which all processes agree on."""
        done, began = 0, self._now()
        for step in itertools.islice(steps, count):
            self.losses = dict(self._trainer.iterate(step, *self._task.batch(step)))
            done += 1
        seconds = (self._now() - began) / max(1, done)
        return done, float(self._processes.text_of_first(repr(seconds)))

    def _of_first(self, value: bool) -> bool:
        return self._processes.text_of_first(str(value)) == "True"

    def _now(self) -> float:
        """The time at which the device has finished its work."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()


def _sizes(trainer: Trainer, task: Task, losses: dict[str, Tensor]) -> tuple[int, int]:
    """Write what a run writes to a temporary folder. Returns bytes: of a checkpoint, of the run's folder at its end."""
    config = trainer.config
    step, every = config.total_steps, config.sample_every
    assert every is not None
    with tempfile.TemporaryDirectory(prefix="sivae-") as name:
        folder = Path(name)
        (folder / CONFIG).write_text(config.to_json())
        at_start, of_record, record = _records(folder, config, step, losses)
        model = trainer.for_evaluation()
        pictures = {path.stem: path.stat().st_size for path in task.picture_run(folder, model, [record], step)}
        state = {**trainer.state(), "task": task.state(), "scores": [], "record": record}
        state |= {"train_seconds": 0.0, "wall_seconds": 0.0, "total_steps": step}
        averaged = None if trainer.averaged is None else model
        of_checkpoint = _size(save_checkpoint(folder / CHECKPOINTS, step, trainer.model, state, averaged=averaged))
    records, drawn, written = (-(-step // one) for one in (config.log_every, every, config.checkpoint_every))
    written += config.init_from is not None  # that of step 0
    kept = min(written, config.keep_checkpoints + 1)  # the best one may be older than the last ones
    while_training = (drawn - 1) * sum(size for name, size in pictures.items() if name.startswith("samples"))
    of_pictures = 2 * (while_training + sum(pictures.values()))  # TensorBoard's files hold them too
    return of_checkpoint, at_start + records * of_record + of_pictures + kept * of_checkpoint


def _records(folder: Path, config: RunConfig, step: int, losses: dict[str, Tensor]) -> tuple[int, int, dict[str, Any]]:
    """Write two records, also for TensorBoard. Returns bytes, at the start and of each record, and the record."""
    run, loggers = RunInfo(folder, config, 0), default_loggers(lambda text: None)
    recorder = Recorder(folder, 0, lambda text: None)
    sizes = [_size(folder)]
    phase, rate = config.phase_at(step), config.learning_rate_at(step)
    for _ in range(2):  # the first one also begins TensorBoard's file
        record = recorder.record(step, losses, learning_rate=rate, phase=phase, seconds=time.perf_counter())
        for logger in loggers:
            logger.on_record(run, record)
            logger.on_checkpoint(run, step, folder)  # has it write what it holds
        sizes.append(_size(folder))
    recorder.close()
    for logger in loggers:
        logger.on_end(run, None)
    of_record = sizes[2] - sizes[1]
    return sizes[1] - of_record, of_record, record


def _size(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _parameters(trainer: Trainer) -> dict[str, int]:
    """Count parameters by network."""
    counts = {
        name: sum(parameter.numel() for parameter in network.parameters())
        for name, network in trainer.model.named_children()
    }
    return {name: count for name, count in counts.items() if count}


def _peak_memory(device: torch.device) -> int:
    """Bytes, see :class:`DryRun`."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    with contextlib.suppress(OSError, ValueError, StopIteration):  # where it says so: of this program alone
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("VmHWM:")).split()[1])
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
