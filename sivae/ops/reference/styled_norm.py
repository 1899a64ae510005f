"""Noise, bias, leaky ReLU, instance norm and style of a feature map."""

from __future__ import annotations

import torch
from torch import Tensor

from sivae.ops.library import sum_dtype


def styled_instance_norm(
    x: Tensor,
    noise: Tensor | None,
    noise_weight: Tensor | None,
    bias: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    negative_slope: float,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    dtype = sum_dtype(x.dtype)
    u = x.to(dtype)  # [B, C, H, W]
    if noise is not None and noise_weight is not None:
        u = u + noise.to(dtype) * noise_weight.to(dtype)[:, None, None]
    if bias is not None:
        u = u + bias.to(dtype)[:, None, None]
    u = torch.where(u > 0, u, u * negative_slope)
    # Minus one of its pixels, a constant plane is exactly 0, and a plane far from 0 keeps its digits.
    pivot = u[:, :, :1, :1].detach()  # [B, C, 1, 1]
    centred = u - pivot
    offset = centred.mean((2, 3), keepdim=True)
    centred = centred - offset
    variance = (centred * centred).mean((2, 3), keepdim=True)
    y = centred / (variance + eps).sqrt()
    if scale is not None and shift is not None:
        y = y * (1.0 + scale.to(dtype)[:, :, None, None]) + shift.to(dtype)[:, :, None, None]
    # The root's derivative at 0 is infinite, and would be multiplied by 0.
    varies = variance != 0
    std = torch.where(varies, torch.where(varies, variance, 1.0).sqrt(), 0.0)
    return y.to(x.dtype), (pivot + offset)[:, :, 0, 0], std[:, :, 0, 0]
