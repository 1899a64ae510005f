"""A training run from start to finish, and what can be asked of its folder afterwards.

DIR/config.json        every setting, resolved
DIR/metrics.jsonl      the losses over time; TensorBoard events beside it
DIR/samples/*.png      generated points beside data, over time
DIR/checkpoints/STEP/  see sivae.training.checkpoint
DIR/samples.png, density.png, curves.png, summary.json   at the end
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import hashlib
import json
import math
import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any, TypeGuard

import torch
from torch import nn

from sivae import files, ops
from sivae.machine import device_name, versions
from sivae.objectives import IntroObjective, SoftIntroObjective, VAEObjective
from sivae.training.checkpoint import (
    STATE,
    Checkpoint,
    list_checkpoints,
    load_latest,
    save_checkpoint,
    set_aside_after,
)
from sivae.training.config import RunConfig
from sivae.training.errors import CheckpointError, ConfigError, RunFolderError, RunInterrupted
from sivae.training.guard import FiniteGuard
from sivae.training.progress import Progress
from sivae.training.recorder import Recorder, read_records
from sivae.training.step import IntroStep, SoftIntroStep, VAEStep
from sivae.training.toy import ToyTask

CONFIG, SUMMARY, CHECKPOINTS, SAMPLES = "config.json", "summary.json", "checkpoints", "samples"

# What a resumed run may change: keys that decide when the run writes, never what it computes or records.
RESUME_MAY_CHANGE = ("checkpoint_every",)

# What a summary holds beside the metrics, which its key "metrics" names. One that lacks any of it is none.
_SUMMARY_KEYS = (
    *("preset", "objective", "steps", "seed", "metrics", "ms_per_iteration", "train_seconds", "wall_seconds", "final"),
    *("device", "device_name", "ops", "threads", "versions"),
)


def train(
    config: RunConfig | None = None,
    out: str | os.PathLike[str] | None = None,
    *,
    resume: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Train from a configuration, or go on with a run that stopped.

    A run that was stopped at any instant and resumed ends with the same weights, bit for bit, and the same
    records in `metrics.jsonl`, times apart, as one that was not, on the same machine and versions. SIGINT and
    SIGTERM finish the iteration and write a checkpoint (when called from the main thread).

    Args:
        config: what to train; with `resume` None, or the run's own configuration with a change that
            :data:`RESUME_MAY_CHANGE` allows.
        out: the run's folder; None: `runs/PRESET-seedN`, with `-2`, `-3` … where that is taken.
        resume: continue the run in `out` from its last whole checkpoint.
        progress: show a bar (on a terminal) or lines (elsewhere) on stderr.

    Returns:
        The content of `summary.json` (metrics, final losses, steps, times, versions, and where it ran), and as
        `run` the folder, which the file does not hold, as folders move.

    Raises:
        ConfigError: the configuration cannot be, here.
        RunFolderError: the folder is taken, or holds no run to resume, or another process trains in it.
        CheckpointError: the run's checkpoints are all damaged.
        NonFiniteError: the training diverged. The last checkpoint from before is whole.
        RunInterrupted: a signal came.
    """
    if resume:
        if out is None:
            raise RunFolderError("resume: name the run's folder")
        folder = Path(out)
        config = _resumed_config(config, folder)
    else:
        if config is None:
            raise ConfigError("train: give a configuration, or resume=True and the folder of a run")
        config = resolve(config)
        folder = _new_folder(config, out)
    with _only_process_in(folder), _settings_of(config):
        if resume and (finished := _read_summary(folder)):
            if progress:
                print(f"{folder} is finished; nothing is left to train", file=sys.stderr)
            return {**finished, "run": str(folder)}
        files.write_text(folder / CONFIG, config.to_json())
        return {**_run(config, folder, progress), "run": str(folder)}


