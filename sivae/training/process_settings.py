"""Set torch and the C library for a training.

The settings of torch are contexts: the caller's settings are back when they end.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator

import torch

from sivae import ops
from sivae.models.norm import switches_seen_by_compiler
from sivae.models.precision import float32_products
from sivae.ops.backends import flush_denormals
from sivae.settings.run import RunConfig

_MOST_GRAPHS = 1024  # of one network: nine stages, with and without blending, and a dozen kinds of passes
# Parameters of mallopt(3) in glibc's malloc.h.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
_LARGEST_HEAP_BLOCK = 32 << 20  # the most that glibc allows


@contextlib.contextmanager
def process_settings(config: RunConfig) -> Iterator[None]:
    """Apply a run's threads, ops backend and precision inside, and restore the caller's afterwards."""
    threads = torch.get_num_threads()
    assert config.ops is not None
    with contextlib.ExitStack() as stack:
        stack.enter_context(ops.use_backend(config.ops))
        stack.enter_context(float32_products(rounded=config.precision != "fp32"))
        stack.enter_context(convolutions_are_tried())
        if config.compile:
            stack.enter_context(networks_may_be_compiled())
        torch.set_num_threads(config.threads or threads)
        stack.enter_context(denormals_flushed())  # in as many threads as the run has
        try:
            yield
        finally:
            torch.set_num_threads(threads)


@contextlib.contextmanager
def denormals_flushed() -> Iterator[None]:
    """Make the CPU treat denormal numbers as zero, in this thread and in torch's pool.

    Without this, a run whose exp-ELBO saturates becomes more than ten times slower.
    """
    tiny = torch.full((), torch.finfo(torch.float32).tiny)
    before = bool(tiny * 0.5 == 0.0)
    flush_denormals(True)
    try:
        yield
    finally:
        flush_denormals(before)


@contextlib.contextmanager
def convolutions_are_tried() -> Iterator[None]:
    """Let cuDNN try its algorithms at the first call of a shape, and keep the fastest."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


@contextlib.contextmanager
def networks_may_be_compiled() -> Iterator[None]:
    """Set torch.compile up for the networks of a model in a training step."""
    from torch._dynamo import config as dynamo
    from torch._functorch import config as functorch

    with contextlib.ExitStack() as stack:
        # The step runs backward through some graphs twice. Compiled graphs allow this only without donated buffers.
        stack.enter_context(functorch.patch(donated_buffer=False))
        # Every stage of a growing model makes its own graphs. Past the limit networks would silently run uncompiled,
        # by default from the second stage on.
        stack.enter_context(dynamo.patch(recompile_limit=_MOST_GRAPHS, accumulated_recompile_limit=_MOST_GRAPHS))
        stack.enter_context(switches_seen_by_compiler())
        yield


def keep_freed_memory() -> bool:
    """Make this process keep the CPU memory that it frees, for its next iteration.

    A training iteration frees its activations and allocates the same sizes again. By default glibc returns them to the
    system in between and each page is faulted in again, which took a tenth of a small model's iteration. In exchange
    the process keeps up to 1 GiB of freed memory. This changes the whole process, so only programs call it, never the
    library.

    Returns:
        Whether the C library has these settings; without them nothing changes.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    settings = {_MMAP_THRESHOLD: _LARGEST_HEAP_BLOCK, _TRIM_THRESHOLD: 1 << 30, _TOP_PAD: 64 << 20}
    taken = [mallopt(name, value) == 1 for name, value in settings.items()]
    return all(taken)
