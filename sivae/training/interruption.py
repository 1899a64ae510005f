"""Turn SIGINT and SIGTERM into a request to stop at the next good moment."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any


class StopSignals:
    """Records SIGINT and SIGTERM inside, instead of ending the process; a second SIGINT interrupts it at once.

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
