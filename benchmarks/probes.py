"""Probes of what a machine can do at most, timed beside the contenders: copying memory, multiplying matrices."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from benchmarks.timing import CPU, Effort, Spread, measure

_UNKNOWN_CACHE = 64 << 20  # where the system does not tell
_BUFFER_PAIRS = 2


class CopyProbe:
    """Copies between float32 buffers. Calls alternate between pairs of them, so that no call finds its data in a cache.

    Args:
        buffer_bytes: of each buffer.
        device: where they are.

    Attributes:
        moved: bytes read and written in a call. (What a core reads to own a line before it writes it does not count,
            neither here nor for the ops.)
    """

    def __init__(self, buffer_bytes: int, device: torch.device = CPU) -> None:
        size = max(1, buffer_bytes // 4)
        self._pairs = [(torch.rand(size, device=device), torch.rand(size, device=device)) for _ in range(_BUFFER_PAIRS)]
        self._turn = 0
        self.moved = 2 * self._pairs[0][0].nbytes

    def __call__(self) -> Tensor:
        self._turn = (self._turn + 1) % len(self._pairs)
        target, source = self._pairs[self._turn]
        return target.copy_(source)


class MatrixProbe:
    """The product of two square matrices, bfloat16 on a GPU and float32 on a CPU, so large that launching is cheap.

    Attributes:
        flops: of a call; a multiplication and an addition count as two.
    """

    side_on_gpu, side_on_cpu = 8192, 2048

    def __init__(self, device: torch.device = CPU) -> None:
        on_gpu = device.type == "cuda"
        side = self.side_on_gpu if on_gpu else self.side_on_cpu
        dtype = torch.bfloat16 if on_gpu else torch.float32
        self._a, self._b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
        self._out = torch.empty_like(self._a)
        self.flops = 2 * side**3

    def __call__(self) -> Tensor:
        return torch.mm(self._a, self._b, out=self._out)


def last_level_cache_bytes(device: torch.device = CPU) -> int:
    """Size of a GPU's L2 cache, or of the largest cache of a CPU's first core; 64 MiB if the system does not tell."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).L2_cache_size) or _UNKNOWN_CACHE
    sizes = []
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = path.read_text().strip()
        unit = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}.get(text[-1:], 1)
        digits = text.rstrip("KMG")
        if digits.isdigit():
            sizes.append(int(digits) * unit)
    return max(sizes, default=_UNKNOWN_CACHE)


def probe_bytes(device: torch.device = CPU) -> int:
    """A size of the copy probe's buffers that no cache holds: twice the last level, 64 to 256 MiB; 256 MiB on a GPU."""
    if device.type == "cuda":
        return 256 << 20
    return min(max(2 * last_level_cache_bytes(), 64 << 20), 256 << 20)


def copy_bandwidth(probe: CopyProbe, effort: Effort, *, device: torch.device = CPU) -> Spread:
    """Bytes per second that a large copy reads and writes."""
    measurement = measure({"probe": probe}, effort, device=device)
    return Spread.of([probe.moved / seconds for seconds in measurement.seconds["probe"]])
