"""Measure the time that a run spends training."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import torch


class Clock:
    """Measures the time spent training. It waits for the device when it stops, and at no other time.

    Attributes:
        seconds: time so far, up to the last :meth:`lap` or :meth:`stop`.
    """

    def __init__(self, device: torch.device) -> None:
        self.seconds = 0.0
        self._device = device
        self._since: float | None = None

    def start(self) -> None:
        """Start or continue."""
        self._since = time.perf_counter()

    def lap(self) -> None:
        """Update `seconds`. The device must be idle."""
        assert self._since is not None
        now = time.perf_counter()
        self.seconds += now - self._since
        self._since = now

    def stop(self) -> None:
        """Wait for the device, and stop."""
        if self._since is not None:
            if self._device.type == "cuda":
                torch.cuda.synchronize(self._device)
            self.lap()
            self._since = None

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Stop inside, and continue afterwards."""
        self.stop()
        yield
        self.start()
