"""Run an experiment in a folder: its trainings, its report, and the page.

OUT/settings.json     the settings that decide the results, and the configuration of every training
OUT/runs/NAME/        one run each, see sivae.training.folder; OUT/logs/NAME.log holds the output of its process
OUT/page.md           with the PNG files that it shows
OUT/results.json      every number, with settings, versions, device, commit and times
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypedDict

import torch

from sivae import files
from sivae.errors import RunFolderError
from sivae.fields import NOT_NEGATIVE, show
from sivae.json_files import read_json
from sivae.machine import device_name, find_device, git_commit, versions
from sivae.reproduce import get_experiment
from sivae.reproduce.begun import OTHER, SETTINGS, begin, check_same
from sivae.reproduce.experiment import Experiment, Report, Settings, Trained, Training
from sivae.reproduce.markdown import duration, for_json
from sivae.reproduce.trainings import describe, train_all
from sivae.words import listed, plural

PAGE, RESULTS = "page.md", "results.json"
_CLOCK = "elapsed.json"
_FORMAT = 1


class _Stored(TypedDict):
    experiment: str
    settings: dict[str, Any]
    trainings: dict[str, Any]


class _Elapsed(TypedDict):
    seconds: Annotated[float, NOT_NEGATIVE]


# Settings whose option has another name.
_OPTIONS = {"changes": "the changed keys"}


def reproduce(
    name: str,
    settings: Settings | None = None,
    out: str | os.PathLike[str] | None = None,
    *,
    workers: int | None = None,
    progress: bool = True,
) -> list[Path]:
    """Run an experiment of the paper, or resume one that stopped.

    Args:
        name: one of :data:`sivae.reproduce.EXPERIMENTS`.
        settings: what decides the results; the same as before in a folder that holds a reproduction already.
        out: the folder; None: `runs/reproduce-NAME-SIZE`. A reproduction that stopped resumes, and one that is finished
            is evaluated and drawn again.
        workers: trainings at a time; None: one a CPU core, divided by the threads of each, or one on a GPU.
        progress: show a bar (on a terminal) or lines (elsewhere) on stderr.

    Returns:
        The files written: the page, the results, the figures.

    Raises:
        ConfigError: there is no such experiment, or a setting is wrong.
        RunFolderError: the folder holds something else, or other settings; or another process uses it.
        RunInterrupted: SIGINT or SIGTERM came; a second call resumes.
        TrainingFailed: a training failed, and not by divergence.
    """
    experiment = get_experiment(name)
    settings = settings or Settings()
    device = find_device(settings.device)
    trainings = experiment.trainings(settings)
    folder = Path(out) if out is not None else Path("runs") / f"reproduce-{name}-{settings.size}"
    _prepare(folder, name, settings, trainings)
    with contextlib.ExitStack() as stack:
        stack.enter_context(files.locked(folder, "works in"))
        files.remove_leftovers(folder)
        clock = stack.enter_context(_clock(folder))
        runs = train_all(
            trainings,
            folder,
            workers=workers or _workers(settings, device),
            title=name,
            show=progress,
            again=_command(name, settings, out),
        )
        if progress:
            print("evaluating, drawing", file=sys.stderr, flush=True)
        report = experiment.report(settings, runs, folder, show=progress)
        facts = {
            "experiment": name,
            "command": _command(name, settings, out),
            "settings": settings.to_dict(),
            "device": str(device),
            "device_name": device_name(device),
            "versions": versions(),
            "commit": git_commit(),
            "training_seconds": sum(float((run.summary or {}).get("wall_seconds", 0.0)) for run in runs.values()),
            "elapsed_seconds": clock(),
        }
        results = {"format": _FORMAT, **facts, "findings": report.numbers, "runs": describe(runs)}
        files.write_json(folder / RESULTS, for_json(results))
        files.write_text(folder / PAGE, _page(experiment, settings, runs, report, facts))
    return [folder / PAGE, folder / RESULTS, *(folder / figure for figure in report.figures)]


def _prepare(folder: Path, name: str, settings: Settings, trainings: Sequence[Training]) -> None:
    """Make the folder, or check that it holds this very reproduction."""
    content: dict[str, Any] = {
        "format": _FORMAT,
        "experiment": name,
        "settings": settings.to_dict(),
        "trainings": {one.name: json.loads(one.config.to_json()) for one in trainings},
    }
    if begin(folder, content, "reproduction"):
        return
    remedy = f"{OTHER}, or delete this one to begin again"
    stored = read_json(folder / SETTINGS, _Stored, error=RunFolderError, remedy=remedy, version=_FORMAT)
    if stored["experiment"] != name:
        raise RunFolderError(f"{folder} holds a reproduction of {stored['experiment']}, not of {name}; {OTHER}")
    check_same(folder, stored["settings"], content["settings"], _OPTIONS)
    if stored["trainings"] != content["trainings"]:
        raise RunFolderError(f"{folder} was begun by a version of sivae that trains otherwise; {OTHER}")


@contextlib.contextmanager
def _clock(folder: Path) -> Any:
    """Yield a function that returns the seconds of all calls in this folder; they are saved when the block ends."""
    remedy = "delete it to count the time from now on"
    try:
        before = read_json(folder / _CLOCK, _Elapsed, error=RunFolderError, remedy=remedy)["seconds"]
    except FileNotFoundError:
        before = 0.0
    started = time.monotonic()

    def elapsed() -> float:
        return before + time.monotonic() - started

    try:
        yield elapsed
    finally:
        files.write_json(folder / _CLOCK, {"seconds": elapsed()})


def _workers(settings: Settings, device: torch.device) -> int:
    return 1 if device.type == "cuda" else max(1, len(os.sched_getaffinity(0)) // settings.threads)


def _command(name: str, settings: Settings, out: str | os.PathLike[str] | None) -> str:
    words = ["sivae", "reproduce", name]
    defaults = Settings()
    for key, value in settings.to_dict().items():
        if key != "changes" and value != getattr(defaults, key):
            words += [f"--{key}", str(value)]
    if out is not None:
        words += ["--out", str(out)]
    return shlex.join(words)


def _page(
    experiment: Experiment,
    settings: Settings,
    runs: Mapping[str, Trained],
    report: Report,
    facts: Mapping[str, Any],
) -> str:
    changes = listed(f"{key} = {show(value)}" for key, value in settings.changes.items())
    on = f"{facts['device_name']} ({facts['device']}, {plural(settings.threads, 'thread')} each)"
    ran = f"`{facts['command']}`{f' with {changes}' if changes else ''}, {duration(facts['elapsed_seconds'])} on {on}"
    if runs:
        ran += f"; {plural(len(runs), 'training')} took {duration(facts['training_seconds'])} together"
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    parts = [
        f"# {experiment.NAME}",
        f"{experiment.SUMMARY[0].upper()}{experiment.SUMMARY[1:]}.",
        "## What was run",
        f"{ran}. {versions}, commit {facts['commit'] or 'unknown'}.",
        report.about,
    ]
    if diverged := [name for name, run in runs.items() if run.summary is None]:
        parts.append(f"Training diverged and stopped: {listed(diverged)}.")
    if settings.size == "quick":
        parts.append("**This is the quick size: it shows how things work, not how good they get.**")
    for title, text in report.sections:
        parts += [f"## {title}", text]
    parts.append(f"Every number is in `{RESULTS}`, and every training is a run's folder in `runs/`.")
    return "\n\n".join(parts) + "\n"
