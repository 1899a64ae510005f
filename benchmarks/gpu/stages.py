"""Run commands one after the other, each with a log and a time limit. Needs the standard library only."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MINUTES_LEFT = "MINUTES_LEFT"  # in a command: the minutes that the stage may take
_ENDING_SECONDS = 40  # for a case that has begun when those minutes are over, and for what is printed after it

_running: set[int] = set()  # process groups of stages


@dataclass(frozen=True)
class Stage:
    """A command with its limits.

    Attributes:
        name: of the stage and its log.
        command: the program and its arguments; empty: the stage is left out.
        seconds: time limit, after which the command is killed.
        environment: variables in addition to this process's.
        missing: why there is no command.
        beside: run at the same time as the stage before it; no stage that measures may.
        least: do not start with less than these seconds left.
        reserved: seconds that the stages before it must leave.
    """

    name: str
    command: Sequence[str]
    seconds: float
    environment: Mapping[str, str] = field(default_factory=dict)
    missing: str = ""
    beside: bool = False
    least: float = 0.0
    reserved: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """How a stage ended: "passed", "failed", "too slow" or "left out"; its seconds; the reason if it did not pass."""

    stage: str
    result: str
    seconds: float
    remark: str


def perform(stages: Sequence[Stage], out: Path, minutes: float) -> list[Outcome]:
    """Run all stages, also those after a stage that fails or is too slow.

    Args:
        stages: in order.
        out: folder for the logs and `summary.json`; made if it does not exist.
        minutes: for all stages together; a late stage gets what is left of them.
    """
    out.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + 60 * minutes
    signal.signal(signal.SIGINT, _kill_stages)
    outcomes: list[Outcome] = []
    in_turn = groups(stages)
    for number, together in enumerate(in_turn, start=1):
        reserved = sum(stage.reserved for later in in_turn[number:] for stage in later)
        print(f"{', '.join(stage.name for stage in together)} ...", file=sys.stderr, flush=True)
        with ThreadPoolExecutor(len(together)) as pool:
            left = end - time.monotonic() - reserved
            running = [pool.submit(run_stage, stage, out, left) for stage in together]
            outcomes += [one.result() for one in running]
    (out / "summary.json").write_text(json.dumps([dataclasses.asdict(outcome) for outcome in outcomes], indent=2))
    return outcomes


def groups(stages: Sequence[Stage]) -> list[list[Stage]]:
    """The stages in groups; those of a group run at the same time."""
    found: list[list[Stage]] = []
    for stage in stages:
        if stage.beside and found:
            found[-1].append(stage)
        else:
            found.append([stage])
    return found


def run_stage(stage: Stage, out: Path, seconds: float) -> Outcome:
    """Run one stage.

    Args:
        stage: what to run.
        out: an existing folder for its log.
        seconds: left for all stages.
    """
    log = out / f"{stage.name}.log"
    if not stage.command:
        log.write_text(f"{stage.missing}\n")
        return Outcome(stage.name, "left out", 0.0, stage.missing)
    limit = min(stage.seconds, seconds)
    if limit <= stage.least:
        reason = f"{max(limit, 0):.0f} s were left" if limit > 0 else "no time was left"
        log.write_text(f"{reason}\n")
        return Outcome(stage.name, "too slow", 0.0, reason)
    minutes = f"{max(limit - _ENDING_SECONDS, 1) / 60:.2f}"
    stage = dataclasses.replace(stage, command=[minutes if word == MINUTES_LEFT else word for word in stage.command])
    started = time.monotonic()
    with log.open("wb") as output:
        output.write(f"$ {command_line(stage)}\n".encode())
        output.flush()
        try:
            process = subprocess.Popen(
                list(stage.command),
                cwd=ROOT,
                env=os.environ | {"PATH": _search_path()} | dict(stage.environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # so that its children can be killed with it
            )
        except OSError as error:
            output.write(f"{error}\n".encode())
            return Outcome(stage.name, "failed", 0.0, f"{Path(stage.command[0]).name}: {error.strerror}")
        _running.add(process.pid)
        try:
            code = process.wait(timeout=limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return Outcome(stage.name, "too slow", time.monotonic() - started, f"killed after {limit:.0f} s")
        finally:
            _running.discard(process.pid)
    seconds_taken = time.monotonic() - started
    result = "passed" if code == 0 else "failed"
    return Outcome(stage.name, result, seconds_taken, _last_line(log) if code else "")


def command_line(stage: Stage) -> str:
    """The command as typed in a shell, or why there is none in brackets."""
    variables = [f"{name}={shlex.quote(value)}" for name, value in stage.environment.items()]
    return " ".join([*variables, shlex.join(stage.command)]) if stage.command else f"({stage.missing})"


def _search_path() -> str:
    """PATH, then the folders of this Python's programs (cmake, ninja) and of CUDA's."""
    path = os.environ.get("PATH", os.defpath)
    return os.pathsep.join([path, str(Path(sys.executable).parent), "/usr/local/cuda/bin"])


def _kill_stages(*_: object) -> None:
    """Handle Ctrl-C, which does not reach the stages, as they have sessions of their own."""
    for pid in list(_running):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
    raise KeyboardInterrupt


def _last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:90] if lines else ""
