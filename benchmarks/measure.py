"""Timing by turns: contenders are called A B C A B C … in one process, and compared round by round.

A machine's clock, its neighbours and its memory drift in the course of a run. What shares a round shares that weather,
so the ratio within a round is steadier than any time by itself, and its spread over the rounds is what is reported.
On the CPU a sample is timed by the clock, on CUDA by events around it.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

Call = Callable[[], object]

CPU = torch.device("cpu")

_FALLBACK_CACHE = 64 << 20  # where the system does not tell
_PROBE_PAIRS = 2  # of buffers that the bandwidth probe goes round


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of some values."""

    median: float
    q1: float
    q3: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of at least one value; quartiles interpolate between neighbours."""
        ordered = sorted(values)

        def quantile(share: float) -> float:
            position = share * (len(ordered) - 1)
            below = math.floor(position)
            above = min(below + 1, len(ordered) - 1)
            return ordered[below] + (position - below) * (ordered[above] - ordered[below])

        return cls(statistics.median(ordered), quantile(0.25), quantile(0.75))

    def times(self, factor: float) -> Spread:
        """Of the values times a factor above 0."""
        return Spread(factor * self.median, factor * self.q1, factor * self.q3)


@dataclass(frozen=True)
class Effort:
    """How much time goes into a measurement.

    Attributes:
        rounds: samples of each contender.
        sample_seconds: what a sample lasts at least; fast calls are repeated within it.
        warmup_calls, warmup_seconds: calls before the first sample: at least so many, and for at least so long.
        limit_seconds: no round begins after so long, so that slow calls cost a bounded time ...
        least_rounds: ... once there are so many samples.
    """

    rounds: int = 30
    sample_seconds: float = 4e-3
    warmup_calls: int = 3
    warmup_seconds: float = 0.05
    limit_seconds: float = 4.0
    least_rounds: int = 7


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


def measure(
    contenders: Mapping[str, Call],
    effort: Effort | None = None,
    *,
    device: torch.device = CPU,
    repeats: Mapping[str, int] | None = None,
) -> Measurement:
    """Time calls against each other.

    Each contender is warmed up, then the number of calls in one of its samples is chosen so that a sample lasts
    `effort.sample_seconds`; then every round takes one sample of each, in order.

    Args:
        contenders: what to time, by name. On the CPU synchronous; on CUDA on the current stream.
        effort: default: `Effort()`.
        device: where they run.
        repeats: for contenders whose call does the same several times over, how many times; the seconds are of one.
    """
    effort, repeats = effort or Effort(), repeats or {}
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
    """Wait for what was launched on the device; on the CPU nothing is left to wait for."""
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
        # A growth of at most 10 at a time: the first samples of a short call are mostly the clock's own error.
        count = max(count + 1, min(10 * count, math.ceil(1.1 * count * sample_seconds / max(taken, 1e-9))))


def _clock_sample(call: Call, count: int) -> float:
    start = time.perf_counter()
    for _ in range(count):
        call()
    return (time.perf_counter() - start) / count


def _event_sample(call: Call, count: int) -> float:
    """Between two events on the stream: the device's time, and the host's where the device has to wait for it."""
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    for _ in range(count):
        call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) * 1e-3 / count


def last_level_cache_bytes(device: torch.device = CPU) -> int:
    """Size of a GPU's L2 cache, or of the largest cache of the first core; 64 MiB where the system does not tell."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).L2_cache_size) or _FALLBACK_CACHE
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

    def __init__(self, buffer_bytes: int, device: torch.device = CPU) -> None:
        size = max(1, buffer_bytes // 4)
        self._pairs = [(torch.rand(size, device=device), torch.rand(size, device=device)) for _ in range(_PROBE_PAIRS)]
        self._turn = 0
        self.moved = 2 * self._pairs[0][0].nbytes

    def __call__(self) -> Tensor:
        self._turn = (self._turn + 1) % len(self._pairs)
        target, source = self._pairs[self._turn]
        return target.copy_(source)


def probe_bytes(device: torch.device = CPU) -> int:
    """A buffer size for the probe that no cache holds: twice the last level, 64 to 256 MiB; on a GPU 256 MiB."""
    if device.type == "cuda":
        return 256 << 20
    return min(max(2 * last_level_cache_bytes(), 64 << 20), 256 << 20)


def copy_bandwidth(probe: CopyProbe, *, device: torch.device = CPU, effort: Effort | None = None) -> Spread:
    """Bytes per second that a large copy moves, read and written ones counted."""
    measurement = measure({"probe": probe}, effort, device=device)
    return Spread.of([probe.moved / seconds for seconds in measurement.seconds["probe"]])


def peak_extra_bytes(call: Call, device: torch.device = CPU) -> int | None:
    """What one call holds at its height beyond what was there before: results, saved tensors, temporaries.

    On CUDA from the caching allocator's counters. On the CPU from the allocations that `torch.profiler` sees, those of
    torch's CPU allocator; what a kernel takes from the C library behind its back is not in it. None where the profiler
    reports no memory at all.
    """
    if device.type == "cuda":
        return _peak_of_cuda(call, device)
    return _peak_of_profile(call)


def _peak_of_cuda(call: Call, device: torch.device) -> int:
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    call()
    torch.cuda.synchronize(device)
    return int(torch.cuda.max_memory_allocated(device) - before)


def profiled(run: Call, device: torch.device = CPU, *, memory: bool = False) -> torch.profiler.profile:
    """What torch's profiler sees of a call, on the device too where that is a GPU; its allocations where `memory`."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # read at the first profile; it reports every start and stop
    activities = [torch.profiler.ProfilerActivity.CPU]
    activities += [torch.profiler.ProfilerActivity.CUDA] if device.type == "cuda" else []
    with torch.profiler.profile(activities=activities, profile_memory=memory) as profile:
        run()
        synchronize(device)
    return profile


def trace_of(profile: torch.profiler.profile) -> list[dict[str, Any]]:
    """The events of a profile, as its trace has them."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "trace.json")
        profile.export_chrome_trace(str(path))
        events: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8", errors="replace"))["traceEvents"]
    return events


def _peak_of_profile(call: Call) -> int | None:
    events = trace_of(profiled(call, memory=True))
    changes = [
        (event["ts"], event["args"]["Bytes"])
        for event in events
        if event.get("name") == "[memory]" and event["args"].get("Device Type") == 0
    ]
    if not changes:
        return None
    held = peak = 0
    for _, change in sorted(changes, key=lambda entry: entry[0]):  # stable: the order of record within a tick
        held += change
        peak = max(peak, held)
    return peak
