"""Check the arguments of the public ops. A message names the op, the argument, what came and what was expected."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sivae.ops.library import ACTIVATIONS, KINDS, REDUCTIONS

FLOATING = frozenset((torch.float32, torch.bfloat16, torch.float16, torch.float64))
_REDUCTION_INDEX = {name: index for index, name in enumerate(REDUCTIONS)}
_KIND_INDEX = {name: index for index, name in enumerate(KINDS)}
_ACTIVATION_INDEX = {name: index for index, name in enumerate(ACTIVATIONS)}


def check_pair(op: str, first_name: str, first: Tensor, second_name: str, second: Tensor) -> tuple[Tensor, Tensor]:
    """Check two floating tensors [B, ...] of one shape and device; return them in their common dtype."""
    check_floating(op, first_name, first)
    check_like(op, second_name, second, first_name, first)
    return (first, second) if first.dtype == second.dtype else in_common_dtype(first, second)


def in_common_dtype(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Widen the tensors to the dtype that torch promotes theirs to, which holds all their values exactly.

    The cast's backward pass rounds each gradient to the dtype of the tensor that was given.
    """
    dtype = torch.promote_types(first.dtype, second.dtype)
    return first.to(dtype), second.to(dtype)


def check_dense(op: str, name: str, tensor: Tensor) -> None:
    if tensor.is_nested:
        raise TypeError(
            f"{op}: {name} is a nested tensor, expected a dense one; call the op on each tensor of {name}.unbind()"
        )
    if tensor.layout is not torch.strided:
        raise TypeError(f"{op}: {name} has layout {tensor.layout}, expected torch.strided; call {name}.to_dense()")


def check_dtype(op: str, name: str, tensor: Tensor) -> None:
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{op}: {name} is {type(tensor).__name__}, expected a torch.Tensor")
    check_dense(op, name, tensor)
    if tensor.dtype not in FLOATING:
        raise TypeError(f"{op}: {name} has dtype {tensor.dtype}, expected float64, float32, bfloat16 or float16")


def check_floating(op: str, name: str, tensor: Tensor) -> None:
    check_dtype(op, name, tensor)
    if tensor.dim() == 0:
        raise ValueError(f"{op}: {name} has no dimensions, expected the batch first: [B, ...]")


def check_like(op: str, name: str, tensor: Tensor, like_name: str, like: Tensor) -> None:
    check_dtype(op, name, tensor)
    if tensor.device != like.device:
        raise ValueError(f"{op}: {name} is on {tensor.device}, expected {like.device} as {like_name}")
    if tensor.shape != like.shape:
        raise ValueError(f"{op}: {name} has shape {list(tensor.shape)}, expected {list(like.shape)} as {like_name}")


def check_per_sample(op: str, name: str, tensor: Tensor) -> None:
    if tensor.dim() != 1:
        raise ValueError(f"{op}: {name} has shape {list(tensor.shape)}, expected [B], one value per sample")


def check_scalar(op: str, name: str, value: float, *, positive: bool = False) -> float:
    if type(value) is not float:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise TypeError(f"{op}: {name} is {type(value).__name__}, expected a number")
        try:
            value = float(value)
        except OverflowError:
            value = math.inf
    # A comparison, not math.isfinite: torch.compile traces it for a value that changes between calls.
    if not (-math.inf < value < math.inf) or (positive and value <= 0.0):
        raise ValueError(f"{op}: {name} is {value}, expected a finite number{' above 0' if positive else ''}")
    return value


def check_at_least(op: str, name: str, value: float, limit: float, dtype: torch.dtype) -> None:
    """Refuse a number below the least one with which the arithmetic, in `dtype`, has only finite factors."""
    if value < limit:
        raise ValueError(f"{op}: {name} is {value}, expected at least {limit} in {dtype} arithmetic")


def reduction_index(op: str, reduction: str) -> int:
    index = _REDUCTION_INDEX.get(reduction) if isinstance(reduction, str) else None
    if index is None:
        raise ValueError(f"{op}: reduction is {reduction!r}, expected 'none', 'mean' or 'sum'")
    return index


def kind_index(op: str, kind: str) -> int:
    index = _KIND_INDEX.get(kind) if isinstance(kind, str) else None
    if index is None:
        raise ValueError(f"{op}: kind is {kind!r}, expected one of {', '.join(map(repr, KINDS))}")
    return index


def activation_index(op: str, activation: str) -> int:
    index = _ACTIVATION_INDEX.get(activation) if isinstance(activation, str) else None
    if index is None:
        raise ValueError(f"{op}: activation is {activation!r}, expected one of {', '.join(map(repr, ACTIVATIONS))}")
    return index
