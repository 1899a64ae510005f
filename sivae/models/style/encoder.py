"""Encode images to the parameters of the posterior through styles."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sivae import ops
from sivae.models.recompute import StagedNetwork
from sivae.models.style.equalised import EqualisedConv2d, EqualisedLinear, zeros
from sivae.models.style.mapping import PosteriorMapping
from sivae.models.style.resampling import HalvingConv2d, blurred, halved, is_whole, mixed

_SLOPE = 0.2
_EPS = 1e-5


class StyleEncoder(StagedNetwork):
    """Images [B, C, S, S] -> mu and logvar side by side, [B, 2 z_dim].

    Args:
        channels: channels of the images.
        widths: channels of the entrances, the highest resolution first, then those of the last block's output.
        z_dim: number of latent values.
    """

    def __init__(self, channels: int, widths: Sequence[int], z_dim: int) -> None:
        super().__init__()
        self.entrances = nn.ModuleList(EqualisedConv2d(channels, width, 1, bias=True) for width in widths[:-1])
        self.blocks = nn.ModuleList(
            EncoderBlock(fan_in, fan_out, z_dim) for fan_in, fan_out in itertools.pairwise(widths)
        )
        self.mapping = PosteriorMapping(z_dim)

    def forward(self, x: Tensor, lod: int, blend: float | Tensor) -> Tensor:
        posterior: Tensor = self.mapping(self.styles(x, lod, blend))
        return posterior

    def styles(self, x: Tensor, lod: int, blend: float | Tensor) -> Tensor:
        """Sum the styles of all resolutions, [B, z_dim]."""
        first = len(self.blocks) - 1 - lod
        features, total = self._through(self.blocks[first], self._enter(first, x))
        if lod > 0 and not is_whole(blend):
            total = total * blend
            features = mixed(self._enter(first + 1, halved(x)), features, blend)
        for index in range(first + 1, len(self.blocks)):
            features, style = self._through(self.blocks[index], features)
            total = total + style
        styles: Tensor = total
        return styles

    def _enter(self, index: int, x: Tensor) -> Tensor:
        # The published networks apply leaky ReLU twice, which equals one with the square of the slope.
        return F.leaky_relu_(self.entrances[index](x), _SLOPE * _SLOPE)


class EncoderBlock(nn.Module):
    """Features [B, C, S, S] -> features [B, C', S/2, S/2] and the sum of two styles [B, z_dim]."""

    def __init__(self, fan_in: int, fan_out: int, z_dim: int) -> None:
        super().__init__()
        self.conv1 = EqualisedConv2d(fan_in, fan_in, 3)
        self.bias1 = zeros(fan_in)
        self.style1 = EqualisedLinear(2 * fan_in, z_dim)
        self.conv2 = HalvingConv2d(fan_in, fan_out, 3)
        self.bias2 = zeros(fan_out)
        self.style2 = EqualisedLinear(2 * fan_out, z_dim)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x, first = _normed(self.conv1(x), self.bias1, self.style1)
        x, second = _normed(self.conv2(blurred(x)), self.bias2, self.style2)
        return x, first + second


def _normed(x: Tensor, bias: Tensor, style: EqualisedLinear) -> tuple[Tensor, Tensor]:
    y, mean, std = ops.styled_instance_norm(x, bias=bias, negative_slope=_SLOPE, eps=_EPS, statistics=True)
    described: Tensor = style(torch.cat([mean, std], dim=1))
    return y, described
