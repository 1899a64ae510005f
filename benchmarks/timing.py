"""Time calls against each other by turns, A B C A B C …, in one process, and compare them round by round.

A machine's speed drifts during a run, with its clock, its temperature and its other processes. Contenders in the same
round share these conditions, so a ratio within a round is steadier than a time, and its spread over the rounds is
reported. A sample is timed by the clock on the CPU, and by events on CUDA.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

Call = Callable[[], object]

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of some values."""

    median: float
    q1: float
    q3: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """The spread of at least one value; quartiles interpolate between neighbours."""
        ordered = sorted(values)

        def quantile(share: float) -> float:
            position = share * (len(ordered) - 1)
            below = math.floor(position)
            above = min(below + 1, len(ordered) - 1)
            return ordered[below] + (position - below) * (ordered[above] - ordered[below])

        return cls(statistics.median(ordered), quantile(0.25), quantile(0.75))

    def times(self, factor: float) -> Spread:
        """The spread of the values times a factor above 0."""
        return Spread(factor * self.median, factor * self.q1, factor * self.q3)


@dataclass(frozen=True)
class Effort:
    """How long to measure.

    Attributes:
        rounds: samples of each contender.
        sample_seconds: shortest sample; fast calls are repeated within it.
        warmup_calls, warmup_seconds: before the first sample, at least so many calls and for at least so long.
        limit_seconds: start no further round after this time ...
        least_rounds: ... but make at least this many.
    """

    rounds: int = 30
    sample_seconds: float = 4e-3
    warmup_calls: int = 3
    warmup_seconds: float = 0.05
    limit_seconds: float = 4.0
    least_rounds: int = 7


@dataclass(frozen=True)
class Efforts:
    """The efforts on a CPU, on a GPU, and in a quick run on either."""

    cpu: Effort
    cuda: Effort
    quick: Effort

    def choose(self, device: torch.device, *, quick: bool = False, rounds: int | None = None) -> Effort:
        """The effort on a device; rounds: how many to make instead of its own."""
        effort = self.quick if quick else self.cuda if device.type == "cuda" else self.cpu
        return replace(effort, rounds=rounds) if rounds else effort


@dataclass(frozen=True)
class Measurement:
    """Seconds per call of each contender, one sample per round, in the order of the rounds."""

    seconds: Mapping[str, Sequence[float]]
    calls_per_sample: Mapping[str, int]

    def spread(self, name: str) -> Spread:
        """Seconds per call."""
        return Spread.of(self.seconds[name])

    def ratio(self, numerator: str, denominator: str) -> Spread:
        """The time of one contender divided by that of another, in each round."""
        pairs = zip(self.seconds[numerator], self.seconds[denominator], strict=True)
        return Spread.of([above / below for above, below in pairs])


def measure(
    contenders: Mapping[str, Call],
    effort: Effort,
    *,
    device: torch.device = CPU,
    repeats: Mapping[str, int] | None = None,
) -> Measurement:
    """Time calls against each other.

    Each contender is warmed up, and repeated in a sample until the sample lasts `effort.sample_seconds`. Then every
    round takes one sample of each, in order.

    Args:
        contenders: calls by name. On the CPU they are synchronous; on CUDA they use the current stream.
        effort: how long to measure.
        device: where the calls run.
        repeats: by name, for contenders whose call does the same work several times; their seconds are of one time.
    """
    repeats = repeats or {}
    sample = _event_sample if device.type == "cuda" else _clock_sample
    calls = {}
    for name, call in contenders.items():
        _warm_up(call, effort, device)
        calls[name] = _calibrate(call, effort.sample_seconds, sample)
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    end = time.perf_counter() + effort.limit_seconds
    for done in range(effort.rounds):
        if done >= effort.least_rounds and time.perf_counter() > end:
            break
        for name, call in contenders.items():
            seconds[name].append(sample(call, calls[name]) / repeats.get(name, 1))
    return Measurement(seconds, {name: count * repeats.get(name, 1) for name, count in calls.items()})


def synchronize(device: torch.device) -> None:
    """Wait until a GPU has done what was launched on it; on the CPU, do nothing."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _warm_up(call: Call, effort: Effort, device: torch.device) -> None:
    end = time.perf_counter() + effort.warmup_seconds
    done = 0
    while done < effort.warmup_calls or time.perf_counter() < end:
        call()
        done += 1
        synchronize(device)


def _calibrate(call: Call, sample_seconds: float, sample: Callable[[Call, int], float]) -> int:
    count = 1
    while True:
        taken = sample(call, count) * count
        if taken >= sample_seconds:
            return count
        # Grow at most tenfold at a time: the first samples of a short call are mostly the clock's error.
        count = max(count + 1, min(10 * count, math.ceil(1.1 * count * sample_seconds / max(taken, 1e-9))))


def _clock_sample(call: Call, count: int) -> float:
    start = time.perf_counter()
    for _ in range(count):
        call()
    return (time.perf_counter() - start) / count


def _event_sample(call: Call, count: int) -> float:
    """Seconds between two events on the stream, in which the device works or waits for the host."""
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    for _ in range(count):
        call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) * 1e-3 / count
