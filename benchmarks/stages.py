"""Commands one after the other, each with a log and a time limit: what the checks and records on a GPU are made of.

The standard library does all of it, so that a plan can be printed where nothing is built yet.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MINUTES_LEFT = "MINUTES_LEFT"  # stands in a command for the time that the stage has

# What `python setup.py build_ext --inplace` does for CUDA, for setuptools too old to read all of pyproject.toml.
_BUILD = """\
import sysconfig
from pathlib import Path
from setup import compile_extension, write_status
package = Path("sivae").resolve()
compile_extension(package / f"_C{sysconfig.get_config_var('EXT_SUFFIX')}", "cuda")
write_status(package, "", "")
"""
_MACHINE = """\
import json, torch
from sivae.machine import machine
print(json.dumps(machine(), indent=2))
assert torch.cuda.is_available(), "torch sees no CUDA device"
"""

_running: set[int] = set()  # process groups of stages


@dataclass(frozen=True)
class Stage:
    """One step of the check.

    Attributes:
        name: also of its log.
        command: what runs; empty where it cannot.
        seconds: after which it is ended.
        environment: variables on top of this process's.
        missing: why there is no command; that is no failure.
        beside: it runs at the same time as the stage before it, as neither measures anything.
        least: seconds with less than which it is not begun.
        reserved: seconds that the stages before it leave to it.
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
    """What came of a stage: "passed", "failed", "too slow" or "left out"; seconds; a last word."""

    stage: str
    result: str
    seconds: float
    remark: str


def build_stages() -> list[Stage]:
    """Building with CUDA by the Python that runs this, without a network, and what machine it is."""
    return [
        Stage("build", [sys.executable, "-c", _BUILD], 180),
        Stage("machine", [sys.executable, "-c", _MACHINE], 60),
    ]


def groups(stages: Sequence[Stage]) -> list[list[Stage]]:
    """The stages that run at the same time, group by group."""
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
        out: the folder of its log.
        seconds: that are left for all stages.
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
    # A case that the suite has begun, its tables and the report after it want some time too.
    minutes = f"{max(limit - 40, 1) / 60:.2f}"
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
                start_new_session=True,  # so that what it started ends with it
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
            return Outcome(stage.name, "too slow", time.monotonic() - started, f"ended after {limit:.0f} s")
        finally:
            _running.discard(process.pid)
    seconds_taken = time.monotonic() - started
    result = "passed" if code == 0 else "failed"
    return Outcome(stage.name, result, seconds_taken, _last_line(log) if code else "")


def _search_path() -> str:
    """PATH with the folders of this Python's programs (cmake, ninja) and of CUDA's, behind what is there."""
    path = os.environ.get("PATH", os.defpath)
    return os.pathsep.join([path, str(Path(sys.executable).parent), "/usr/local/cuda/bin"])


def _end_what_runs(*_: object) -> None:
    """Ctrl-C: the stages have sessions of their own, so it does not reach them by itself."""
    for pid in list(_running):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
    raise KeyboardInterrupt


def command_line(stage: Stage) -> str:
    """As one would type it."""
    variables = [f"{name}={shlex.quote(value)}" for name, value in stage.environment.items()]
    return " ".join([*variables, shlex.join(stage.command)]) if stage.command else f"({stage.missing})"


def _last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:90] if lines else ""


def perform(stages: Sequence[Stage], out: Path, minutes: float) -> list[Outcome]:
    """Run all stages; one that fails or takes too long does not stop those after it.

    Args:
        stages: in order.
        out: a folder for their logs and `summary.json`; made where it is missing.
        minutes: for all together; what begins late gets what is left.
    """
    out.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + 60 * minutes
    signal.signal(signal.SIGINT, _end_what_runs)
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


def perform_plan(
    parser: argparse.ArgumentParser,
    plan: Callable[[Path, argparse.Namespace], Sequence[Stage]],
    minutes: Callable[[argparse.Namespace], float],
    arguments: Sequence[str] | None = None,
    show: Callable[[Path], None] = lambda out: None,
) -> int:
    """A command line around stages: a folder for the logs, --dry-run and --only; prints a table of the outcomes.

    Args:
        parser: with the command's own options.
        plan: the stages, from the folder and the options.
        minutes: for all of them, from the options.
        arguments: default: those of the process.
        show: prints what the folder holds at the end, before the table.

    Returns:
        The exit code: 1 where any stage failed.
    """
    parser.add_argument("out", type=Path, metavar="DIR", help="where logs and results go; made where it is missing")
    parser.add_argument("--dry-run", action="store_true", help="print what would run, and do nothing")
    parser.add_argument("--only", nargs="+", metavar="STAGE", help="some of the stages; --dry-run names them")
    options = parser.parse_args(arguments)
    out = options.out.resolve()
    stages = list(plan(out, options))
    names = [stage.name for stage in stages]
    for name in options.only or ():
        if name not in names:
            parser.error(f"there is no stage {name!r}; there are {', '.join(names)}")
    stages = [stage for stage in stages if not options.only or stage.name in options.only]
    if options.dry_run:
        for stage in stages:
            print(f"{stage.name} (at most {stage.seconds:.0f} s): {command_line(stage)}")
        return 0
    if out.exists() and not out.is_dir():
        parser.error(f"{out} is a file; name a folder")
    outcomes = perform(stages, out, minutes(options))
    show(out)
    width = max(len(name) for name in names)
    for outcome in outcomes:
        print(f"{outcome.stage:<{width}} {outcome.result:<9} {outcome.seconds:6.0f} s  {outcome.remark}")
    failed = [outcome.stage for outcome in outcomes if outcome.result not in ("passed", "left out")]
    print(f"failed: {', '.join(failed)}" if failed else f"all well; {out}")
    return 1 if failed else 0


def _summary_of(page: str) -> str:
    """The first section of the suite's report: the speed-ups and shares that the README quotes."""
    return page.split("\n## ")[1] if "\n## " in page else page


def show_reports(out: Path) -> None:
    """Print the summary of every report of the suite in a stage's results."""
    for page in sorted((out / "results").glob("*/report.md")):
        print(_summary_of(page.read_text()))
