"""Change the side of feature maps and images.

The published networks resample separately below 128 pixels, and fold the resampling into the convolution from there on.
Both give the same sums; here the resampling is folded at every resolution.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from sivae.models.doubling import doubling_kernel
from sivae.models.style.equalised import EqualisedConv2d


class DoublingConv2d(EqualisedConv2d):
    """Double by nearest neighbours, then convolve 3x3: [B, C, H, W] -> [B, C', 2H, 2W]."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv_transpose2d(x, doubling_kernel(self.weight), stride=2, padding=1)


class HalvingConv2d(EqualisedConv2d):
    """Convolve 3x3, then average over 2x2 pixels: [B, C, H, W] -> [B, C', H/2, W/2]."""

    def forward(self, x: Tensor) -> Tensor:
        kernel = _pair_sums(_pair_sums(self.weight, 2), 3) * 0.25  # [C', C, 4, 4]
        return F.conv2d(x, kernel, stride=2, padding=1)


def _pair_sums(weight: Tensor, dim: int) -> Tensor:
    """Turn three weights along `dim` into four, each the sum of a weight and the one before it."""
    first, second, third = weight.unbind(dim)
    return torch.stack([first, first + second, second + third, third], dim)


def blurred(x: Tensor) -> Tensor:
    """Convolve x [B, C, H, W] with [1 2 1] x [1 2 1] / 16, padded by zeros."""
    if x.is_cpu and x.dtype is torch.float32 and not torch.is_autocast_enabled("cpu"):
        # Here a convolution per channel is several times faster; for other dtypes it is slower.
        line = x.new_tensor((0.25, 0.5, 0.25))
        return F.conv2d(x, torch.outer(line, line).repeat(x.shape[1], 1, 1, 1), padding=1, groups=x.shape[1])
    # Two averages over neighbours equal one [1 2 1] / 4, and need no kernel for each channel.
    return F.avg_pool2d(F.avg_pool2d(x, 2, stride=1, padding=1), 2, stride=1)


def halved(x: Tensor) -> Tensor:
    """Halve the side of images, by averages."""
    return F.avg_pool2d(x, 2)


def doubled(x: Tensor) -> Tensor:
    """Double the side of images, by nearest neighbours."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


def mixed(before: Tensor, after: Tensor, blend: float | Tensor) -> Tensor:
    """Compute before + blend * (after - before)."""
    if isinstance(blend, Tensor):
        return torch.lerp(before, after, blend.to(after.dtype))
    return torch.lerp(before, after, blend)


def is_whole(blend: float | Tensor) -> bool:
    """Return whether a stage is completely blended in, without waiting for a device."""
    return not isinstance(blend, Tensor) and blend == 1.0
