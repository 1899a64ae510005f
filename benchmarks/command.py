"""Do what the options of `sivae bench` and `python -m benchmarks` say: run, profile or report.

Exit codes: 0 done; 1 failed; 2 wrong usage; 130 stopped.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from benchmarks.environment import chosen_device, device_slug, environment
from benchmarks.iterations import conv, profile, style
from benchmarks.iterations.images import ImageCase
from benchmarks.names import IMAGE_STEP, STYLE_STEP
from benchmarks.op_timing import reason_of
from benchmarks.options import PROFILE, REPORT, parse
from benchmarks.report import device_folders, write_report
from benchmarks.rows import RowFile
from benchmarks.run import Run
from benchmarks.tables import print_tables, tables
from sivae.errors import ConfigError, SivaeError
from sivae.progress import naming
from sivae.training.process_settings import keep_freed_memory
from sivae.words import plural

# Op -> type of the device -> cases.
_IMAGE_CASES: Mapping[str, Mapping[str, Sequence[ImageCase]]] = {IMAGE_STEP: conv.CASES, STYLE_STEP: style.CASES}


def main(words: Sequence[str], program: str) -> int:
    """Parse the words and do what they say; print an error in one line.

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
    """Do what the options of `parse` say.

    Raises:
        SivaeError: wrong options, or a case that failed.
    """
    if options.verb == REPORT:
        _report(options)
        return
    device = chosen_device(options.device)
    image_cases = _image_cases(options, device)
    # As `sivae train` does. Else one variant's allocations decide whether the memory of another has to be mapped anew.
    keep_freed_memory()
    with _threads(options.threads), torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext():
        facts = environment(device) | {"quick": getattr(options, "quick", False), "command": options.command}
        file = RowFile(options.out, device_slug(device), facts)
        if options.verb == PROFILE:
            failed = _profile(image_cases, device, file)
        else:
            run = Run(options, image_cases, device, file)
            run.measure()
            print_tables(tables(run.rows))
            if run.rows:
                print(_how_to_read(facts))
            print(f"{plural(len(run.rows), 'row')} in {file.path}" if run.rows else "no rows")
            failed = run.failed
    if failed:
        raise SivaeError(f"failed, for the reasons above: {', '.join(failed)}")


def _how_to_read(facts: Mapping[str, Any]) -> str:
    """What the numbers of the tables are, and a warning where other processes were running."""
    words = (
        "Times and ratios are medians; ± is half the distance between the quartiles. Ratios are taken within each "
        "round, so they can differ from the ratio of two times."
    )
    load, cores = facts["load_average_before"], facts["cores"]
    if load is not None and load > cores / 2:
        words += (
            f"\nOther processes were running (load average {load:g} on {plural(cores, 'core')}): where the spread is "
            "wide, the order of variants means nothing; measure again on a quiet machine."
        )
    return words


@contextlib.contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """Let torch use so many CPU threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _report(options: argparse.Namespace) -> None:
    for folder in device_folders(options.folder):
        written, notices = write_report(folder)
        for notice in notices:
            print(notice, file=sys.stderr)
        for path in written:
            print(path)


def _image_cases(options: argparse.Namespace, device: torch.device) -> list[ImageCase]:
    """The iterations on images that the options choose.

    Raises:
        ConfigError: --sides without an iteration on images, or a side that none has.
    """
    chosen = [case for op, cases in _IMAGE_CASES.items() if op in options.ops for case in cases[device.type]]
    if not options.sides:
        return chosen
    if not chosen:
        raise ConfigError(f"--sides is an option of {' and '.join(_IMAGE_CASES)}; add --ops with one of them")
    sides = sorted({case.side for case in chosen})
    for side in options.sides:
        if side not in sides:
            raise ConfigError(f"--sides {side}: {' and '.join(options.ops)} have {', '.join(map(str, sides))}")
    return [case for case in chosen if case.side in options.sides]


def _profile(cases: Sequence[ImageCase], device: torch.device, file: RowFile) -> list[str]:
    """Profile cases, print the tables and write them to a page beside the rows; return the cases that failed."""
    page = file.path.with_name(f"{file.path.stem}{profile.PROFILE_SUFFIX}")
    profiles: list[profile.Profile] = []
    failed: list[str] = []
    with naming("bench", len(cases)) as progress:
        for case in cases:
            progress.begin(case.name)
            try:
                profiles += profile.profiles(case, device)
            except Exception as error:
                progress.notice(f"{case.name}: not profiled: {reason_of(error)}")
                failed.append(case.name)
            profile.write_page(page, profiles, file.facts)
            progress.advance()
    print_tables([table for one in profiles for table in profile.tables(one)])
    print(page)
    return failed
