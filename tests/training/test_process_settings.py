"""The settings of torch and of the C library: they have their effect, and those of torch end with their context."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest
import torch

from sivae import ops
from sivae.training.process_settings import denormals_flushed

PROGRAM = """
import resource
import torch
from sivae.training.process_settings import keep_freed_memory

assert keep_freed_memory()

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        blocks = [torch.zeros(1 << 18) for _ in range(8)]  # 1 MiB each, freed together
        del blocks
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
print(faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has these settings")
def test_freed_memory_is_not_faulted_in_again():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=120, check=True)
    # Handed back and taken again, the blocks would be 10 x 8 x 256 pages; kept, only the interpreter's own allocations
    # can fault, far fewer than one pass of the blocks.
    assert int(done.stdout) < 8 * 256


TINY = torch.finfo(torch.float32).tiny


def _halves_of_tiny(threads: int) -> torch.Tensor:
    """Denormals, computed by as many threads as torch's pool has."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return torch.full((1 << 20,), TINY) * 0.5
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("threads", [1, 2])
def test_denormals_are_zero_in_every_thread_and_come_back(threads: int) -> None:
    if threads > 1 and "native" not in ops.available_backends():
        pytest.skip(str(ops.backend_status()["native"]["cpu"]))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert (_halves_of_tiny(threads) > 0.0).all()
        with denormals_flushed():
            assert (_halves_of_tiny(threads) == 0.0).all()
            with denormals_flushed():
                pass
            assert (_halves_of_tiny(threads) == 0.0).all()
        assert (_halves_of_tiny(threads) > 0.0).all()
    finally:
        torch.set_num_threads(before)