def _run(config: RunConfig, folder: Path, show: bool) -> dict[str, Any]:
    started = time.perf_counter()
    device = torch.device(config.device)
    files.remove_leftovers(folder)
    (folder / CHECKPOINTS).mkdir(exist_ok=True)
    files.remove_leftovers(folder / CHECKPOINTS)

    # What is trained.
    task = ToyTask(config, device)
    with _global_seed(_derived_seed(config.seed, "weights")):
        model = task.build_model()
    model.to(device)
    encoder_optimizer = _adam(model.encoder, config)
    decoder_optimizer = _adam(model.decoder, config)
    optimizers = {"encoder": encoder_optimizer, "decoder": decoder_optimizer}
    generators = {
        name: torch.Generator(device).manual_seed(_derived_seed(config.seed, name)) for name in ("data", "noise")
    }
    objective = config.objective.build()
    warmup_objective = VAEObjective(beta_rec=objective.beta_rec, beta_kl=objective.beta_kl, kind=objective.kind)
    warmup_step = VAEStep(model, encoder_optimizer, decoder_optimizer, warmup_objective, generator=generators["noise"])
    step_of_objective: Callable[[torch.Tensor], dict[str, torch.Tensor]]
    if isinstance(objective, SoftIntroObjective):
        step_of_objective = SoftIntroStep(
            model, encoder_optimizer, decoder_optimizer, objective, generator=generators["noise"]
        )
    elif isinstance(objective, IntroObjective):
        step_of_objective = IntroStep(
            model, encoder_optimizer, decoder_optimizer, objective, generator=generators["noise"]
        )
    else:
        step_of_objective = warmup_step

    # Where it stands.
    with contextlib.ExitStack() as stack:
        notices: list[str] = []
        checkpoint = load_latest(folder / CHECKPOINTS, notices.append)
        start, clock, wall_before = 0, _Clock(device), 0.0
        if checkpoint is not None:
            start = checkpoint.step
            checkpoint.restore(model)
            clock.seconds, wall_before = _restore_state(checkpoint, optimizers, generators)
        set_aside_after(folder / CHECKPOINTS, start)
        display = Progress(folder.name, config.steps, start, enabled=show)
        stack.callback(display.close)
        for text in notices:
            display.notice(text)
        recorder = Recorder(folder, start, display.notice)
        stack.callback(recorder.close)
        guard = FiniteGuard(optimizers.values(), config.phase_at, start)
        stop = stack.enter_context(_StopSignals())

        def write_checkpoint(step: int) -> None:
            guard.check(step, _way_back(folder))
            recorder.sync()
            state = {
                "optimizers": {name: optimizer.state_dict() for name, optimizer in optimizers.items()},
                "generators": {name: generator.get_state() for name, generator in generators.items()},
                "train_seconds": clock.seconds,
                "wall_seconds": wall_before + time.perf_counter() - started,
            }
            save_checkpoint(folder / CHECKPOINTS, step, model, state)

        # The loop.
        logged, logged_seconds = start, clock.seconds
        clock.start()
        for step in range(start + 1, config.steps + 1):
            rate = config.learning_rate_at(step)
            for optimizer in optimizers.values():
                for group in optimizer.param_groups:
                    group["lr"] = rate
            phase = config.phase_at(step)
            losses = (warmup_step if phase == "warm-up" else step_of_objective)(task.batch(generators["data"]))
            guard.watch()

            last = step == config.steps
            if last or step % config.log_every == 0:
                guard.check(step, _way_back(folder))
                clock.lap()
                milliseconds = 1e3 * (clock.seconds - logged_seconds) / (step - logged)
                logged, logged_seconds = step, clock.seconds
                record = recorder.record(step, losses, learning_rate=rate, phase=phase, seconds=clock.seconds)
                guard.remember(record)
                display.update(step, record, milliseconds)
            if stop.signal is not None or last or step % config.checkpoint_every == 0:
                with clock.paused():
                    write_checkpoint(step)
            if stop.signal is not None and not last:
                raise RunInterrupted(
                    f"stopped at step {step:,} by {stop.signal.name}; "
                    f"go on with: sivae train --resume {shlex.quote(str(folder))}",
                    128 + stop.signal,
                )
            if not last and step % _sample_every(config) == 0:
                with clock.paused():
                    picture = folder / SAMPLES / f"{step:0{len(str(config.steps))}d}.png"
                    task.picture_samples(picture, model, _derived_seed(config.seed, "pictures"), step)
        clock.stop()

    # The end. It depends on the last checkpoint only, so a run that dies here is finished by resuming it.
    if show:
        print("computing the metrics, drawing the pictures", file=sys.stderr, flush=True)
    records = read_records(folder)
    metrics = _for_json(task.evaluate(model, config.seed))
    task.picture_samples(folder / "samples.png", model, _derived_seed(config.seed, "pictures"), config.steps)
    task.picture_run(folder, model, records, config.steps)
    final = {
        key: value for key, value in records[-1].items() if key not in ("step", "phase", "seconds", "learning_rate")
    }
    summary: dict[str, Any] = {
        "preset": config.preset,
        "objective": config.objective.name,
        "steps": config.steps,
        "seed": config.seed,
        "metrics": list(metrics),
        **metrics,
        "ms_per_iteration": 1e3 * clock.seconds / config.steps,
        "train_seconds": clock.seconds,
        "wall_seconds": wall_before + time.perf_counter() - started,
        "final": final,
        "device": config.device,
        "device_name": device_name(device),
        "ops": config.ops,
        "threads": torch.get_num_threads(),
        "versions": versions(),
    }
    assert _is_summary(summary)
    files.write_json(folder / SUMMARY, summary)
    return summary


