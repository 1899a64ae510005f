"""`python -m benchmarks`: the speed of the ops and of the training step, against plain PyTorch."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks import ops_suite, report, step_suite
from benchmarks.measure import QUICK, Effort, copy_bandwidth, read_bandwidth
from benchmarks.results import CaseResult
from sivae.training.memory import keep_freed_memory


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the suites and report.

    Args:
        arguments: without the program's name; None: those of the process.
    """
    options = _parser().parse_args(arguments)
    before = torch.get_num_threads()
    torch.set_num_threads(options.threads)
    try:
        _run(options, list(sys.argv[1:] if arguments is None else arguments))
    finally:
        torch.set_num_threads(before)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Times sivae against plain PyTorch, in the same process and rounds."
    )
    parser.add_argument("suite", nargs="?", choices=("ops", "step", "all"), default="all", help="default: all")
    parser.add_argument("--threads", type=_at_least_1, default=2, help="of the CPU; default: 2")
    parser.add_argument("--rounds", type=_at_least_1, help="samples per contender; default: 50 for ops, 100 for step")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--quick", action="store_true", help="tiny shapes: does it run? The figures mean nothing")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything there")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write a page for docs/results there")
    return parser


def _at_least_1(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is below 1")
    return value


def _run(options: argparse.Namespace, arguments: list[str]) -> None:
    meta = report.environment(options.threads) | {"quick": options.quick}
    _log(f"{meta['device']}, {options.threads} threads, torch {torch.__version__}, backends {meta['backends']}")
    if meta["load_average_before"] > 0.5:
        _log(
            f"load average {meta['load_average_before']:.1f}: other processes are or were at work. Threads that wait "
            "for a busy core distort ratios too, most of all those of many short calls; a quiet machine does not"
        )
    _log("memory: copy and read speed")
    probe_effort, probe_size = (QUICK, 1 << 16) if options.quick else (None, None)
    bandwidths = {
        "copy": copy_bandwidth(options.threads, effort=probe_effort, buffer_bytes=probe_size),
        "read": read_bandwidth(options.threads, effort=probe_effort, buffer_bytes=probe_size),
    }
    results: list[CaseResult] = []
    if options.suite in ("ops", "all"):
        effort = Effort(rounds=options.rounds) if options.rounds and not options.quick else None
        results += ops_suite.run(quick=options.quick, effort=effort, with_compile=not options.no_compile, log=_log)
    if options.suite in ("step", "all"):
        effort = Effort(rounds=options.rounds, sample_seconds=2e-2) if options.rounds and not options.quick else None
        keep_freed_memory()  # as `sivae train` does; for both contenders
        results += step_suite.run(quick=options.quick, effort=effort, log=_log)
    report.print_tables(results)
    if options.json:
        text = json.dumps(report.to_json(meta, bandwidths, results), indent=2, allow_nan=False)
        _write(options.json, text + "\n")
    if options.markdown:
        command = " ".join(["python -m benchmarks", *arguments])
        _write(options.markdown, report.markdown(meta, bandwidths, results, command))


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    _log(f"wrote {path}")


def _log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
