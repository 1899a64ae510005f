"""Timing by turns: contenders are called A B C A B C … in one process, and compared round by round.

A machine's clock, its neighbours and its memory drift in the course of a run. What shares a round shares that weather,
so the ratio within a round is steadier than any time by itself, and its spread over the rounds is what is reported.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

Call = Callable[[], object]

_FALLBACK_CACHE = 64 << 20  # where the system does not tell
_BUFFERS = 4  # that a bandwidth probe goes round


@dataclass(frozen=True)
class Spread:
    """Median and the 10 % and 90 % quantiles of some values."""

    median: float
    q10: float
    q90: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of at least one value; quantiles interpolate between neighbours."""
        ordered = sorted(values)

        def quantile(share: float) -> float:
            position = share * (len(ordered) - 1)
            below = math.floor(position)
            above = min(below + 1, len(ordered) - 1)
            return ordered[below] + (position - below) * (ordered[above] - ordered[below])

        return cls(statistics.median(ordered), quantile(0.1), quantile(0.9))

    def to_dict(self) -> dict[str, float]:
        return {"median": self.median, "q10": self.q10, "q90": self.q90}


@dataclass(frozen=True)
class Effort:
    """How much time goes into a measurement.

    Attributes:
        rounds: samples of each contender.
        sample_seconds: what a sample lasts at least; fast calls are repeated within it.
        warmup_calls, warmup_seconds: calls before the first sample: at least so many, and for at least so long.
    """

    rounds: int = 50
    sample_seconds: float = 5e-3
    warmup_calls: int = 3
    warmup_seconds: float = 0.2


QUICK = Effort(rounds=3, sample_seconds=1e-4, warmup_calls=1, warmup_seconds=0.0)


@dataclass(frozen=True)
class Measurement:
    """Seconds per call of each contender, one sample per round; the samples of a round belong together."""

    seconds: Mapping[str, Sequence[float]]
    calls_per_sample: Mapping[str, int]

    def spread(self, name: str) -> Spread:
        """Seconds per call."""
        return Spread.of(self.seconds[name])

    def ratio(self, numerator: str, denominator: str) -> Spread:
        """Time of one contender over that of another, taken in each round."""
        pairs = zip(self.seconds[numerator], self.seconds[denominator], strict=True)
        return Spread.of([above / below for above, below in pairs])


def measure(contenders: Mapping[str, Call], effort: Effort | None = None) -> Measurement:
    """Time synchronous calls against each other.

    Each contender is warmed up, then the number of calls in one of its samples is chosen so that a sample lasts
    `effort.sample_seconds`; then every round takes one sample of each, in order.

    Args:
        contenders: what to time, by name.
        effort: default: `Effort()`.
    """
    effort = effort or Effort()
    calls = {}
    for name, call in contenders.items():
        _warm_up(call, effort)
        calls[name] = _calibrate(call, effort.sample_seconds)
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(effort.rounds):
        for name, call in contenders.items():
            seconds[name].append(_sample(call, calls[name]))
    return Measurement(seconds, calls)


def _warm_up(call: Call, effort: Effort) -> None:
    end = time.perf_counter() + effort.warmup_seconds
    done = 0
    while done < effort.warmup_calls or time.perf_counter() < end:
        call()
        done += 1


def _calibrate(call: Call, sample_seconds: float) -> int:
    count = 1
    while True:
        taken = _sample(call, count) * count
        if taken >= sample_seconds:
            return count
        # A growth of at most 10 at a time: the first samples of a short call are mostly the clock's own error.
        count = max(count + 1, min(10 * count, math.ceil(1.1 * count * sample_seconds / max(taken, 1e-9))))


def _sample(call: Call, count: int) -> float:
    start = time.perf_counter()
    for _ in range(count):
        call()
    return (time.perf_counter() - start) / count


def last_level_cache_bytes() -> int:
    """Size of the largest cache of the first core; 64 MiB where the system does not tell."""
    sizes = []
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = path.read_text().strip()
        unit = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}.get(text[-1:], 1)
        digits = text.rstrip("KMG")
        if digits.isdigit():
            sizes.append(int(digits) * unit)
    return max(sizes, default=_FALLBACK_CACHE)


class CopyProbe:
    """Copies between float32 buffers of `buffer_bytes` each, going round several, so that every call finds them cold.

    Attributes:
        moved: bytes per call: those read and those written. (What a core reads to own a line before it writes it is
            not counted, neither here nor for the ops.)
    """

    def __init__(self, buffer_bytes: int) -> None:
        self._pairs = [(_buffer(buffer_bytes), _buffer(buffer_bytes)) for _ in range(_BUFFERS // 2)]
        self._turn = 0
        self.moved = 2 * self._pairs[0][0].nbytes

    def __call__(self) -> Tensor:
        self._turn = (self._turn + 1) % len(self._pairs)
        target, source = self._pairs[self._turn]
        return target.copy_(source)


class ReadProbe:
    """Sums float32 buffers of `buffer_bytes` each, going round several; attributes as `CopyProbe`."""

    def __init__(self, buffer_bytes: int) -> None:
        self._buffers = [_buffer(buffer_bytes) for _ in range(_BUFFERS)]
        self._turn = 0
        self.moved = self._buffers[0].nbytes

    def __call__(self) -> Tensor:
        self._turn = (self._turn + 1) % len(self._buffers)
        return self._buffers[self._turn].sum()


def _buffer(size: int) -> Tensor:
    return torch.rand(max(1, size // 4), dtype=torch.float32)


def probe_bytes() -> int:
    """A buffer size for the probes that no cache holds: twice the last level, 64 to 256 MiB."""
    return min(max(2 * last_level_cache_bytes(), 64 << 20), 256 << 20)


def copy_bandwidth(threads: int, *, effort: Effort | None = None, buffer_bytes: int | None = None) -> Spread:
    """Bytes per second that a large copy moves, read and written ones counted, on `threads` threads."""
    return _bandwidth(CopyProbe(probe_bytes() if buffer_bytes is None else buffer_bytes), threads, effort)


def read_bandwidth(threads: int, *, effort: Effort | None = None, buffer_bytes: int | None = None) -> Spread:
    """Bytes per second that a large sum reads, on `threads` threads."""
    return _bandwidth(ReadProbe(probe_bytes() if buffer_bytes is None else buffer_bytes), threads, effort)


def _bandwidth(probe: CopyProbe | ReadProbe, threads: int, effort: Effort | None) -> Spread:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        measurement = measure({"probe": probe}, effort)
    finally:
        torch.set_num_threads(before)
    return Spread.of([probe.moved / seconds for seconds in measurement.seconds["probe"]])
