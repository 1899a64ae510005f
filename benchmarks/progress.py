"""Where a run of the suite is, on stderr: a bar on a terminal where rich is installed, else a line for each case."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any


class Progress:
    """Counts what is measured.

    Args:
        total: how many things there are to measure.
    """

    def __init__(self, total: int) -> None:
        self._total, self._done = total, 0
        self._started = time.monotonic()
        self._bar: Any = None
        if sys.stderr.isatty():
            try:
                from rich import progress
                from rich.console import Console
            except ImportError:
                return
            self._bar = progress.Progress(
                progress.BarColumn(),
                progress.MofNCompleteColumn(),
                progress.TimeElapsedColumn(),
                progress.TimeRemainingColumn(),
                progress.TextColumn("{task.description}", markup=False),
                console=Console(stderr=True),
            )
            self._task = self._bar.add_task("", total=total)

    def __enter__(self) -> Progress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def begin(self, name: str) -> None:
        """Say what is measured next."""
        if self._bar is not None:
            self._bar.update(self._task, description=name)
            return
        elapsed = time.monotonic() - self._started
        self.notice(f"{self._done:3d}/{self._total}  {int(elapsed // 60)}:{int(elapsed % 60):02d}  {name}")

    def advance(self) -> None:
        """One more is measured."""
        self._done += 1
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done)

    def notice(self, text: str) -> None:
        """Print a line, above the bar where there is one."""
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            print(text, file=sys.stderr, flush=True)
