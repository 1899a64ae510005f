"""Run an experiment's trainings side by side, each in a process of its own: resume what stopped, keep what is done."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypedDict

import sivae
from sivae.errors import RunFolderError, RunInterrupted, TrainingFailed
from sivae.json_files import read_json
from sivae.progress import Progress
from sivae.reproduce.experiment import Trained, Training
from sivae.reproduce.worker import DIVERGED, INTERRUPTED
from sivae.settings.run import RunConfig
from sivae.training.folder import CONFIG, read_rollback, read_summary
from sivae.training.interruption import StopSignals
from sivae.training.recorder import last_step
from sivae.words import plural

RUNS, LOGS = "runs", "logs"
WORKER = "sivae.reproduce.worker"

_POLL_SECONDS = 0.2
_LINE_SECONDS = 20.0
_LOOK_SECONDS = 2.0  # between two looks at how far the trainings are
_PATIENCE_SECONDS = 120.0  # for a training that was asked to stop: an iteration and a checkpoint, or the run's end


class _Divergence(TypedDict):
    message: str


@dataclass
class _Running:
    training: Training
    process: subprocess.Popen[bytes]
    log: IO[bytes]


def train_all(
    trainings: Sequence[Training],
    folder: Path,
    *,
    workers: int,
    title: str,
    show: bool,
    again: str,
    worker: str = WORKER,
) -> dict[str, Trained]:
    """Run every training that is not finished yet.

    Args:
        trainings: with distinct names.
        folder: of the experiment; runs are in `runs/`, the output of their processes in `logs/`.
        workers: processes at a time.
        title: of the experiment.
        show: show progress.
        again: the command that resumes, for messages.
        worker: the module that each process runs; it calls :func:`sivae.reproduce.worker.main`.

    Returns:
        By name, in the order given.

    Raises:
        RunInterrupted: SIGINT or SIGTERM came. Every running training has written a checkpoint.
        TrainingFailed: one of them failed; the others have stopped with a checkpoint.
    """
    outcomes = {one.name: _outcome(one, folder) for one in trainings}
    waiting = [one for one in trainings if outcomes[one.name] is None]
    running: list[_Running] = []

    def done() -> float:
        """The number of trainings that are done, with the share of iterations of the others."""
        return sum(_share(one, folder) if outcomes[one.name] is None else 1.0 for one in trainings)

    display = Progress(
        title, len(trainings), done=done(), percent=True, line_seconds=_LINE_SECONDS, enabled=show and bool(waiting)
    )
    if show and waiting:
        display.notice(f"{title}: {len(waiting)} of {plural(len(trainings), 'training')} to do")
    with display, StopSignals() as stop, _ended(running):
        looked = 0.0
        while waiting or running:
            while waiting and len(running) < workers and stop.signal is None:
                running.append(_start(waiting.pop(0), folder, worker))
            ended = [one for one in running if one.process.poll() is not None]
            for one in ended:
                running.remove(one)
                one.log.close()
                outcomes[one.training.name] = _finish(one, folder, stopped=stop.signal is not None)
            if stop.signal is not None:
                display.notice(f"{stop.signal.name}: {plural(len(running), 'training')} stop after a checkpoint")
                _stop(running)
                raise RunInterrupted(f"stopped by {stop.signal.name}; go on with: {again}")
            if ended or time.monotonic() - looked > _LOOK_SECONDS:
                looked = time.monotonic()
                finished = len(trainings) - len(waiting) - len(running)
                display.update(done(), status=f"{finished} of {plural(len(trainings), 'training')}")
            if running:
                time.sleep(_POLL_SECONDS)
    return {name: outcome for name, outcome in outcomes.items() if outcome is not None}


def _run(training: Training, folder: Path) -> Path:
    return folder / RUNS / training.name


def _share(training: Training, folder: Path) -> float:
    """The share of a training's iterations that is done."""
    steps = training.config.steps
    return min(last_step(_run(training, folder)) / steps, 0.99) if steps else 0.0  # metrics and pictures come last


def _outcome(training: Training, folder: Path) -> Trained | None:
    """The result of a training; None while it is not over."""
    run = _run(training, folder)
    summary = read_summary(run)
    divergence = _divergence(run)
    if summary is None and divergence is None:
        return None
    return Trained(
        training.name,
        RunConfig.read(run / CONFIG),
        run,
        summary,
        divergence,
        went_back=divergence is None and read_rollback(run) is not None,
    )


def _divergence(run: Path) -> str | None:
    remedy = "delete it to train this run again"
    try:
        return read_json(run / DIVERGED, _Divergence, error=RunFolderError, remedy=remedy)["message"]
    except FileNotFoundError:
        return None


def _start(training: Training, folder: Path, worker: str) -> _Running:
    run = _run(training, folder)
    if run.exists() and not (run / CONFIG).exists():
        shutil.rmtree(run)  # its process ended before the training began
    log_path = folder / LOGS / f"{training.name}.log"
    for path in (run, log_path):
        path.parent.mkdir(parents=True, exist_ok=True)
    log = log_path.open("ab")
    package = str(Path(sivae.__file__).resolve().parents[1])
    search = os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "PYTHONPATH": search, "OMP_NUM_THREADS": str(training.config.threads or 1)}
    process = subprocess.Popen(
        [sys.executable, "-m", worker],
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=log,
        env=environment,
        start_new_session=True,  # Ctrl-C in a terminal reaches the parent alone, which asks its children to stop
    )
    task: dict[str, Any] = {"folder": str(run.absolute()), "config": json.loads(training.config.to_json())}
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # the process has ended already; its log says why
        process.stdin.write(json.dumps(task).encode() + b"\n")
        process.stdin.flush()
    return _Running(training, process, log)


def _finish(one: _Running, folder: Path, *, stopped: bool) -> Trained | None:
    code = one.process.returncode
    outcome = _outcome(one.training, folder)
    if outcome is not None and code == 0:
        return outcome
    if stopped or code == INTERRUPTED:
        return None
    name = one.training.name
    lines = Path(one.log.name).read_text(encoding="utf-8", errors="replace").strip().splitlines()
    said = lines[-1] if lines else "without a message"
    how = f"was ended by signal {-code}" if code < 0 else "failed"
    raise TrainingFailed(f"the training {name} {how}: {said.removeprefix('sivae: ')} (all of it: {one.log.name})")


def _stop(running: list[_Running]) -> None:
    """Ask every process to write a checkpoint and end, and wait until it has."""
    for one in running:
        assert one.process.stdin is not None
        with contextlib.suppress(OSError):
            one.process.stdin.close()
    deadline = time.monotonic() + _PATIENCE_SECONDS
    for one in running:
        try:
            one.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            one.process.kill()
            one.process.wait()
        one.log.close()
    running.clear()


@contextlib.contextmanager
def _ended(running: list[_Running]) -> Iterator[None]:
    """Stop all processes at the end of the block; a second Ctrl-C kills them."""
    try:
        yield
    except KeyboardInterrupt:
        for one in running:
            one.process.kill()
        raise
    finally:
        _stop(running)


def describe(runs: Mapping[str, Trained]) -> dict[str, Any]:
    """The entries of `results.json` about the runs."""
    kept = ("preset", "seed", "steps", "ms_per_iteration", "train_seconds", "wall_seconds", "final")
    described = {}
    for name, run in runs.items():
        summary = run.summary or {}
        described[name] = {
            "config": json.loads(run.config.to_json()),
            "diverged": run.divergence,
            "went_back": run.went_back,
            **{key: summary[key] for key in (*kept, *summary.get("metrics", ())) if key in summary},
        }
    return described
