"""Find how much main memory is free, and print amounts of memory."""

from __future__ import annotations

from pathlib import Path

_UNKNOWN = 4 << 30  # on a system without /proc/meminfo


def available_memory() -> int:
    """Free bytes of main memory, within the system's and the container's or job's limits."""
    free = _UNKNOWN
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                free = int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        try:
            free = min(free, max(0, int(Path(limit).read_text()) - int(Path(used).read_text())))
        except (OSError, ValueError):  # no such limit
            continue
    return free


def amount(count: float) -> str:
    """A number of bytes as text, such as 5.7 kB."""
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
