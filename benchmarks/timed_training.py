"""A training of so many minutes in two processes: the first is stopped half-way, the second goes on with its run.

    python -m benchmarks.timed_training first DIR --preset cifar10 --data PATH --minutes 8
    python -m benchmarks.timed_training second DIR

The first process trains for a short while elsewhere, to learn the speed and how many iterations the minutes allow. Then
it begins the run and stops itself half-way by SIGTERM, as a queue of jobs would. The second trains to the end, with
metrics and pictures. What each did is appended to DIR/processes.jsonl, and DIR/report.md says it in words. DIR/run is
the run. Nothing of sivae's command line is needed, so this runs where its packages are missing.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from sivae.errors import CheckpointError, RunFolderError, RunInterrupted, SivaeError
from sivae.files import write_text
from sivae.machine import git_commit
from sivae.settings.run import RunConfig
from sivae.training import preset_config, train
from sivae.training.checkpoint import list_checkpoints
from sivae.training.folder import CHECKPOINTS, read_config
from sivae.training.recorder import last_step, read_records

PILOT_STEPS = 400
MARGIN = 0.8  # of the minutes are trained in; starting twice, checkpoints, metrics and pictures take the rest
RUN, PROCESSES, REPORT = "run", "processes.jsonl", "report.md"


def first(out: Path, config: RunConfig, minutes: float, pilot_steps: int = PILOT_STEPS) -> None:
    """Begin the run and stop it half-way.

    Args:
        out: a folder that is new or empty.
        config: of the preset, with its epochs.
        minutes: for both processes together.
        pilot_steps: iterations that tell the speed, by their second half.

    Raises:
        SivaeError: as :func:`sivae.training.train` does.
    """
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out) as folder:
        pilot = Path(folder, RUN)
        _train_until(pilot_steps, config, pilot)
        rate = _iterations_per_second(pilot)
        whole = read_config(pilot).total_steps
    steps = max(2, min(whole, int(60 * minutes * MARGIN * rate)))
    print(f"{steps:,} of the preset's {whole:,} iterations, at {rate:.1f} a second", file=sys.stderr, flush=True)
    started = time.perf_counter()
    _train_until(steps // 2, config.replace(steps=steps, epochs=None), out / RUN)
    _note(out, started)


def second(out: Path) -> dict[str, Any]:
    """Go on with the run to its end, and write the report.

    Returns:
        The run's summary.

    Raises:
        RunFolderError: the run is not one that a first process has left half-way.
        SivaeError: as :func:`sivae.training.train` does.
    """
    if len(_processes(out)) != 1:
        raise RunFolderError(f"{out}: it holds no run that a first process has begun, and no second one gone on with")
    started = time.perf_counter()
    summary = train(resume=True, out=out / RUN)
    _note(out, started)
    write_text(out / REPORT, report(summary, read_config(out / RUN), _processes(out)))
    return summary


def _processes(out: Path) -> list[dict[str, Any]]:
    path = out / PROCESSES
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def _train_until(step: int, config: RunConfig, folder: Path) -> None:
    """Train, and stop by SIGTERM once the run's records have come so far."""

    def watch() -> None:
        while not done.wait(0.1):
            if last_step(folder) >= step:
                os.kill(os.getpid(), signal.SIGTERM)
                return

    done = threading.Event()
    watcher = threading.Thread(target=watch, daemon=True)
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)  # for one that comes when the training is over
    watcher.start()
    try:
        train(config, folder)
    except RunInterrupted as stopped:
        print(stopped, file=sys.stderr, flush=True)
    finally:
        done.set()
        watcher.join()
        signal.signal(signal.SIGTERM, before)


def _iterations_per_second(folder: Path) -> float:
    """Of the second half of a run's records; libraries choose their kernels in the first."""
    records = read_records(folder)
    begin, end = records[len(records) // 2 - 1], records[-1]
    return float((end["step"] - begin["step"]) / (end["seconds"] - begin["seconds"]))


def _note(out: Path, started: float) -> None:
    """What this process did.

    Raises:
        CheckpointError: it left no checkpoint, as it was stopped in the middle of what may become a divergence.
    """
    checkpoints = list_checkpoints(out / RUN / CHECKPOINTS)
    if not checkpoints:
        raise CheckpointError(f"{out / RUN}: the process ended without a checkpoint")
    on_gpu = torch.cuda.is_available()
    entry = {
        "ends_at_step": int(checkpoints[-1].name),
        "process_seconds": time.perf_counter() - started,
        "peak_allocated_bytes": torch.cuda.max_memory_allocated() if on_gpu else None,
        "commit": git_commit(),
    }
    with (out / PROCESSES).open("a") as file:
        file.write(f"{json.dumps(entry)}\n")


def report(summary: Mapping[str, Any], config: RunConfig, processes: Sequence[Mapping[str, Any]]) -> str:
    """A page in Markdown of a finished run."""
    versions = ", ".join(f"{name} {version}" for name, version in summary["versions"].items())
    images = config.samples_after(summary["steps"])
    lines = [
        f"# {summary['preset']} on {summary['device_name']}, in {len(processes)} processes",
        "",
        f"Commit {processes[-1]['commit'] or 'unknown'}; {versions}; ops {summary['ops']}, "
        f"precision {config.precision}, batch {config.batch_size}.",
        "",
        "| | |",
        "|---|--:|",
        f"| iterations | {summary['steps']:,} |",
        f"| images seen | {images:,} |",
        f"| images per second, reading them included | {summary['samples_per_second']:,.0f} |",
        f"| seconds of training | {summary['train_seconds']:.0f} |",
        *(f"| {name} | {summary[name]:.4g} |" for name in summary["metrics"] if summary[name] is not None),
    ]
    for number, entry in enumerate(processes, start=1):
        peak = entry["peak_allocated_bytes"]
        memory = "" if peak is None else f", at most {peak / 1e9:.2f} GB allocated"
        lines.append(
            f"| process {number} | to iteration {entry['ends_at_step']:,} in {entry['process_seconds']:.0f} s{memory} |"
        )
    lines += ["", *(f"![{Path(name).stem}]({RUN}/{name})" for name in summary["pictures"])]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Be the first or the second process.

    Returns:
        The exit code.
    """
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.timed_training",
        description="A training of so many minutes in two processes: the second goes on with what the first began.",
    )
    parser.add_argument("process", choices=("first", "second"))
    parser.add_argument("out", type=Path, metavar="DIR", help="first: a folder that is new or empty; second: the same")
    parser.add_argument("--preset", default="cifar10", help="default: cifar10")
    parser.add_argument("--data", metavar="PATH", help="the preset's images")
    parser.add_argument("--precision", choices=("fp32", "tf32", "bf16"), default="bf16", help="default: bf16")
    parser.add_argument("--device", default="cuda", help="default: cuda")
    parser.add_argument("--minutes", type=float, default=8.0, help="for both processes together; default: 8")
    options = parser.parse_args(arguments)
    try:
        if options.process == "second":
            second(options.out)
            print((options.out / REPORT).read_text())
            return 0
        changes = {"path": options.data} if options.data else {}
        config = preset_config(options.preset, precision=options.precision, device=options.device, **changes)
        first(options.out, config, options.minutes)
    except SivaeError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
