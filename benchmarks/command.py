"""The suite's command line, of `sivae bench` and `python -m benchmarks` alike: options, a run, a report.

Exit codes: 0 done; 1 failed; 2 wrong usage; 130 stopped.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import difflib
import functools
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch

from benchmarks import image_step_suite, ops_suite, step_suite, style_step_suite
from benchmarks.cases import DEFAULT_DTYPES, DEFAULT_NAMES, DTYPES, IMAGE_STEP, MODES, NAMES, STEP, STYLE_STEP, cases
from benchmarks.environment import device_slug, environment, missing_backends
from benchmarks.image_step_suite import ImageStepResult
from benchmarks.measure import CopyProbe, Effort, copy_bandwidth, probe_bytes
from benchmarks.progress import Progress
from benchmarks.report import device_folders, write_report
from benchmarks.results import Row, RowFile, group_rows, step_rows
from benchmarks.step_suite import StepResult
from benchmarks.tables import print_tables, tables
from sivae.training.errors import ConfigError
from sivae.training.memory import keep_freed_memory

RESULTS = Path(__file__).parent / "results"
CUDA_EFFORT = Effort(rounds=20, sample_seconds=2e-3, warmup_seconds=0.02)
QUICK = Effort(rounds=7, sample_seconds=2e-3, warmup_calls=2, warmup_seconds=0.02, limit_seconds=2.0, least_rounds=3)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; see {self.prog} --help")


def parse(words: Sequence[str], program: str) -> argparse.Namespace:
    """The options of a run, or of a report where the first word is "report".

    Args:
        words: without the program's name.
        program: how the user called it.

    Raises:
        ConfigError: the words cannot be understood; the message says what is known.
        SystemExit: help was asked for, and printed.
    """
    if words and words[0] == "report":
        return _report_parser(program).parse_args(words[1:], argparse.Namespace(report=True))
    options = _run_parser(program).parse_args(words, argparse.Namespace(report=False))
    options.command = " ".join([program, *words])
    return options


def _run_parser(program: str) -> argparse.ArgumentParser:
    parser = _Parser(
        prog=program,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=(
            "Time the fused ops and the training step against plain PyTorch and torch.compile, in the same process\n"
            "and rounds. Appends rows to OUT/DEVICE/DATE-COMMIT.jsonl and prints tables of medians."
        ),
        epilog=(
            "examples:\n"
            f"  {program} --quick\n"
            f"  {program} --ops reconstruction_error loss --dtype bfloat16\n"
            f"  {program} --ops image_step             training iterations on images\n"
            f"  {program} --ops style_step             the same with the style model\n"
            f"  {program} --device cuda --out results\n"
            f"  {program} report results      plots and a page from the rows in a folder"
        ),
    )
    parser.add_argument(
        "--ops",
        nargs="+",
        type=_op,
        metavar="OP",
        default=list(DEFAULT_NAMES),
        help=f"of {', '.join(NAMES)}; default: all but reparameterize, gaussian_kl, image_step and style_step",
    )
    parser.add_argument("--quick", action="store_true", help="fewer shapes, float32 only, few rounds")
    parser.add_argument("--out", type=Path, metavar="DIR", default=RESULTS, help="default: benchmarks/results")
    parser.add_argument("--device", default="auto", help="auto (a GPU when there is one), cpu, cuda, cuda:1 ...")
    parser.add_argument("--threads", type=_at_least_1, metavar="N", help="of the CPU; default: torch's choice")
    parser.add_argument(
        "--dtype",
        nargs="+",
        choices=list(DTYPES),
        metavar="DTYPE",
        help=f"of {', '.join(DTYPES)}; default: {' '.join(DEFAULT_DTYPES)}",
    )
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--rounds", type=_at_least_1, metavar="N", help="samples of each variant in each case")
    parser.add_argument(
        "--minutes", type=_above_0, metavar="X", help="begin nothing new after so long; default: no limit"
    )
    return parser


def _report_parser(program: str) -> argparse.ArgumentParser:
    parser = _Parser(
        prog=f"{program} report",
        description="Draw plots and write a page of tables (report.md) from the newest rows, beside them.",
        epilog=f"examples: {program} report benchmarks/results",
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="a folder of results, or of one device")
    return parser


def _op(word: str) -> str:
    if word not in NAMES:
        close = difflib.get_close_matches(word, NAMES, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise argparse.ArgumentTypeError(f"{word!r} is not measured; {hint}there are {', '.join(NAMES)}")
    return word


def _above_0(word: str) -> float:
    try:
        value = float(word)
    except ValueError:
        value = math.nan
    if not value > 0.0:
        raise argparse.ArgumentTypeError(f"{word!r} is not a number above 0")
    return value


def _at_least_1(word: str) -> int:
    try:
        value = int(word)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{word!r} is not a whole number") from None
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is below 1")
    return value


def _device(word: str) -> torch.device:
    if word == "auto":
        word = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(word)
    except RuntimeError:
        raise ConfigError(f"device = {word!r}: expected auto, cpu, cuda or cuda:N") from None
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"device = {word!r}: expected auto, cpu, cuda or cuda:N")
    if device.type == "cuda":
        if not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count():
            raise ConfigError(f"device = {word!r} is not there; torch sees {torch.cuda.device_count()} CUDA devices")
        device = torch.device("cuda", device.index or 0)
    return device


def main(words: Sequence[str], program: str) -> int:
    """Parse and do; errors are one line on stderr.

    Returns:
        The exit code.
    """
    try:
        perform(parse(words, program))
    except ConfigError as error:
        print(f"{program}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    return 0


def perform(options: argparse.Namespace) -> None:
    """Do what the options of `parse` say."""
    if options.report:
        for folder in device_folders(options.folder):
            written, notices = write_report(folder)
            for notice in notices:
                print(notice, file=sys.stderr)
            for path in written:
                print(path)
        return
    device = _device(options.device)
    before = torch.get_num_threads()
    if options.threads:
        torch.set_num_threads(options.threads)
    try:
        if device.type == "cuda":
            with torch.cuda.device(device):
                rows, file = _run(options, device)
        else:
            rows, file = _run(options, device)
    finally:
        torch.set_num_threads(before)
    print_tables(tables(rows))
    print(f"{len(rows)} rows in {file.path}" if rows else "no rows")


@contextlib.contextmanager
def _rows_are_kept(progress: Progress, file: RowFile) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        progress.notice(f"stopped; the rows so far are in {file.path}")
        raise


def _run(options: argparse.Namespace, device: torch.device) -> tuple[list[Row], RowFile]:
    started = time.monotonic()
    # As `sivae train` does, and for every variant alike: else what one allocates decides whether another's pages fault.
    keep_freed_memory()
    usual = CUDA_EFFORT if device.type == "cuda" else Effort()
    effort, step_effort = (QUICK, step_suite.QUICK_EFFORT) if options.quick else (usual, step_suite.EFFORT)
    if options.rounds:
        effort = dataclasses.replace(effort, rounds=options.rounds)
        step_effort = dataclasses.replace(step_effort, rounds=options.rounds)
    facts: dict[str, Any] = environment(device) | {"quick": options.quick, "command": options.command}
    file = RowFile(options.out, device_slug(device), facts)
    chosen = cases(options.ops, dtypes=options.dtype, quick=options.quick, large=device.type == "cuda")
    iterations: list[tuple[str, Callable[[], StepResult | ImageStepResult]]] = []
    if STEP in options.ops:
        iterations.append(("a training iteration", lambda: step_suite.run(device=device, effort=step_effort)))
    image_effort = image_step_suite.QUICK_EFFORT if options.quick else image_step_suite.EFFORT
    for op, suite in ((IMAGE_STEP, image_step_suite), (STYLE_STEP, style_step_suite)):
        of_images: Sequence[Any] = suite.CUDA_CASES if device.type == "cuda" else suite.CPU_CASES
        iterations += [
            (case.name, functools.partial(suite.run, case, device=device, effort=image_effort))
            for case in (of_images[:1] if options.quick else of_images)
            if op in options.ops
        ]
    rows: list[Row] = []
    with Progress(len(chosen) * len(MODES) + len(iterations)) as progress, _rows_are_kept(progress, file):
        progress.notice(
            f"{facts['device']}, {facts['threads']} CPU threads, torch {facts['torch']}, "
            f"backends {', '.join(facts['backends'])}"
        )
        for name, reason in missing_backends(device).items():
            progress.notice(f"without {name}: {reason}")
        if device.type == "cpu" and facts["load_average_before"] > 0.5:
            progress.notice(
                f"load average {facts['load_average_before']:.1f}: other processes are or were at work. Threads that "
                "wait for a busy core distort ratios too, most of all those of many short calls"
            )
        progress.begin("the speed of copying memory")
        probe = CopyProbe(probe_bytes(device), device)
        bandwidth = copy_bandwidth(probe, device=device, effort=effort)
        end = math.inf if options.minutes is None else started + 60 * options.minutes

        def measure_iterations() -> None:
            for name, measured in iterations:
                if time.monotonic() > end:
                    progress.notice(f"{name}: not measured; --minutes {options.minutes:g} are over")
                    continue
                progress.begin(name)
                found = step_rows(measured(), facts)
                file.append(found)
                rows.extend(found)
                progress.advance()

        # On CUDA first, where time may run out.
        if device.type == "cuda":
            measure_iterations()
        for case in chosen:
            if time.monotonic() > end:
                progress.notice(f"{case.name}: not measured; --minutes {options.minutes:g} are over")
                continue
            progress.begin(case.name)
            for result in ops_suite.run(
                case,
                device=device,
                effort=effort,
                with_compile=not options.no_compile,
                probe=probe,
                log=progress.notice,
            ):
                found = group_rows(result, facts, bandwidth)
                file.append(found)
                rows += found
                progress.advance()
        if device.type != "cuda":
            measure_iterations()
        progress.notice(f"{time.monotonic() - started:.0f} s")
    return rows, file