def evaluate(
    run: str | os.PathLike[str],
    *,
    seed: int | None = None,
    device: str | None = None,
    notice: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Compute a run's metrics again, from its last whole checkpoint. Writes nothing.

    Args:
        run: the run's folder.
        seed: of the metrics' samples; None: the run's, which gives the figures of the training's end.
        device: where to compute; None: where the run trained.
        notice: told about damaged checkpoints that are passed over, and about another backend than the run's.

    Returns:
        `step`, `seed` and the metrics.

    Raises:
        RunFolderError: there is no run, or it has no checkpoint yet.
        ConfigError: its `config.json` is wrong, or the device is not there.
        CheckpointError: its checkpoints are all damaged.
    """
    folder = Path(run)
    config = read_config(folder)
    if device is not None:
        config = config.replace(device=device)
    if seed is not None:
        config = config.replace(seed=seed)
    config = config.replace(device=_device(config.device))
    if config.ops not in ops.available_backends(config.device):
        fastest = ops.available_backends(config.device)[0]
        notice(f"the run's ops backend {config.ops!r} is not there on {config.device}; evaluating with {fastest!r}")
        config = config.replace(ops=fastest)
    with _settings_of(config):
        checkpoint = load_latest(folder / CHECKPOINTS, notice)
        if checkpoint is None:
            raise RunFolderError(f"{folder} has no checkpoint yet; let it train, or: sivae train --resume {folder}")
        where = torch.device(config.device)
        task = ToyTask(config, where)
        with _global_seed(0):
            model = task.build_model()
        checkpoint.restore(model)
        metrics = task.evaluate(model.to(where), config.seed)
    return {"step": checkpoint.step, "seed": config.seed, **_for_json(metrics)}


def resolve(config: RunConfig) -> RunConfig:
    """Fill in what the settings leave open: the objective's defaults, device, ops backend, threads, pictures.

    Raises:
        ConfigError: the device, the backend or the density is not there.
    """
    device = _device(config.device)
    ToyTask(config, torch.device(device))
    status = ops.backend_status()
    if config.ops is not None and config.ops not in status:
        raise ConfigError(f"ops = {config.ops!r}: expected one of {', '.join(status)}")
    available = ops.available_backends(device)
    if config.ops is not None and config.ops not in available:
        reason = status[config.ops].get(torch.device(device).type) or f"it has no kernels for {device}"
        raise ConfigError(f"ops = {config.ops!r} is not there: {reason}; or choose one of {', '.join(available)}")
    return config.replace(
        objective=config.objective.resolved(),
        device=device,
        ops=config.ops or available[0],
        threads=config.threads or torch.get_num_threads(),
        sample_every=_sample_every(config),
    )


def _device(name: str) -> str:
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
        if device.type == "meta":
            raise RuntimeError("it computes nothing")
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ConfigError(
            f"device = {name!r} is not there ({reason}); use cpu, or auto to take what there is"
        ) from None
    return name


def _sample_every(config: RunConfig) -> int:
    return config.sample_every or max(1, config.steps // 10)


def _adam(network: nn.Module, config: RunConfig) -> torch.optim.Adam:
    try:
        return torch.optim.Adam(network.parameters(), lr=config.learning_rate, fused=True)
    except RuntimeError:  # not every device has the fused kernel
        return torch.optim.Adam(network.parameters(), lr=config.learning_rate)


def _restore_state(
    checkpoint: Checkpoint,
    optimizers: Mapping[str, torch.optim.Optimizer],
    generators: Mapping[str, torch.Generator],
) -> tuple[float, float]:
    """Returns the seconds of training, and by the wall's clock, so far."""
    try:
        for name, optimizer in optimizers.items():
            optimizer.load_state_dict(checkpoint.state["optimizers"][name])
        for name, generator in generators.items():
            generator.set_state(checkpoint.state["generators"][name])
        return float(checkpoint.state["train_seconds"]), float(checkpoint.state["wall_seconds"])
    except (KeyError, ValueError, RuntimeError, TypeError) as error:
        raise CheckpointError(
            f"{checkpoint.path / STATE} does not fit this run or this version of sivae ({error}); "
            "resume with the version that wrote it"
        ) from None


def _derived_seed(seed: int, purpose: str) -> int:
    # Streams of one seed must not be each other's continuation, nor those of the seed beside it.
    digest = hashlib.blake2b(f"{seed}/{purpose}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1


@contextlib.contextmanager
def _global_seed(seed: int) -> Iterator[None]:
    """Seed the CPU's global generator inside, and give the caller's back."""
    before = torch.get_rng_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(before)


@contextlib.contextmanager
def _settings_of(config: RunConfig) -> Iterator[None]:
    """The run's threads and ops backend inside, the caller's afterwards."""
    threads = torch.get_num_threads()
    assert config.ops is not None
    with ops.use_backend(config.ops):
        torch.set_num_threads(config.threads or threads)
        try:
            yield
        finally:
            torch.set_num_threads(threads)


class _Clock:
    """Time spent training. The device is waited for where the clock stops, never in between."""

    def __init__(self, device: torch.device) -> None:
        self.seconds = 0.0
        self._device = device
        self._since: float | None = None

    def start(self) -> None:
        self._since = time.perf_counter()

    def lap(self) -> None:
        """Bring `seconds` up to date. The device must be idle."""
        assert self._since is not None
        now = time.perf_counter()
        self.seconds += now - self._since
        self._since = now

    def stop(self) -> None:
        if self._since is not None:
            if self._device.type == "cuda":
                torch.cuda.synchronize(self._device)
            self.lap()
            self._since = None

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        self.stop()
        yield
        self.start()


class _StopSignals:
    """Inside, SIGINT and SIGTERM only leave a note; a second SIGINT interrupts at once."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> _StopSignals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if self.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = self.signal or signal.Signals(number)


def _new_folder(config: RunConfig, out: str | os.PathLike[str] | None) -> Path:
    if out is not None:
        folder = Path(out)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise RunFolderError(f"{folder}: a file stands there; choose another folder with --out") from None
        if any(not files.is_temporary(path) for path in folder.iterdir()):
            remedy = f"go on with it by --resume {folder}, or " if (folder / CONFIG).exists() else ""
            raise RunFolderError(f"{folder} is not empty; {remedy}choose another folder with --out")
        return folder
    base = Path("runs") / f"{config.preset}-seed{config.seed}"
    base.parent.mkdir(exist_ok=True)
    count = 1
    while True:
        folder = base if count == 1 else base.with_name(f"{base.name}-{count}")
        try:
            folder.mkdir()
        except FileExistsError:
            count += 1
        else:
            return folder


@contextlib.contextmanager
def _only_process_in(folder: Path) -> Iterator[None]:
    """Hold the folder for this process. The hold ends with the process, however that ends."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunFolderError(f"another process trains in {folder}; wait for it, or stop it") from None
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF):
                raise  # else a file system without locks: go on without one
        yield
    finally:
        os.close(descriptor)


def read_config(folder: str | os.PathLike[str]) -> RunConfig:
    """The configuration that a run's folder holds.

    Raises:
        RunFolderError: it is not the folder of a run.
        ConfigError: its `config.json` is wrong.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise RunFolderError(f"{folder}: there is no such folder; name the folder of a run (runs/… by default)")
    if not (folder / CONFIG).exists():
        raise RunFolderError(f"{folder} holds no {CONFIG}, so it is not a run's folder; name one that is")
    return RunConfig.read(folder / CONFIG)


def _resumed_config(changed: RunConfig | None, folder: Path) -> RunConfig:
    stored = read_config(folder)
    config = resolve(stored if changed is None else changed)
    for field in dataclasses.fields(RunConfig):
        if field.name not in RESUME_MAY_CHANGE and getattr(config, field.name) != getattr(stored, field.name):
            raise ConfigError(
                f"{field.name} cannot change in a resumed run, as it would no longer be the same run; "
                "leave it out, or start a new run into another folder"
            )
    return config


def _read_summary(folder: Path) -> dict[str, Any] | None:
    try:
        content = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if _is_summary(content) else None


def _is_summary(content: object) -> TypeGuard[dict[str, Any]]:
    if not isinstance(content, dict) or not all(key in content for key in _SUMMARY_KEYS):
        return False
    names = content["metrics"]
    return isinstance(names, list) and all(isinstance(name, str) and name in content for name in names)


def _way_back(folder: Path) -> str:
    paths = list_checkpoints(folder / CHECKPOINTS)
    if not paths:
        return "No checkpoint had been written yet."
    return f"The last good checkpoint is {paths[-1]}."


def _for_json(metrics: Mapping[str, float]) -> dict[str, float | None]:
    return {key: value if math.isfinite(value) else None for key, value in metrics.items()}
