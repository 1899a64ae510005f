"""Start kernels on the device of the tensors. Triton itself takes torch's current stream."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor

from sivae.ops.triton.scalar_math import INTERPRETED


def launch(kernel: Any, programs: int, first: Tensor, *args: Any, **constants: Any) -> None:
    """Run `kernel(first, *args, **constants)` in `programs` programs on the device of `first`."""
    with _on_device_of(first):
        # Explicit, because Triton's default changes with its version; scalar_math.py allows contraction.
        kernel[(programs,)](first, *args, **constants, enable_fp_fusion=True)


def _on_device_of(tensor: Tensor) -> contextlib.AbstractContextManager[object]:
    if tensor.is_cuda:
        return torch.cuda.device_of(tensor)
    if INTERPRETED:
        import numpy  # used by the interpreter; infinities and NaNs are valid results here

        return numpy.errstate(all="ignore")
    return contextlib.nullcontext()
