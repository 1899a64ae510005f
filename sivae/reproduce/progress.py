"""How far an experiment's trainings are, on stderr: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any

_LINE_SECONDS = 20.0


class Display:
    """Shows finished trainings and the share of all iterations that is done.

    Args:
        title: of the experiment.
        enabled: False shows nothing but notices.
    """

    def __init__(self, title: str, *, enabled: bool = True) -> None:
        self._title, self._enabled = title, enabled
        self._bar: Any = None
        self._shares: dict[str, float] = {}
        self._steps: dict[str, int | None] = {}
        self._last_line = 0.0

    def begin(self, steps: Mapping[str, int | None], finished: set[str]) -> None:
        """Take note of the trainings, with their iterations where those are known, and of which are over."""
        self._steps = dict(steps)
        self._shares = {name: float(name in finished) for name in steps}
        self._first, self._started, self._looked = self._share(), time.monotonic(), False
        left = len(steps) - len(finished)
        if not left or not self._enabled:
            return
        self.notice(f"{self._title}: {left} of {len(steps)} trainings to do")
        if sys.stderr.isatty():
            from rich import progress
            from rich.console import Console

            self._bar = progress.Progress(
                progress.TextColumn("[bold]{task.description}"),
                progress.BarColumn(bar_width=None),
                progress.TaskProgressColumn(),
                progress.TextColumn("{task.fields[trainings]}"),
                progress.TimeRemainingColumn(elapsed_when_finished=True),
                console=Console(stderr=True),
                expand=True,
            )
            self._task = self._bar.add_task(self._title, total=1.0, completed=self._first, trainings=self._count())
            self._bar.start()

    def update(self, steps: Mapping[str, int]) -> None:
        """Show how many iterations the trainings under way have done."""
        for name, done in steps.items():
            total = self._steps[name]
            if total:
                self._shares[name] = min(done / total, 0.99)  # metrics and pictures come last
        if not self._looked:  # what earlier calls have done says nothing of the speed
            self._first, self._looked = self._share(), True
        self._show()

    def finished(self, name: str) -> None:
        """A training is over."""
        self._shares[name] = 1.0
        self._show()

    def notice(self, text: str) -> None:
        """Print a line, above the bar where there is one."""
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Take the bar off the terminal's hands; it stays visible."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _show(self) -> None:
        if not self._enabled:
            return
        now = time.monotonic()
        if self._bar is not None:
            self._bar.update(self._task, completed=self._share(), trainings=self._count())
            return
        if now - self._last_line < _LINE_SECONDS:
            return
        self._last_line = now
        done = self._share()
        eta = ""
        if done > self._first and now - self._started > _LINE_SECONDS / 2:
            left = int((now - self._started) / (done - self._first) * (1.0 - done))
            eta = f"  ETA {left // 3600}:{left // 60 % 60:02d}:{left % 60:02d}"
        self.notice(f"{self._title}  {100 * done:.0f} %  {self._count()}{eta}")

    def _share(self) -> float:
        return sum(self._shares.values()) / max(1, len(self._shares))

    def _count(self) -> str:
        return f"{sum(share == 1.0 for share in self._shares.values())}/{len(self._shares)} trainings"
