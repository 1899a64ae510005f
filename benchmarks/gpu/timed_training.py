"""Train for some minutes in two processes: the first stops halfway, the second continues its run.

    python -m benchmarks.gpu.timed_training first DIR --preset cifar10 --data PATH --minutes 8
    python -m benchmarks.gpu.timed_training second DIR

The first process measures the speed with a short pilot training, and computes how many iterations fit into the minutes.
It then starts the run and stops it halfway by SIGTERM, as a job queue does. The second process trains to the end, with
metrics and pictures. DIR/run is the run. Each process appends a line to DIR/processes.jsonl, and the second writes a
summary, DIR/report.md.
"""

from __future__ import annotations

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

from sivae.cli.parsing import Parser, positive
from sivae.errors import CheckpointError, RunFolderError, RunInterrupted, SivaeError
from sivae.files import write_text
from sivae.machine import git_commit
from sivae.settings.run import RunConfig
from sivae.training import preset_config, train
from sivae.training.checkpoint import list_checkpoints
from sivae.training.folder import CHECKPOINTS, read_config
from sivae.training.recorder import last_step, read_records

PILOT_STEPS = 400
TRAINING_SHARE = 0.8  # of the minutes; starting twice, checkpoints, metrics and pictures take the rest
RUN, PROCESSES, REPORT = "run", "processes.jsonl", "report.md"


def first(out: Path, config: RunConfig, minutes: float, pilot_steps: int = PILOT_STEPS) -> None:
    """Start the run and stop it halfway.

    Args:
        out: a new or empty folder.
        config: of the run; its epochs are the upper limit.
        minutes: for both processes together.
        pilot_steps: iterations of the pilot, whose second half gives the speed.

    Raises:
        SivaeError: as :func:`sivae.training.train` does.
    """
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out) as folder:
        pilot = Path(folder, RUN)
        _train_until(pilot_steps, config, pilot)
        rate = _iterations_per_second(pilot)
        whole = read_config(pilot).total_steps
    steps = max(2, min(whole, int(60 * minutes * TRAINING_SHARE * rate)))
    print(f"{steps:,} of the preset's {whole:,} iterations, at {rate:.1f} a second", file=sys.stderr, flush=True)
    started = time.perf_counter()
    _train_until(steps // 2, config.replace(steps=steps, epochs=None), out / RUN)
    _note(out, started)


def second(out: Path) -> dict[str, Any]:
    """Continue the run to its end, and write the report.

    Returns:
        The run's summary.

    Raises:
        RunFolderError: the folder has no run that one process has started and none has continued.
        SivaeError: as :func:`sivae.training.train` does.
    """
    if (count := len(_processes(out))) != 1:
        raise RunFolderError(
            f"{out}: expected the run of one process, found {count}; run first, then second, on a new folder"
        )
    started = time.perf_counter()
    summary = train(resume=True, out=out / RUN)
    _note(out, started)
    write_text(out / REPORT, report(summary, read_config(out / RUN), _processes(out)))
    return summary


def _processes(out: Path) -> list[dict[str, Any]]:
    path = out / PROCESSES
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def _train_until(step: int, config: RunConfig, folder: Path) -> None:
    """Train, and stop by SIGTERM when the run's records reach this step."""

    def watch() -> None:
        while not done.wait(0.1):
            if last_step(folder) >= step:
                os.kill(os.getpid(), signal.SIGTERM)
                return

    done = threading.Event()
    watcher = threading.Thread(target=watch, daemon=True)
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)  # for a signal that comes after the training's end
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
    """The speed in the second half of a run's records; libraries choose their kernels in the first."""
    records = read_records(folder)
    begin, end = records[len(records) // 2 - 1], records[-1]
    return float((end["step"] - begin["step"]) / (end["seconds"] - begin["seconds"]))


def _note(out: Path, started: float) -> None:
    """Append what this process did to the list of processes.

    Raises:
        CheckpointError: it saved no checkpoint, as its losses seemed to diverge when it was stopped.
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
    """A Markdown page about a finished run."""
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


def main(words: Sequence[str]) -> int:
    """Be the first or the second process.

    Returns:
        The exit code.
    """
    parser = Parser("python -m benchmarks.gpu.timed_training")
    parser.describe(
        "Train for some minutes in two processes: the second continues the run of the first.",
        [f"{parser.prog} first out --data cifar-10-python.tar.gz --minutes 8", f"{parser.prog} second out"],
    )
    parser.add_argument("process", nargs="?", choices=("first", "second"), metavar="PROCESS", help="first or second")
    parser.add_argument("out", nargs="?", type=Path, metavar="DIR", help="A new or empty folder; the same for both.")
    parser.require("process", "name the process: first or second")
    parser.require("out", "name a folder for the run")
    parser.add_argument("--preset", default="cifar10", metavar="NAME", help="What to train.")
    parser.add_argument("--data", metavar="PATH", help="The preset's images.")
    parser.add_argument("--precision", choices=("fp32", "tf32", "bf16"), default="bf16", help="Of the products.")
    parser.add_argument("--device", default="cuda", metavar="NAME", help="cpu, cuda, cuda:1 ...")
    parser.add_argument("--minutes", type=positive, default=8.0, metavar="X", help="For both processes together.")
    try:
        options = parser.parse(words)
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
    sys.exit(main(sys.argv[1:]))
