"""Compute a fully connected network with ReLU in bfloat16 in one op of the native backend, on the CPU.

It is not a public op: :class:`sivae.models.mlp.ReluNetwork` calls it where it computes what torch's own operators
would, and calls these elsewhere. The low-level op is defined here and not in `library.py`, because no other backend has
it.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd import forward_ad

from sivae.ops import backends

_NAME = "relu_network"
_SCHEMAS = (
    f"{_NAME}(Tensor x, Tensor[] weights, Tensor[] biases) -> (Tensor, Tensor)",
    f"{_NAME}_backward(Tensor grad_y, Tensor x, Tensor hidden, Tensor[] weights, bool need_x, bool need_parameters)"
    " -> (Tensor, Tensor)",
)
# As in csrc/cpu/relu_network.h.
_MOST_ENDS, _WIDTHS = 32, 32
_WIDEST = 1024  # wider layers were not measured


def serves(x: Tensor) -> bool:
    """Whether the op can compute a network of x [B, in]: in bfloat16 autocast, on a CPU that multiplies it."""
    if not isinstance(x, Tensor) or x.device.type != "cpu" or not _has_kernels or x.dim() != 2 or x.shape[0] == 0:
        return False
    if not torch.is_autocast_enabled("cpu") or torch.get_autocast_dtype("cpu") != torch.bfloat16:
        return False
    # Compilers, the transforms of torch.func and forward-mode derivatives see the layers instead.
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0:
        return False
    return x.dtype in (torch.float32, torch.bfloat16) and backends.runs_native(x.device)


def serves_widths(widths: Sequence[int]) -> bool:
    """Whether the op takes a network with these numbers of values: of its input, its hidden layers and its output."""
    first, *hidden, last = widths
    ends = 0 < first <= _MOST_ENDS and 0 < last <= _MOST_ENDS
    return ends and bool(hidden) and all(0 < width <= _WIDEST and width % _WIDTHS == 0 for width in hidden)


def relu_network(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> Tensor:
    """Compute linear layers with ReLU between them. Products of hidden layers have bfloat16 factors and float32 sums.

    For the backward pass it keeps x and the hidden values.

    Args:
        x: [B, in], float32 or bfloat16. See :func:`serves`.
        weights: of each layer, [out, in], float32. See :func:`serves_widths`.
        biases: of each layer, [out], float32.

    Returns:
        [B, out], float32: x and the result are not rounded to bfloat16, the hidden values are.
    """
    op = torch.ops.sivae_native.relu_network.default
    result: Tensor = op(x.float(), list(weights), list(biases))[0]
    return result


def _fake(x: Tensor, weights: list[Tensor], biases: list[Tensor]) -> tuple[Tensor, Tensor]:
    hidden = sum(weight.shape[0] for weight in weights[:-1])
    return x.new_empty((x.shape[0], weights[-1].shape[0])), x.new_empty((x.shape[0] * hidden,), dtype=torch.bfloat16)


def _fake_backward(
    grad_y: Tensor, x: Tensor, hidden: Tensor, weights: list[Tensor], need_x: bool, need_parameters: bool
) -> tuple[Tensor, Tensor]:
    of_x = x.new_empty((x.shape[0] if need_x else 0, x.shape[1]))
    return of_x, x.new_empty((need_parameters * sum(len(weight) * (weight.shape[1] + 1) for weight in weights),))


def _define() -> torch.library.Library:
    """Define the low-level ops of the loaded native backend."""
    namespace = "sivae_native"
    library = torch.library.Library(namespace, "FRAGMENT")
    for schema in _SCHEMAS:
        library.define(schema)
    torch.library.register_fake(f"{namespace}::{_NAME}", _fake, lib=library)
    torch.library.register_fake(f"{namespace}::{_NAME}_backward", _fake_backward, lib=library)
    return library


def _can_run() -> bool:
    # The module that tests emulate CUDA in has no CPU kernels.
    if not torch._C._dispatch_has_kernel_for_dispatch_key(f"sivae_native::{_NAME}", "CPU"):
        return False
    return bool(importlib.import_module("sivae._C").multiplies_bfloat16())


_library = _define() if backends.has_native() else None  # kept alive
_has_kernels = _library is not None and _can_run()
