"""A process that keeps its freed memory faults each page in once."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource
import torch
from sivae.training.memory import keep_freed_memory

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
