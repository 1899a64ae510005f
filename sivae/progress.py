"""Show on stderr how far a long task is: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from types import TracebackType
from typing import Any

LINE_SECONDS = 10.0  # between two lines where there is no terminal
PATIENCE_SECONDS = 1.0  # a task that takes less needs no bar


class Progress:
    """Shows what part of a task is done, how fast it goes, and when it will end. Several threads may report.

    Args:
        title: of the task.
        total: how many things there are to do.
        done: how many were done before, by an earlier process.
        unit: what is counted, for the rate ("images/s"); empty: no rate is computed.
        percent: count in percent instead of as "3/10", where `total` is no number of things.
        patience: seconds before anything is shown.
        line_seconds: between two lines where there is no terminal.
        enabled: False shows only notices.
    """

    def __init__(
        self,
        title: str,
        total: float,
        *,
        done: float = 0,
        unit: str = "",
        percent: bool = False,
        patience: float = 0.0,
        line_seconds: float = LINE_SECONDS,
        enabled: bool = True,
    ) -> None:
        self._title, self._total, self._enabled = title, total, enabled
        self._done = self._first = done
        self._unit, self._percent = unit, percent
        self._patience, self._line_seconds = patience, line_seconds
        self._started = time.monotonic()
        self._last_line: float | None = self._started if patience else None
        self._lock = threading.Lock()
        self._live: Any = None
        self._rich = enabled and sys.stderr.isatty()

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def advance(self, count: float = 1) -> None:
        """So many more things are done."""
        with self._lock:
            self._done += count
            self._show("", "")

    def update(self, done: float, *, status: str = "", detail: str = "") -> None:
        """Show a state of the task.

        Args:
            done: how many things are done.
            status: stands beside the bar; empty: the rate, where `unit` is given.
            detail: stands in a line of its own below the bar.
        """
        with self._lock:
            self._done = done
            self._show(status, detail)

    def begin(self, detail: str) -> None:
        """Say what is done next."""
        with self._lock:
            self._last_line = None
            self._show("", detail)

    def notice(self, text: str) -> None:
        """Print a line, above the bar where there is one."""
        if self._live is not None:
            self._live.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Leave the bar as it is; it stays visible."""
        if self._live is not None:
            self._bar.update(self._task, completed=self._done)
            self._live.stop()
            self._live = None

    def _show(self, status: str, detail: str) -> None:
        now = time.monotonic()
        if not self._enabled or now - self._started < self._patience:
            return
        status = status or self._rate(now)
        if self._rich and self._live is None:
            self._open()
        if self._live is not None:
            self._bar.update(self._task, completed=self._done, status=status)
            self._detail.plain = detail
            return
        ends = self._done >= self._total and not self._patience
        if self._last_line is None or ends or now - self._last_line >= self._line_seconds:
            self._last_line = now
            parts = (self._title, self._count(), detail, status, self._remaining(now))
            self.notice("  ".join(part for part in parts if part))

    def _open(self) -> None:
        try:
            from rich import progress
            from rich.console import Console, Group
            from rich.live import Live
            from rich.text import Text
        except ImportError:  # the ops and the benchmarks need torch alone
            self._rich = False
            return
        console = Console(stderr=True)
        self._bar = progress.Progress(
            progress.TextColumn("[bold]{task.description}"),
            progress.BarColumn(bar_width=None),
            progress.TaskProgressColumn() if self._percent else progress.MofNCompleteColumn(),
            progress.TextColumn("{task.fields[status]}", markup=False),
            progress.TimeRemainingColumn(),
            console=console,
            expand=True,
        )
        self._task = self._bar.add_task(self._title, total=self._total, status="")
        self._detail = Text()
        self._live = Live(Group(self._bar, self._detail), console=console)
        self._live.start()

    def _rate(self, now: float) -> str:
        seconds = now - self._started
        return f"{(self._done - self._first) / seconds:,.0f} {self._unit}" if self._unit and seconds > 0 else ""

    def _count(self) -> str:
        return f"{self._done / self._total:.0%}" if self._percent else f"{self._done:,}/{self._total:,}"

    def _remaining(self, now: float) -> str:
        if self._done >= self._total or self._done <= self._first:
            return ""
        return f"ETA {clock((now - self._started) / (self._done - self._first) * (self._total - self._done))}"


def counting(title: str, total: int, *, done: int = 0, enabled: bool = True) -> Progress:
    """A display that counts images, once the task has taken a second."""
    return Progress(title, total, done=done, unit="images/s", patience=PATIENCE_SECONDS, enabled=enabled)


def measuring(title: str, total: int, *, enabled: bool = True) -> Progress:
    """A display that counts things that each take seconds."""
    return Progress(title, total, patience=PATIENCE_SECONDS, enabled=enabled)


def naming(title: str, total: int) -> Progress:
    """A display that prints a line for each thing as it begins, and none between."""
    return Progress(title, total, line_seconds=float("inf"))


def clock(seconds: float) -> str:
    """A duration as h:mm:ss, or m:ss below an hour."""
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"
