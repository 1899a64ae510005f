"""One place that starts kernels: on the device of the tensors, and on torch's current stream (Triton's own doing)."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor

from sivae.ops.triton.scalar_math import INTERPRETED


def launch(kernel: Any, programs: int, first: Tensor, *args: Any, **constants: Any) -> None:
    """Run `kernel(first, *args, **constants)` in `programs` programs on the device of `first`."""
    with _on_device_of(first):
        # Contraction named, since Triton's default for it changes with its version; scalar_math.py allows for it.
        kernel[(programs,)](first, *args, **constants, enable_fp_fusion=True)


def _on_device_of(tensor: Tensor) -> contextlib.AbstractContextManager[object]:
    if tensor.is_cuda:
        return torch.cuda.device_of(tensor)
    if INTERPRETED:
        import numpy  # what the interpreter computes with: infinities and NaNs are results here, not accidents

        return numpy.errstate(all="ignore")
    return contextlib.nullcontext()
