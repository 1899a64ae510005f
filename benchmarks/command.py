"""The suite's command line, of `sivae bench` and `python -m benchmarks` alike: a run, a profile, a report.

Exit codes: 0 done; 1 failed; 2 wrong usage; 130 stopped.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from benchmarks import image_step_suite, iteration_profile, ops_suite, step_suite, style_step_suite
from benchmarks.cases import IMAGE_STEP, MODES, STEP, STYLE_STEP, cases
from benchmarks.environment import device_slug, environment, missing_backends
from benchmarks.image_iterations import CUDA_EFFORT as CUDA_IMAGE_EFFORT
from benchmarks.image_iterations import EFFORT, QUICK_EFFORT, ImageStepResult
from benchmarks.measure import CopyProbe, Effort, copy_bandwidth, probe_bytes
from benchmarks.ops_suite import reason_of
from benchmarks.options import PROFILE, REPORT, parse
from benchmarks.report import device_folders, write_report
from benchmarks.results import Row, RowFile, group_rows, step_rows
from benchmarks.step_suite import StepResult
from benchmarks.tables import print_tables, tables
from sivae.errors import ConfigError, SivaeError
from sivae.progress import Progress, naming
from sivae.training.process_settings import keep_freed_memory

__all__ = ["main", "parse", "perform"]

CUDA_EFFORT = Effort(rounds=20, sample_seconds=2e-3, warmup_seconds=0.02)
QUICK = Effort(rounds=7, sample_seconds=2e-3, warmup_calls=2, warmup_seconds=0.02, limit_seconds=2.0, least_rounds=3)
IMAGE_EFFORTS = {"cpu": EFFORT, "cuda": CUDA_IMAGE_EFFORT}
_OF_IMAGES: dict[str, Any] = {IMAGE_STEP: image_step_suite, STYLE_STEP: style_step_suite}


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
    except SivaeError as error:
        print(f"{program}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    return 0


def perform(options: argparse.Namespace) -> None:
    """Do what the options of `parse` say."""
    if options.verb == REPORT:
        _report(options)
        return
    device = _device(options.device)
    _check_sides(options, device)
    before = torch.get_num_threads()
    if options.threads:
        torch.set_num_threads(options.threads)
    try:
        with torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext():
            if options.verb == PROFILE:
                _profile(options, device)
            else:
                rows, file, failed = _run(options, device)
                print_tables(tables(rows))
                print(f"{len(rows)} rows in {file.path}" if rows else "no rows")
                _complain(failed)
    finally:
        torch.set_num_threads(before)


def _report(options: argparse.Namespace) -> None:
    for folder in device_folders(options.folder):
        written, notices = write_report(folder)
        for notice in notices:
            print(notice, file=sys.stderr)
        for path in written:
            print(path)


def _facts(options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    return environment(device) | {"quick": getattr(options, "quick", False), "command": options.command}


def _all_cases(suite: Any, device: torch.device) -> Sequence[Any]:
    found: Sequence[Any] = suite.CUDA_CASES if device.type == "cuda" else suite.CPU_CASES
    return found


def _image_cases(options: argparse.Namespace, device: torch.device) -> list[tuple[Any, Any]]:
    """Suites and their cases, of the iterations on images that were asked for."""
    return [
        (suite, case)
        for op, suite in _OF_IMAGES.items()
        if op in options.ops
        for case in _all_cases(suite, device)
        if not options.sides or case.side in options.sides
    ]


def _check_sides(options: argparse.Namespace, device: torch.device) -> None:
    if not options.sides:
        return
    wanted = [suite for op, suite in _OF_IMAGES.items() if op in options.ops]
    if not wanted:
        raise ConfigError(f"--sides is about {' and '.join(_OF_IMAGES)}; add --ops with one of them")
    known = sorted({case.side for suite in wanted for case in _all_cases(suite, device)})
    for side in options.sides:
        if side not in known:
            raise ConfigError(f"--sides {side}: of {' and '.join(options.ops)} there are {', '.join(map(str, known))}")


def _profile(options: argparse.Namespace, device: torch.device) -> None:
    keep_freed_memory()
    facts, chosen = _facts(options, device), _image_cases(options, device)
    file = RowFile(options.out, device_slug(device), facts)
    page = file.path.with_name(f"{file.path.stem}{iteration_profile.PROFILE_SUFFIX}")
    profiles: list[iteration_profile.Profile] = []
    failed: list[str] = []
    with naming("bench", len(chosen)) as progress:
        for suite, case in chosen:
            progress.begin(case.name)
            try:
                profiles += iteration_profile.profiles(case, suite.makers(case, device, compiled=False), device)
            except Exception as error:
                progress.notice(f"{case.name}: not profiled: {reason_of(error)}")
                failed.append(case.name)
            iteration_profile.write_page(page, profiles, facts)
            progress.advance()
    print_tables([table for one in profiles for table in iteration_profile.tables(one)])
    print(page)
    _complain(failed)


def _complain(failed: Sequence[str]) -> None:
    if failed:
        raise SivaeError(f"failed, as said above: {', '.join(failed)}")


@contextlib.contextmanager
def _rows_are_kept(progress: Progress, file: RowFile) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        progress.notice(f"stopped; the rows so far are in {file.path}")
        raise


def _run(options: argparse.Namespace, device: torch.device) -> tuple[list[Row], RowFile, list[str]]:
    started = time.monotonic()
    # As `sivae train` does, and for every variant alike: else what one allocates decides whether another's pages fault.
    keep_freed_memory()
    usual = CUDA_EFFORT if device.type == "cuda" else Effort()
    effort, step_effort = (QUICK, step_suite.QUICK_EFFORT) if options.quick else (usual, step_suite.EFFORT)
    if options.rounds:
        effort = dataclasses.replace(effort, rounds=options.rounds)
        step_effort = dataclasses.replace(step_effort, rounds=options.rounds)
    facts = _facts(options, device)
    file = RowFile(options.out, device_slug(device), facts)
    chosen = cases(options.ops, dtypes=options.dtype, quick=options.quick, large=device.type == "cuda")
    iterations: list[tuple[str, Callable[[], StepResult | ImageStepResult]]] = []
    if STEP in options.ops:
        iterations.append(("a training iteration", lambda: step_suite.run(device=device, effort=step_effort)))
    image_effort, first = (QUICK_EFFORT, 1) if options.quick else (IMAGE_EFFORTS[device.type], None)
    with_compile = not options.no_compile
    for op in _OF_IMAGES:
        of_op = [(suite, case) for suite, case in _image_cases(options, device) if case.op == op]
        for suite, case in of_op[:first]:
            measured = functools.partial(suite.run, case, device=device, effort=image_effort, with_compile=with_compile)
            iterations.append((case.name, measured))
    rows: list[Row] = []
    failed: list[str] = []
    with naming("bench", len(chosen) * len(MODES) + len(iterations)) as progress, _rows_are_kept(progress, file):
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
                try:
                    result = measured()
                except Exception as error:
                    progress.notice(f"{name}: not measured: {reason_of(error)}")
                    failed.append(name)
                    progress.advance()
                    continue
                for variant, reason in getattr(result, "skipped", {}).items():
                    progress.notice(f"{name}: without {variant}: {reason}")
                found = step_rows(result, facts)
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
                with_compile=with_compile,
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
    return rows, file, failed
