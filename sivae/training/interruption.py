"""Signals that ask a run to stop, and the clock that counts only the time spent training."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

import torch


class StopSignals:
    """Inside, SIGINT and SIGTERM only ask the work to stop; a second SIGINT interrupts it at once.

    Args:
        words: printed to stderr at the first signal, after its name; empty: nothing is printed.
    """

    def __init__(self, words: str = "") -> None:
        self._words = words
        self.signal: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if self.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        if self.signal is None:
            self.signal = signal.Signals(number)
            if self._words:
                # Not by print: the signal may have come while stderr's buffer was being written.
                os.write(2, f"\n{self.signal.name}: {self._words}\n".encode())


class Clock:
    """Time spent training. The device is waited for where the clock stops, never in between."""

    def __init__(self, device: torch.device) -> None:
        self.seconds = 0.0
        self._device = device
        self._since: float | None = None

    def start(self) -> None:
        self._since = time.perf_counter()

    def lap(self) -> None:
        """Bring `seconds` up to date. The device must be idle."""
        assert self._since is not None
        now = time.perf_counter()
        self.seconds += now - self._since
        self._since = now

    def stop(self) -> None:
        if self._since is not None:
            if self._device.type == "cuda":
                torch.cuda.synchronize(self._device)
            self.lap()
            self._since = None

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        self.stop()
        yield
        self.start()
