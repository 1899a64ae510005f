"""Find how much main memory is free, and print amounts of memory."""

from __future__ import annotations

from pathlib import Path

_UNKNOWN = 4 << 30  # on a system without /proc/meminfo

# Of version 2 and 1: the limit, what is used, and where it says how much of that holds files that were read.
_CGROUP = Path("/sys/fs/cgroup")
_CONTROLS = (
    ("memory.max", "memory.current", "memory.stat", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_inactive_file"),
)


def available_memory() -> int:
    """Free bytes of main memory, within the system's and the container's or job's limits."""
    free = _UNKNOWN
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                free = int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    for limit, used, facts, cached in _CONTROLS:
        try:
            left = int((_CGROUP / limit).read_text()) - int((_CGROUP / used).read_text())
            left += _field(_CGROUP / facts, cached)  # the system gives that back where memory is wanted
        except (OSError, ValueError):  # no such limit
            continue
        free = min(free, max(0, left))
    return free


def _field(facts: Path, name: str) -> int:
    """A number in a file whose lines are a name and a number each; 0 where it is missing."""
    try:
        lines = dict(line.split(maxsplit=1) for line in facts.read_text().splitlines())
        return int(lines.get(name, 0))
    except (OSError, ValueError):
        return 0


def amount(count: float) -> str:
    """A number of bytes as text, such as 5.7 kB."""
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
