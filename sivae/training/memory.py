"""The C library's habit of handing freed memory back, and how a training process does without it."""

from __future__ import annotations

import ctypes

# Parameters of mallopt(3) in glibc's malloc.h.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
_LARGEST_HEAP_BLOCK = 32 << 20  # the most that glibc allows


def keep_freed_memory() -> bool:
    """Have this process keep the memory it frees on the CPU, for its next iteration, instead of giving it back.

    A training iteration frees and takes the same activations again; where glibc returns them to the system in between,
    each page is faulted in anew, which took a tenth of a small model's iteration. The price is that up to 1 GiB of
    freed memory stays with the process. A decision for a whole process, so only programs call it, never the library.

    Returns:
        Whether the C library has these settings; elsewhere nothing changes.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    settings = {_MMAP_THRESHOLD: _LARGEST_HEAP_BLOCK, _TRIM_THRESHOLD: 1 << 30, _TOP_PAD: 64 << 20}
    taken = [mallopt(name, value) == 1 for name, value in settings.items()]
    return all(taken)
