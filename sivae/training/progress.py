"""What a person sees on stderr while a run goes on: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

_LINE_SECONDS = 10.0
_SHOWN = {"rec": "rec", "kl_real": "kl real", "kl_fake": "kl fake", "exp_elbo_fake": "exp-ELBO"}


class Progress:
    """Shows where a run is.

    Args:
        title: the run's name.
        steps: iterations in all.
        step: iterations done.
        samples_after: images seen after so many iterations, where the rate is to be shown in images; None shows
            iterations.
        enabled: False shows nothing but notices.
    """

    def __init__(
        self,
        title: str,
        steps: int,
        step: int,
        *,
        samples_after: Callable[[int], int] | None = None,
        enabled: bool = True,
    ) -> None:
        self._title, self._steps, self._enabled = title, steps, enabled
        self._samples_after = samples_after
        self._started = self._last_line = time.monotonic()
        self._first_step = step
        self._lines = 0
        self._live: Any = None
        if enabled and sys.stderr.isatty():
            self._live = self._live_display(step)
            self._live.start()

    def _live_display(self, step: int) -> Any:
        from rich import progress
        from rich.console import Console, Group
        from rich.live import Live
        from rich.text import Text

        console = Console(stderr=True)
        self._bar = progress.Progress(
            progress.TextColumn("[bold]{task.description}"),
            progress.BarColumn(bar_width=None),
            progress.MofNCompleteColumn(),
            progress.TextColumn("{task.fields[rate]}"),
            progress.TimeRemainingColumn(),
            console=console,
            expand=True,
        )
        self._task = self._bar.add_task(self._title, total=self._steps, completed=step, rate="")
        self._losses = Text()
        # The losses have a line of their own: beside the bar they would not fit into 80 columns.
        return Live(Group(self._bar, self._losses), console=console)

    def update(self, step: int, record: Mapping[str, Any], milliseconds: float) -> None:
        """Show a record.

        Args:
            step: iterations done.
            record: what :meth:`Recorder.record` returned.
            milliseconds: time of one iteration, lately.
        """
        if not self._enabled:
            return
        losses = "  ".join(f"{name} {record[key]:.3g}" for key, name in _SHOWN.items() if record.get(key) is not None)
        unit, per_step = "it/s", 1
        if self._samples_after is not None:
            unit, per_step = "images/s", self._samples_after(step) - self._samples_after(step - 1)
        if "resolution" in record:
            losses = f"{record['resolution']} x {record['resolution']}  {losses}"
        rate = f"{1e3 * per_step / milliseconds:,.0f} {unit}" if milliseconds > 0 else ""
        if self._live is not None:
            self._bar.update(self._task, completed=step, rate=rate)
            self._losses.plain = losses
            return
        now = time.monotonic()
        if self._lines and step < self._steps and now - self._last_line < _LINE_SECONDS:
            return
        self._last_line, self._lines = now, self._lines + 1
        left = int((now - self._started) / max(1, step - self._first_step) * (self._steps - step))
        clock = (
            f"{left // 3600}:{left // 60 % 60:02d}:{left % 60:02d}" if left >= 3600 else f"{left // 60}:{left % 60:02d}"
        )
        eta = f"  ETA {clock}" if step < self._steps else ""
        self.notice(f"{self._title}  {step:,}/{self._steps:,}  {losses}  {rate}{eta}")

    def notice(self, text: str) -> None:
        """Print a line above the bar."""
        if self._live is not None:
            self._live.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Take the bar off the terminal's hands; it stays visible."""
        if self._live is not None:
            self._live.stop()
