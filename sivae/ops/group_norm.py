"""Group norm, its scale and shift, and an activation, in one op."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from sivae.ops import backends
from sivae.ops.checks import FLOATING, activation_index, check_dtype, check_scalar
from sivae.ops.library import sum_dtype
from sivae.ops.ranges import annotated

_OP = "group_norm_silu"
_SMALLEST_NORMAL = {dtype: torch.finfo(dtype).smallest_normal for dtype in (torch.float32, torch.float64)}

Activation = Literal["silu", "leaky_relu", "none"]

# An older build, or the module that tests emulate CUDA in, may have no CPU kernels.
_has_kernels = backends.has_native() and torch._C._dispatch_has_kernel_for_dispatch_key(f"sivae_native::{_OP}", "CPU")


def serves(x: Tensor) -> bool:
    """Whether the native backend computes the op for x on the CPU, where a call names no backend."""
    if x.device.type != "cpu" or not _has_kernels or x.dtype not in FLOATING or torch.compiler._is_exporting_flag:
        return False
    # Under a transform the op would run as the reference.
    return not torch._C._are_functorch_transforms_active() and backends.runs_native(x.device)


@annotated
def group_norm_silu(
    x: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    eps: float = 1e-5,
    activation: Activation = "silu",
    negative_slope: float = 0.2,
    backend: str | None = None,
) -> Tensor:
    """silu(group_norm(x, num_groups, weight, bias, eps)); it reads its input twice, and keeps only x for gradients.

    A group is C / num_groups neighboring channels of a sample with all their pixels; with its mean and population
    variance, v = (x - mean) / sqrt(variance + eps) * weight + bias, and y is v * sigmoid(v).

    Args:
        x: [B, C, ...], float64, float32, bfloat16 or float16, with any dimensions after the channels. Contiguous and
            channels-last images are read in place, views with other strides are copied; y has x's memory format.
        num_groups: a divisor of C.
        weight, bias: [C], of any of these dtypes; None: 1 and 0.
        eps: added to the variance; the smallest normal number of the arithmetic takes the place of smaller ones.
        activation: "silu", "leaky_relu" or "none".
        negative_slope: of the leaky ReLU.
        backend: "native", "triton", "reference" or None (the fastest available).

    Returns:
        [B, C, ...] in x's dtype, with gradients to x, weight and bias; arithmetic in float32 (float64 for float64 x),
        sums in a fixed order: the same bits on any number of threads. A constant group gives the activation of its
        bias. What is not finite makes its group NaN, and no other, and so may a variance beyond the largest number
        of the arithmetic (in float32, values about 1e19 apart).

    Error against float64 (float32; s is the largest |x - mean| of the group over sqrt(variance + eps), v before the
    activation, m the largest |x| of the group): of y 5.3e-6 * (1 + s) * |weight| + 1.2e-6 * (|v| + |bias|)
    + 1.4e-7 * m / sqrt(variance + eps) * |weight|.

    Raises:
        TypeError, ValueError: wrong type, dtype, shape or device, naming the argument.
        RuntimeError: the requested backend is not available.
    """
    check_dtype(_OP, "x", x)
    if x.dim() < 2 or x.shape[1] == 0:
        raise ValueError(f"{_OP}: x has shape {list(x.shape)}, expected [B, C, ...] with channels")
    channels = x.shape[1]
    if not isinstance(num_groups, int) or isinstance(num_groups, bool):
        raise TypeError(f"{_OP}: num_groups is {type(num_groups).__name__}, expected an int")
    if num_groups < 1 or channels % num_groups != 0:
        raise ValueError(f"{_OP}: num_groups is {num_groups}, expected a divisor of the {channels} channels of x")
    for name, value in (("weight", weight), ("bias", bias)):
        if value is None:
            continue
        if not isinstance(value, Tensor):
            raise TypeError(f"{_OP}: {name} is {type(value).__name__}, expected a torch.Tensor or None")
        check_dtype(_OP, name, value)
        if tuple(value.shape) != (channels,):
            raise ValueError(f"{_OP}: {name} has shape {list(value.shape)}, expected [{channels}]")
        if value.device != x.device:
            raise ValueError(f"{_OP}: {name} is on {value.device}, expected {x.device} as x")
    eps = max(check_scalar(_OP, "eps", eps, positive=True), _SMALLEST_NORMAL[sum_dtype(x.dtype)])
    slope = check_scalar(_OP, "negative_slope", negative_slope)
    kind = activation_index(_OP, activation)
    ops = backends.select(_OP, backend, x.device)
    y: Tensor = ops.group_norm_silu(x, weight, bias, num_groups, kind, slope, eps)[0]
    return y
