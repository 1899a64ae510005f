"""Batch norm in training mode, a sum and leaky ReLU in one op of the native backend, on the CPU.

It is not a public op: :func:`sivae.models.norm.activated` calls it where it computes what torch's own operators would,
and calls these elsewhere. The low-level op is defined here and not in `library.py`, because no other backend has it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sivae.ops import backends, transforms
from sivae.ops.library import sum_dtype

_NAME = "batch_norm_leaky_relu"
_SCHEMAS = (
    f"{_NAME}(Tensor x, Tensor? residual, Tensor weight, Tensor bias, float negative_slope, float eps)"
    " -> (Tensor, Tensor, Tensor)",
    f"{_NAME}_backward(Tensor grad_y, Tensor x, Tensor? y, Tensor weight, Tensor bias, Tensor mean, Tensor variance,"
    " float negative_slope, float eps, bool need_x, bool need_residual, bool need_weight, bool need_bias)"
    " -> (Tensor, Tensor, Tensor, Tensor)",
)


def serves(x: Tensor) -> bool:
    """Whether the op can compute the batch norm of x [B, C, H, W]: it is channels-last, and on the CPU."""
    if x.device.type != "cpu" or not _has_kernels or x.dim() != 4 or x.numel() <= x.shape[1]:
        return False
    # Under a transform the op would run as the reference, and vmap knows no memory formats.
    if torch._C._are_functorch_transforms_active():
        return False
    return x.is_contiguous(memory_format=torch.channels_last) and backends.runs_native(x.device)


def batch_norm_leaky_relu(
    x: Tensor, weight: Tensor, bias: Tensor, *, residual: Tensor | None = None, negative_slope: float, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """leaky_relu((x - mean) / sqrt(variance + eps) * weight + bias + residual), by the statistics of x itself.

    For the backward pass it keeps x, and y where there is a residual.

    Args:
        x: [B, C, H, W] in channels-last memory, of more than one value per channel, float64, float32, bfloat16 or
            float16. See :func:`serves`.
        weight, bias: [C], of any floating dtype.
        residual: like x, or None: 0.
        negative_slope: of the leaky ReLU, 0 or more.
        eps: added to the variance.

    Returns:
        y, like x; arithmetic in float32 (float64 for float64), sums in float64. The mean and the population variance of
        each channel, float64 [C], without gradient.
    """
    op = torch.ops.sivae_native.batch_norm_leaky_relu.default
    result: tuple[Tensor, Tensor, Tensor] = op(x, residual, weight, bias, negative_slope, eps)
    return result


def reference(
    x: Tensor, residual: Tensor | None, weight: Tensor, bias: Tensor, negative_slope: float, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The same in operators of torch."""
    dtype, channels = sum_dtype(x.dtype), (1, -1, 1, 1)
    u = x.to(dtype)
    # Minus one of its values, a channel far from 0 keeps its digits.
    pivot = u[:1, :, :1, :1].detach()
    centred = u - pivot
    offset = centred.mean((0, 2, 3), keepdim=True)
    centred = centred - offset
    variance = (centred * centred).mean((0, 2, 3), keepdim=True)
    v = centred / (variance + eps).sqrt() * weight.to(dtype).view(channels) + bias.to(dtype).view(channels)
    if residual is not None:
        v = v + residual.to(dtype)
    y = torch.where(v > 0, v, v * negative_slope).to(x.dtype)
    return y, (pivot + offset).detach().double().flatten(), variance.detach().double().flatten()


def _like_images(x: Tensor, needed: bool = True) -> Tensor:
    return torch.empty_like(x, memory_format=torch.channels_last) if needed else x.new_empty((0,))


def _fake(
    x: Tensor, residual: Tensor | None, weight: Tensor, bias: Tensor, negative_slope: float, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    mean, variance = (x.new_empty((x.shape[1],), dtype=torch.float64) for _ in range(2))
    return _like_images(x), mean, variance


def _fake_backward(
    grad_y: Tensor,
    x: Tensor,
    y: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    mean: Tensor,
    variance: Tensor,
    negative_slope: float,
    eps: float,
    need_x: bool,
    need_residual: bool,
    need_weight: bool,
    need_bias: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    of_weight, of_bias = (
        parameter.new_empty(parameter.shape if needed else (0,))
        for parameter, needed in ((weight, need_weight), (bias, need_bias))
    )
    return _like_images(x, need_x), _like_images(x, need_residual), of_weight, of_bias


def _define() -> torch.library.Library:
    """Define the low-level ops of the loaded native backend."""
    namespace = "sivae_native"
    library = torch.library.Library(namespace, "FRAGMENT")
    for schema in _SCHEMAS:
        library.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    torch.library.register_fake(f"{namespace}::{_NAME}", _fake, lib=library)
    torch.library.register_fake(f"{namespace}::{_NAME}_backward", _fake_backward, lib=library)
    library.impl(_NAME, reference, "FuncTorchDynamicLayerFrontMode")
    backward = torch.ops.sivae_native.batch_norm_leaky_relu_backward.default
    torch.library.register_vmap(f"{namespace}::{_NAME}_backward", transforms.one_by_one(backward), lib=library)
    return library


_library = _define() if backends.has_native() else None  # kept alive
# The module that tests emulate CUDA in has no CPU kernels.
_has_kernels = _library is not None and torch._C._dispatch_has_kernel_for_dispatch_key(f"sivae_native::{_NAME}", "CPU")
