"""Group norm with an activation."""

from __future__ import annotations

import torch
from torch import Tensor

from sivae.ops.library import ACTIVATIONS, sum_dtype


def group_norm_silu(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    groups: int,
    activation: int,
    negative_slope: float,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Also the mean and 1 / sqrt(variance + eps) of each group [B, groups] in float64, without gradient."""
    dtype = sum_dtype(x.dtype)
    # [B, groups, C / groups, ...]: not one dimension for a group, so that y has x's memory format.
    u = x.to(dtype).unflatten(1, (groups, x.shape[1] // groups))
    inside = list(range(2, u.dim()))
    # Minus one of its values, a group far from 0 keeps its digits, and a constant one is exactly 0.
    pivot = u[(slice(None), slice(None), *[slice(1)] * len(inside))].detach()
    centred = u - pivot
    offset = centred.mean(inside, keepdim=True)
    centred = centred - offset
    variance = (centred * centred).mean(inside, keepdim=True)
    std = (variance + eps).sqrt() + (variance - variance).detach()  # NaN where the variance overflowed
    v = (centred / std).flatten(1, 2)
    by_channel = (-1, *[1] * (x.dim() - 2))
    if weight is not None:
        v = v * weight.to(dtype).view(by_channel)
    if bias is not None:
        v = v + bias.to(dtype).view(by_channel)
    name = ACTIVATIONS[activation]
    if name == "leaky_relu":
        v = torch.where(v > 0, v, v * negative_slope)
    elif name == "silu":
        v = torch.nn.functional.silu(v)
    statistics = (pivot + offset, 1.0 / std) if x.numel() > 0 else (offset, offset)  # NaN
    mean, inverse_std = (value.detach().double().flatten(1) for value in statistics)
    return v.to(x.dtype), mean, inverse_std
