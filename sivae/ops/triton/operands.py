"""Check the operands of an op, so that no kernel reads outside them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sivae.ops.library import REDUCTIONS, sum_dtype

FLOATING = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def check_operand(name: str, tensor: Tensor | None, like: Tensor, shape: Sequence[int], *dtypes: torch.dtype) -> None:
    """Raise unless the tensor, where it is given, has that shape, one of those dtypes and the device of `like`."""
    if tensor is None:
        return
    if list(tensor.shape) != list(shape):
        raise ValueError(f"sivae: {name} has shape {list(tensor.shape)}, expected {list(shape)}")
    if tensor.dtype not in dtypes:
        raise TypeError(
            f"sivae: {name} has dtype {tensor.dtype}, expected {' or '.join(map(str, dict.fromkeys(dtypes)))}"
        )
    if tensor.device != like.device:
        raise ValueError(f"sivae: {name} is on {tensor.device}, expected {like.device}")


def check_seed(seed: Tensor, device: torch.device) -> None:
    if seed.dtype != torch.int64 or seed.numel() != 1:
        raise ValueError("sivae: a seed is one int64 element")
    if seed.device != device:
        raise ValueError(f"sivae: the seed is on {seed.device}, expected {device}")


def check_row_gradient(gradient: Tensor | None, like: Tensor, reduction: int) -> None:
    """Check the gradient of an op's sums over the rows of `like`."""
    shape = like.shape[:1] if REDUCTIONS[reduction] == "none" else ()
    check_operand("the gradient of a sum", gradient, like, shape, sum_dtype(like.dtype))
