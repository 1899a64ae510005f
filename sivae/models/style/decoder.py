"""Decode latents to images through styles."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from sivae import ops
from sivae.models.recompute import StagedNetwork
from sivae.models.style.equalised import EqualisedConv2d, EqualisedLinear, zeros
from sivae.models.style.mapping import StyleMapping
from sivae.models.style.resampling import DoublingConv2d, blurred, doubled, is_whole, mixed

_SLOPE = 0.2
_EPS = 1e-8
_RGB_GAIN = 0.03
SMALLEST = 4  # pixels, the side of the learned constant


class Noise(Protocol):
    """The noise maps of a pass, two for each block."""

    def map(self, k: int, batch: int, side: int, like: Tensor) -> Tensor:
        """Return map k, counted through all blocks, [batch or 1, 1, side, side]."""


@dataclass(frozen=True)
class DrawnNoise:
    """Noise maps that are drawn: map k at the offset `source.offset` + k.

    Attributes:
        source: seed and first offset.
        common: use one set of maps for the whole batch.
    """

    source: ops.PhiloxNoise
    common: bool = False

    def map(self, k: int, batch: int, side: int, like: Tensor) -> Tensor:
        """See :meth:`Noise.map`. It is in float32, or in float64 for float64."""
        # The first noise is added to the constant, and is the same for all samples, like the constant.
        rows = 1 if self.common or k == 0 else batch
        dtype = torch.float64 if like.dtype is torch.float64 else torch.float32
        return ops.philox_normal(
            self.source.seed, (rows, 1, side, side), offset=self.source.offset + k, device=like.device, dtype=dtype
        )


@dataclass(frozen=True)
class GivenNoise:
    """Noise maps that a caller has.

    Attributes:
        maps: two for each block up to the stage, each [batch or 1, 1, side, side].
    """

    maps: Sequence[Tensor]

    def map(self, k: int, batch: int, side: int, like: Tensor) -> Tensor:
        """See :meth:`Noise.map`."""
        return self.maps[k]


class StyleDecoder(StagedNetwork):
    """Styles [B, 2 n, z_dim] -> images [B, C, 4 * 2^lod, 4 * 2^lod].

    Args:
        channels: channels of the images.
        widths: channels of the blocks, from 4 x 4 on.
        z_dim: number of values of a latent, and of a style.
        mapping_layers: number of layers from latents to styles.
    """

    def __init__(self, channels: int, widths: Sequence[int], z_dim: int, mapping_layers: int) -> None:
        super().__init__()
        self.mapping = StyleMapping(z_dim, mapping_layers)
        self.constant = nn.Parameter(torch.ones(widths[0], SMALLEST, SMALLEST))
        ins: list[int | None] = [None, *widths[:-1]]
        self.blocks = nn.ModuleList(
            DecoderBlock(fan_in, fan_out, z_dim, index)
            for index, (fan_in, fan_out) in enumerate(zip(ins, widths, strict=True))
        )
        self.exits = nn.ModuleList(EqualisedConv2d(width, channels, 1, gain=_RGB_GAIN, bias=True) for width in widths)

    def forward(self, styles: Tensor, lod: int, blend: float | Tensor, noise: Noise | None) -> Tensor:
        x = self.constant.expand(styles.shape[0], -1, -1, -1)
        first = self.blocks[0]
        assert isinstance(first, DecoderBlock)
        x = x.to(memory_format=_memory_format(first.conv2.weight))
        for index in range(lod):
            x = self._block(index, x, styles, noise)
        before = x
        x = self._block(lod, x, styles, noise)
        image: Tensor = self.exits[lod](x)
        if lod > 0 and not is_whole(blend):
            image = mixed(doubled(self.exits[lod - 1](before)), image, blend)
        return image

    def _block(self, index: int, x: Tensor, styles: Tensor, noise: Noise | None) -> Tensor:
        side = SMALLEST << index
        maps = [None if noise is None else noise.map(2 * index + k, x.shape[0], side, x) for k in range(2)]
        result: Tensor = self._through(self.blocks[index], x, styles[:, 2 * index], styles[:, 2 * index + 1], *maps)
        return result


class DecoderBlock(nn.Module):
    """[B, C, S, S] -> [B, C', 2S, 2S]; the first one, without `fan_in`, keeps the side."""

    def __init__(self, fan_in: int | None, fan_out: int, z_dim: int, index: int) -> None:
        super().__init__()
        self.conv1 = None if fan_in is None else DoublingConv2d(fan_in, fan_out, 3)
        self.noise_weight1, self.bias1 = zeros(fan_out), zeros(fan_out)
        self.style1 = EqualisedLinear(z_dim, 2 * fan_out, gain=1.0)
        self.conv2 = EqualisedConv2d(fan_out, fan_out, 3)
        self.noise_weight2, self.bias2 = zeros(fan_out), zeros(fan_out)
        self.style2 = EqualisedLinear(z_dim, 2 * fan_out, gain=1.0)
        self._sigma = math.sqrt(index + 1)

    def forward(
        self, x: Tensor, style1: Tensor, style2: Tensor, noise1: Tensor | None, noise2: Tensor | None
    ) -> Tensor:
        if self.conv1 is not None:
            x = blurred(self.conv1(x))
        x = self._styled(x, noise1, self.noise_weight1, self.bias1, self.style1(style1))
        return self._styled(self.conv2(x), noise2, self.noise_weight2, self.bias2, self.style2(style2))

    def _styled(self, x: Tensor, noise: Tensor | None, noise_weight: Tensor, bias: Tensor, style: Tensor) -> Tensor:
        weight: Tensor | None = noise_weight
        if noise is None:
            x, weight = x + self._bump(x), None
        scale, shift = style.to(x.dtype).chunk(2, dim=1)
        return ops.styled_instance_norm(
            x,
            noise=noise,
            noise_weight=weight,
            bias=bias,
            scale=scale,
            shift=shift,
            negative_slope=_SLOPE,
            eps=_EPS,
        )

    def _bump(self, x: Tensor) -> Tensor:
        """Compute the term that the published networks add instead of noise."""
        return 0.8 / math.sqrt(2.0 * math.pi) * self._sigma * torch.exp(-x * x / (2.0 * self._sigma**2))


def _memory_format(weight: Tensor) -> torch.memory_format:
    channels_last = weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()
    return torch.channels_last if channels_last else torch.contiguous_format
