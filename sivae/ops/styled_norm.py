"""Noise, bias, leaky ReLU, instance norm and style of a feature map, in one op."""

from __future__ import annotations

from typing import Literal, overload

import torch
from torch import Tensor

from sivae.ops import backends
from sivae.ops.checks import check_dtype, check_floating, check_scalar
from sivae.ops.library import sum_dtype
from sivae.ops.ranges import annotated

_OP = "styled_instance_norm"
_SMALLEST_NORMAL = {dtype: torch.finfo(dtype).smallest_normal for dtype in (torch.float32, torch.float64)}


@overload
def styled_instance_norm(
    x: Tensor,
    *,
    noise: Tensor | None = None,
    noise_weight: Tensor | None = None,
    bias: Tensor | None = None,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    negative_slope: float = 0.2,
    eps: float = 1e-8,
    statistics: Literal[False] = False,
    backend: str | None = None,
) -> Tensor: ...


@overload
def styled_instance_norm(
    x: Tensor,
    *,
    noise: Tensor | None = None,
    noise_weight: Tensor | None = None,
    bias: Tensor | None = None,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    negative_slope: float = 0.2,
    eps: float = 1e-8,
    statistics: Literal[True],
    backend: str | None = None,
) -> tuple[Tensor, Tensor, Tensor]: ...


@annotated
def styled_instance_norm(
    x: Tensor,
    *,
    noise: Tensor | None = None,
    noise_weight: Tensor | None = None,
    bias: Tensor | None = None,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    negative_slope: float = 0.2,
    eps: float = 1e-8,
    statistics: bool = False,
    backend: str | None = None,
) -> Tensor | tuple[Tensor, Tensor, Tensor]:
    """Half a block of a style-based network (Karras, Laine & Aila 2019, section 2); reads its input twice.

    u = leaky_relu(x + noise * noise_weight + bias); over each plane of H x W the mean and the population variance of u;
    y = (u - mean) / sqrt(variance + eps) * (1 + scale) + shift.

    Args:
        x: [B, C, H, W], float64, float32, bfloat16 or float16. Views and channels-last images are read in place, and y
            has x's memory format.
        noise: [B, 1, H, W] or, one map for the whole batch, [1, 1, H, W]; it takes no gradient. With `noise_weight`.
        noise_weight, bias: [C].
        scale, shift: [B, C], both or neither; row-strided views are read in place. Each of these five tensors may have
            another dtype than x, of the same four.
        negative_slope: of the leaky ReLU.
        eps: added to the variance; the smallest normal number of the arithmetic takes the place of smaller ones.
        statistics: return mean and std, too.
        backend: "native", "triton", "reference" or None (the fastest available).

    Returns:
        y: [B, C, H, W] in x's dtype; arithmetic in float32 (float64 where a tensor is float64). With `statistics`
        (y, mean, std): mean and std [B, C] of u in float32 (float64), with gradients. The std is the root of the
        variance without eps; where a plane is constant it is 0, with gradient 0.

    Error against float64 (float32; s is the largest |x| + |noise * noise_weight| + |bias| of the plane, n the
    normalised |u - mean| / sqrt(variance + eps)): of mean and std 1.25e-5 * s, and of y
    1.25e-5 * |1 + scale| * (1 + 2 n) * (1 + s / sqrt(variance + eps)) + 3e-7 * |y|. A constant plane is exact.

    Raises:
        TypeError, ValueError: wrong type, dtype, shape or device, naming the argument.
        RuntimeError: the requested backend is not available, or a compiled backend is differentiated twice.
    """
    check_floating(_OP, "x", x)
    if x.dim() != 4 or (x.shape[2] * x.shape[3] == 0 and x.shape[0] > 0):
        raise ValueError(f"{_OP}: x has shape {list(x.shape)}, expected [B, C, H, W] with pixels")
    batch, channels, height, width = x.shape
    _check_pair(noise, "noise", noise_weight, "noise_weight")
    _check_pair(scale, "scale", shift, "shift")
    if noise is not None:
        _check(x, "noise", noise, [(batch, 1, height, width), (1, 1, height, width)])
        if noise.requires_grad:
            raise ValueError(f"{_OP}: noise requires a gradient, which this op does not compute; detach it")
    for name, value in (("noise_weight", noise_weight), ("bias", bias)):
        if value is not None:
            _check(x, name, value, [(channels,)])
    for name, value in (("scale", scale), ("shift", shift)):
        if value is not None:
            _check(x, name, value, [(batch, channels)])
    slope = check_scalar(_OP, "negative_slope", negative_slope)
    eps = check_scalar(_OP, "eps", eps, positive=True)
    dtype, arithmetic, operands = x.dtype, sum_dtype(x.dtype), [noise, noise_weight, bias, scale, shift]
    others = [value.dtype for value in operands if value is not None and value.dtype not in (dtype, arithmetic)]
    if others:
        if torch.float64 in others:
            arithmetic, x = torch.float64, x.double()
        operands = [None if value is None else value.to(arithmetic) for value in operands]
    eps = max(eps, _SMALLEST_NORMAL[arithmetic])
    ops = backends.select(_OP, backend, x.device)
    y, mean, std = ops.styled_instance_norm(x, *operands, slope, eps)
    y = y.to(dtype)
    return (y, mean, std) if statistics else y


def _check_pair(first: Tensor | None, first_name: str, second: Tensor | None, second_name: str) -> None:
    if (first is None) != (second is None):
        given, missing = (second_name, first_name) if first is None else (first_name, second_name)
        raise ValueError(f"{_OP}: {given} is given without {missing}, expected both or neither")


def _check(x: Tensor, name: str, value: Tensor, shapes: list[tuple[int, ...]]) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"{_OP}: {name} is {type(value).__name__}, expected a torch.Tensor or None")
    check_dtype(_OP, name, value)
    if all(value.shape != shape for shape in shapes):
        expected = " or ".join(str(list(shape)) for shape in dict.fromkeys(shapes))
        raise ValueError(f"{_OP}: {name} has shape {list(value.shape)}, expected {expected}")
    if value.device != x.device:
        raise ValueError(f"{_OP}: {name} is on {value.device}, expected {x.device} as x")
