"""Measure ops and training iterations, append their rows to a file, and show the progress."""

from __future__ import annotations

import argparse
import functools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from benchmarks import op_timing
from benchmarks.environment import missing_backends
from benchmarks.iterations import images, points
from benchmarks.iterations.base import IterationResult
from benchmarks.iterations.images import ImageCase
from benchmarks.names import MODES, OF_IMAGES, STEP
from benchmarks.op_cases import Case, cases
from benchmarks.probes import CopyProbe, copy_bandwidth, probe_bytes
from benchmarks.rows import Row, RowFile, group_rows, iteration_rows
from benchmarks.timing import Effort, Efforts, Spread
from sivae.progress import Progress, naming
from sivae.words import plural


@dataclass(frozen=True)
class _Task:
    """A case to measure: its title, how many results it has, and what yields the rows of each."""

    name: str
    results: int
    measured: Callable[[Progress], Iterator[list[Row]]]


class Run:
    """A run of the benchmarks.

    Args:
        options: of a run, see `benchmarks.options`.
        image_cases: the iterations on images to measure.
        device: where.
        file: gets the rows, and has the facts about the run.

    Attributes:
        rows: measured so far.
        failed: titles of cases that raised an error.
    """

    def __init__(
        self, options: argparse.Namespace, image_cases: Sequence[ImageCase], device: torch.device, file: RowFile
    ) -> None:
        self._options, self._device, self._file = options, device, file
        self._image_cases = _first_of_each(image_cases) if options.quick else image_cases
        self.rows: list[Row] = []
        self.failed: list[str] = []

    def measure(self) -> None:
        """Measure every case, except those that have not begun after --minutes."""
        started = time.monotonic()
        minutes = self._options.minutes
        end = math.inf if minutes is None else started + 60 * minutes
        tasks = self._tasks()
        with naming("bench", sum(task.results for task in tasks)) as progress:
            self._introduce(progress)
            try:
                for task in tasks:
                    if time.monotonic() > end:
                        progress.notice(f"{task.name}: not measured; --minutes {minutes:g} are over")
                    else:
                        self._perform(task, progress)
            except KeyboardInterrupt:
                progress.notice(f"stopped; the rows so far are in {self._file.path}")
                raise
            progress.notice(f"{time.monotonic() - started:.0f} s")

    def _perform(self, task: _Task, progress: Progress) -> None:
        progress.begin(task.name)
        missing = task.results
        try:
            for rows in task.measured(progress):
                self._file.append(rows)
                self.rows += rows
                progress.advance()
                missing -= 1
        except Exception as error:
            progress.notice(f"{task.name}: not measured: {op_timing.reason_of(error)}")
            self.failed.append(task.name)
            progress.advance(missing)

    def _introduce(self, progress: Progress) -> None:
        facts = self._file.facts
        progress.notice(
            f"{facts['device']}, {plural(facts['threads'], 'CPU thread')}, torch {facts['torch']}, "
            f"backends {', '.join(facts['backends'])}"
        )
        for name, reason in missing_backends(self._device).items():
            progress.notice(f"without {name}: {reason}")
        if self._device.type == "cpu" and facts["load_average_before"] > 0.5:
            progress.notice(
                f"load average {facts['load_average_before']:.1f}: other processes are or were at work. Threads that "
                "wait for a busy core distort ratios too, most of all those of many short calls"
            )

    def _tasks(self) -> list[_Task]:
        options, on_cuda = self._options, self._device.type == "cuda"
        chosen = cases(options.ops, dtypes=options.dtype, quick=options.quick, large=on_cuda)
        ops = [_Task(case.name, len(MODES), functools.partial(self._op, case)) for case in chosen]
        iterations = [_Task(case.name, 1, functools.partial(self._images, case)) for case in self._image_cases]
        if STEP in options.ops:
            iterations.insert(0, _Task("a training iteration", 1, self._points))
        # On CUDA the iterations come first, as the time may not suffice for all.
        return iterations + ops if on_cuda else ops + iterations

    def _op(self, case: Case, progress: Progress) -> Iterator[list[Row]]:
        effort, (probe, bandwidth) = self._effort(op_timing.EFFORTS), self._copies
        compiled = not self._options.no_compile
        for result in op_timing.run(
            case, effort, device=self._device, with_compile=compiled, probe=probe, log=progress.notice
        ):
            yield group_rows(result, self._file.facts, bandwidth)

    def _points(self, progress: Progress) -> Iterator[list[Row]]:
        yield self._iteration(points.run(self._effort(points.EFFORTS), device=self._device), progress)

    def _images(self, case: ImageCase, progress: Progress) -> Iterator[list[Row]]:
        effort, compiled = self._effort(images.EFFORTS), not self._options.no_compile
        yield self._iteration(images.run(case, effort, device=self._device, with_compile=compiled), progress)

    def _iteration(self, result: IterationResult, progress: Progress) -> list[Row]:
        for variant, reason in result.skipped.items():
            progress.notice(f"{result.case.name}: without {variant}: {reason}")
        return iteration_rows(result, self._file.facts)

    def _effort(self, efforts: Efforts) -> Effort:
        return efforts.choose(self._device, quick=self._options.quick, rounds=self._options.rounds)

    @functools.cached_property
    def _copies(self) -> tuple[CopyProbe, Spread]:
        """A probe of the memory's speed, and that speed."""
        probe = CopyProbe(probe_bytes(self._device), self._device)
        return probe, copy_bandwidth(probe, self._effort(op_timing.EFFORTS), device=self._device)


def _first_of_each(image_cases: Sequence[ImageCase]) -> list[ImageCase]:
    """The first case of each op."""
    return [
        next(case for case in image_cases if case.op == op) for op in OF_IMAGES if op in {c.op for c in image_cases}
    ]
