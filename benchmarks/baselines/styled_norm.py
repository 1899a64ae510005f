"""The memory-bound half of a block of a style-based network, in eager PyTorch."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def styled_instance_norm(
    x: Tensor, noise: Tensor, noise_weight: Tensor, bias: Tensor, scale: Tensor, shift: Tensor
) -> Tensor:
    """x [B, C, H, W], noise [B, 1, H, W], noise_weight and bias [C], scale and shift [B, C] -> [B, C, H, W]."""
    u = F.leaky_relu(x + noise * noise_weight[:, None, None] + bias[:, None, None], 0.2)
    return F.instance_norm(u, eps=1e-8) * (1 + scale[:, :, None, None]) + shift[:, :, None, None]
