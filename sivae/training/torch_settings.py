"""What a training sets in torch itself, each as a context after which the caller's settings are back."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from sivae.models.norm import switches_seen_by_compiler
from sivae.ops.backends import flush_denormals

_MOST_GRAPHS = 1024  # of one network: nine stages, blending and not, with a dozen kinds of passes each


@contextlib.contextmanager
def float32_products(*, rounded: bool) -> Iterator[None]:
    """Products and convolutions of float32 on an NVIDIA GPU: rounded to TF32, or not at all.

    By itself torch has cuDNN round a convolution's and cuBLAS not a product's.
    """
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    before = products.allow_tf32, convolutions.allow_tf32
    products.allow_tf32, convolutions.allow_tf32 = rounded, rounded
    try:
        yield
    finally:
        products.allow_tf32, convolutions.allow_tf32 = before


@contextlib.contextmanager
def denormals_flushed() -> Iterator[None]:
    """The CPU treats denormal numbers as zero, in this thread and in torch's pool.

    Else a run whose exp-ELBO saturates becomes more than ten times slower.
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
    """cuDNN tries its algorithms at the first call of a shape, and keeps the fastest."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


@contextlib.contextmanager
def networks_may_be_compiled() -> Iterator[None]:
    """What torch.compile of a model's networks needs in a training step."""
    from torch._dynamo import config as dynamo
    from torch._functorch import config as functorch

    with contextlib.ExitStack() as stack:
        # The step goes through some graphs twice, which compiled ones allow only without donated buffers.
        stack.enter_context(functorch.patch(donated_buffer=False))
        # Every stage of a growing model makes graphs of its own. Past the limit networks would silently run as
        # they are, by default from the second stage on.
        stack.enter_context(dynamo.patch(recompile_limit=_MOST_GRAPHS, accumulated_recompile_limit=_MOST_GRAPHS))
        stack.enter_context(switches_seen_by_compiler())
        yield
