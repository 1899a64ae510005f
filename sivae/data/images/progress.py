"""How far a long pass over images is, on stderr: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from types import TracebackType
from typing import Any

_LINE_SECONDS = 10.0
_PATIENCE_SECONDS = 1.0  # what takes less needs no bar


class Counter:
    """Counts images; may be told of them by several threads.

    Args:
        title: what is going on.
        total: images in all.
        done: images that were done before.
        enabled: False shows nothing.
    """

    def __init__(self, title: str, total: int, *, done: int = 0, enabled: bool = True) -> None:
        self._title, self._total, self._enabled = title, total, enabled
        self._done = self._first = done
        self._lock = threading.Lock()
        self._started = self._last_line = time.monotonic()
        self._bar: Any = None

    def __enter__(self) -> Counter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done)
            self._bar.stop()

    def advance(self, count: int = 1) -> None:
        """So many more are done."""
        if not self._enabled:
            return
        with self._lock:
            self._done += count
            now = time.monotonic()
            if self._bar is not None:
                self._bar.update(self._task, completed=self._done)
            elif now - self._started > _PATIENCE_SECONDS and sys.stderr.isatty():
                self._show_bar()
            elif now - self._last_line > _LINE_SECONDS:
                self._last_line = now
                self._print_line(now)

    def _show_bar(self) -> None:
        from rich import progress
        from rich.console import Console

        self._bar = progress.Progress(
            progress.TextColumn("[bold]{task.description}"),
            progress.BarColumn(bar_width=None),
            progress.MofNCompleteColumn(),
            progress.TimeRemainingColumn(),
            console=Console(stderr=True),
            expand=True,
        )
        self._task = self._bar.add_task(self._title, total=self._total, completed=self._done)
        self._bar.start()

    def _print_line(self, now: float) -> None:
        rate = (self._done - self._first) / (now - self._started)
        left = (self._total - self._done) / max(rate, 1e-9)
        eta = f"  ETA {int(left // 60)}:{int(left % 60):02d}"
        print(f"{self._title}  {self._done:,}/{self._total:,}  {rate:,.0f} images/s{eta}", file=sys.stderr, flush=True)
