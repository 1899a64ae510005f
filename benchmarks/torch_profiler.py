"""Watch a call with torch's profiler: its events, and the memory that it takes."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks.timing import CPU, Call, synchronize


def profiled(call: Call, device: torch.device = CPU, *, memory: bool = False) -> torch.profiler.profile:
    """Profile a call on the CPU and, if it is one, the GPU.

    Args:
        call: what to watch.
        device: where it runs.
        memory: record allocations.
    """
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else it reports every start and stop; read at the first profile
    activities = [torch.profiler.ProfilerActivity.CPU]
    activities += [torch.profiler.ProfilerActivity.CUDA] if device.type == "cuda" else []
    with torch.profiler.profile(activities=activities, profile_memory=memory) as profile:
        call()
        synchronize(device)
    return profile


def trace_of(profile: torch.profiler.profile) -> list[dict[str, Any]]:
    """The events of a profile in Chrome's trace format."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "trace.json")
        profile.export_chrome_trace(str(path))
        events: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8", errors="replace"))["traceEvents"]
    return events


def peak_extra_bytes(call: Call, device: torch.device = CPU) -> int | None:
    """The most bytes that a call holds at one time beyond those held before: results, saved tensors, temporaries.

    On CUDA, from the counters of the caching allocator. On the CPU, from the allocations of torch's allocator, so
    memory that a kernel takes from the C library does not count. None: the profiler saw no allocation.
    """
    return _peak_on_cuda(call, device) if device.type == "cuda" else _peak_on_cpu(call)


def _peak_on_cuda(call: Call, device: torch.device) -> int:
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    call()
    torch.cuda.synchronize(device)
    return int(torch.cuda.max_memory_allocated(device) - before)


def _peak_on_cpu(call: Call) -> int | None:
    changes = [
        (event["ts"], event["args"]["Bytes"])
        for event in trace_of(profiled(call, memory=True))
        if event.get("name") == "[memory]" and event["args"].get("Device Type") == 0
    ]
    if not changes:
        return None
    held = peak = 0
    for _, change in sorted(changes, key=lambda entry: entry[0]):  # stable: within a tick in the recorded order
        held += change
        peak = max(peak, held)
    return peak
