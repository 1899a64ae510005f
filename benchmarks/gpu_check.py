"""Everything that needs a GPU, in one command: `make gpu-check OUT=DIR`, or `python -m benchmarks.gpu_check DIR`.

Builds, runs the tests marked `gpu`, looks for memory errors and races, and runs the suite, with the Python that runs
this and without a network. It needs a GPU, nvcc, and torch with CUDA; the standard library does the rest. Every stage
writes its output to DIR/STAGE.log; one that fails or takes too long does not stop those after it. The exit code is 1
where any failed.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MINUTES = 8.8  # for all stages together; what begins late gets what is left
SUITE_SECONDS = 360
_TRITON_PARTS = 8
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
    """

    name: str
    command: Sequence[str]
    seconds: float
    environment: Mapping[str, str] = field(default_factory=dict)
    missing: str = ""
    beside: bool = False


@dataclass(frozen=True)
class Outcome:
    """What came of a stage: "passed", "failed", "too slow" or "left out"; seconds; a last word."""

    stage: str
    result: str
    seconds: float
    remark: str


def plan(out: Path) -> list[Stage]:
    """The stages, in order.

    Args:
        out: where their results go.
    """
    python = sys.executable
    sanitizer = find_sanitizer()
    # Every allocation its own: an access beyond a tensor is then one beyond what the sanitizer knows.
    alone = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    exercise = [python, "-m", "benchmarks.exercise", "cuda", "native"]
    # Our kernels only; torch's own calls may fail and be tried again without harm.
    watched = ["--kernel-name", "kernel_substring=sivae", "--report-api-errors", "no"]
    tests = [python, "-m", "pytest", "-m", "gpu", "tests/gpu", "-q", "--durations=15", "-p", "no:cacheprovider"]
    small = "not test_large"  # those take a good part of the memory, one after the other
    missing = "" if sanitizer else "compute-sanitizer is neither on the PATH nor in the CUDA folder"
    suite, results = [python, "-m", "benchmarks"], str(out / "results")
    return [
        Stage("build", [python, "-c", _BUILD], 180),
        Stage("machine", [python, "-c", _MACHINE], 60),
        Stage("tests", [*tests, "-k", f"not triton and {small}"], 180),
        Stage("tests-large", [*tests, "-k", "test_large"], 180, beside=True),
        # Triton compiles while its tests run, one kernel at a time in a process, which takes most of their time.
        *(
            Stage(
                f"tests-triton-{part}",
                [*tests, "-k", f"triton and {small}"],
                180,
                {"SIVAE_TEST_PART": f"{part}/{_TRITON_PARTS}"},
                beside=True,
            )
            for part in range(_TRITON_PARTS)
        ),
        *(
            Stage(
                tool,
                [sanitizer, "--tool", tool, "--error-exitcode", "9", *watched, *exercise] if sanitizer else [],
                120,
                alone,
                missing,
                beside=True,
            )
            for tool in ("memcheck", "racecheck")
        ),
        Stage("suite", [*suite, "--device", "cuda", "--out", results, "--minutes", MINUTES_LEFT], SUITE_SECONDS),
        Stage("report", [*suite, "report", results], 30),
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


def find_sanitizer() -> str | None:
    """compute-sanitizer on the PATH, or in the folder of CUDA."""
    found = shutil.which("compute-sanitizer")
    if found:
        return found
    nvcc = shutil.which("nvcc")
    roots = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    roots += [str(Path(nvcc).resolve().parents[1])] if nvcc else []
    for root in filter(None, roots):
        for place in ("bin", "compute-sanitizer"):
            candidate = Path(root, place, "compute-sanitizer")
            if candidate.is_file():
                return str(candidate)
    return None


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
    if limit <= 0:
        log.write_text("no time was left\n")
        return Outcome(stage.name, "too slow", 0.0, "no time was left")
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


def _summary_of(page: str) -> str:
    """The first section of the suite's report: the speed-ups and shares that the README quotes."""
    return page.split("\n## ")[1] if "\n## " in page else page


def _last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:90] if lines else ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the stages and print a table.

    Returns:
        The exit code.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_check", description=str(__doc__).split("\n\n")[0])
    parser.add_argument("out", type=Path, metavar="DIR", help="where logs and results go; made where it is missing")
    parser.add_argument("--dry-run", action="store_true", help="print what would run, and do nothing")
    names = [stage.name for stage in plan(Path())]
    parser.add_argument("--only", nargs="+", choices=names, metavar="STAGE", help=f"of {', '.join(names)}")
    options = parser.parse_args(arguments)
    out = options.out.resolve()
    stages = [stage for stage in plan(out) if not options.only or stage.name in options.only]
    if options.dry_run:
        for stage in stages:
            print(f"{stage.name} (at most {stage.seconds:.0f} s): {command_line(stage)}")
        return 0
    if out.exists() and not out.is_dir():
        parser.error(f"{out} is a file; name a folder")
    out.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + 60 * MINUTES
    signal.signal(signal.SIGINT, _end_what_runs)
    outcomes: list[Outcome] = []
    for together in groups(stages):
        print(f"{', '.join(stage.name for stage in together)} ...", file=sys.stderr, flush=True)
        with ThreadPoolExecutor(len(together)) as pool:
            running = [pool.submit(run_stage, stage, out, end - time.monotonic()) for stage in together]
            outcomes += [one.result() for one in running]
    (out / "summary.json").write_text(json.dumps([dataclasses.asdict(outcome) for outcome in outcomes], indent=2))
    for page in sorted((out / "results").glob("*/report.md")):
        print(_summary_of(page.read_text()))
    for outcome in outcomes:
        print(f"{outcome.stage:<13} {outcome.result:<9} {outcome.seconds:6.0f} s  {outcome.remark}")
    failed = [outcome.stage for outcome in outcomes if outcome.result not in ("passed", "left out")]
    print(f"failed: {', '.join(failed)}" if failed else f"all well; {out}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
