"""The published style-based networks in plain modules."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.baselines.eager_ops import styled_instance_norm

_FUSED_FROM = 128  # pixels a side; from here on the published networks resample within a convolution


class PlainStyleVAE(nn.Module):
    """Encoder and decoder at their last stage, with the state dict of `sivae.models.StyleVAE`."""

    average_style: Tensor

    def __init__(
        self,
        image_size: int = 256,
        channels: int = 3,
        start_channels: int = 64,
        max_channels: int = 512,
        z_dim: int = 512,
        mapping_layers: int = 8,
    ) -> None:
        super().__init__()
        self.z_dim = z_dim
        self.layer_count = int(math.log2(image_size)) - 1
        self.style_mixing = 0.9
        widths = [min(max_channels, start_channels * 2**index) for index in range(self.layer_count + 1)]
        self.encoder = _Encoder(channels, widths, z_dim, image_size)
        self.decoder = _Decoder(channels, widths[-2::-1], z_dim, mapping_layers)
        self.register_buffer("average_style", torch.zeros(2 * self.layer_count, z_dim))

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[B, C, H, W] -> mu and logvar [B, z_dim]."""
        mu, logvar = self.encoder(x).chunk(2, dim=1)
        return mu, logvar

    def decode(self, z: Tensor, noise: Sequence[Tensor] | None = None) -> Tensor:
        """[B, z_dim] -> [B, C, H, W]; noise: maps to use instead of random ones, two for each block."""
        return self._decode(z, noise, mixing=False)

    def decode_prior(self, z: Tensor) -> Tensor:
        """As `decode`, but most often with the finer styles of another latent."""
        return self._decode(z, None, mixing=True)

    def rate_scales(self) -> dict[str, float]:
        """Parameter's name -> factor of its learning rate, for those whose factor is not 1."""
        scales = {}
        for name, module in self.named_modules():
            if isinstance(module, _Linear | _Conv):
                scales[f"{name}.weight"] = module.rate
            if isinstance(module, _Linear) and module.multiplier != 1.0:
                scales[f"{name}.bias"] = module.multiplier
        return scales

    def optimizers(self, rate: float) -> tuple[torch.optim.Optimizer, torch.optim.Optimizer]:
        """Adam for the encoder and the decoder, with a group for each rate."""
        encoder, decoder = (
            torch.optim.Adam(self._groups(name, rate), betas=(0.0, 0.99)) for name in ("encoder", "decoder")
        )
        return encoder, decoder

    def _groups(self, prefix: str, rate: float) -> list[dict[str, object]]:
        scales = self.rate_scales()
        groups: dict[float, list[nn.Parameter]] = {}
        for name, parameter in self.get_submodule(prefix).named_parameters():
            groups.setdefault(scales.get(f"{prefix}.{name}", 1.0), []).append(parameter)
        return [{"params": parameters, "lr": rate * scale} for scale, parameters in groups.items()]

    def _decode(self, z: Tensor, noise: Sequence[Tensor] | None, *, mixing: bool) -> Tensor:
        styles = self._styles(z)
        if self.training:
            with torch.no_grad():
                self.average_style.lerp_(styles.mean(0).to(self.average_style.dtype), 1.0 - 0.995)
        if mixing and torch.rand(()).item() < self.style_mixing:
            first = int(torch.randint(1, 2 * self.layer_count, ()).item())
            others = self._styles(torch.randn_like(z))
            styles = torch.cat([styles[:, :first], others[:, first:]], dim=1)
        image: Tensor = self.decoder(styles, noise)
        return image

    def _styles(self, z: Tensor) -> Tensor:
        style: Tensor = self.decoder.mapping(z)
        return style.unsqueeze(1).repeat(1, 2 * self.layer_count, 1)


class _Linear(nn.Linear):
    def __init__(self, fan_in: int, fan_out: int, gain: float = math.sqrt(2.0), multiplier: float = 1.0) -> None:
        super().__init__(fan_in, fan_out)
        self.multiplier = multiplier
        self.rate = multiplier * gain / math.sqrt(fan_in)


class _Conv(nn.Conv2d):
    def __init__(
        self, fan_in: int, fan_out: int, kernel: int, gain: float = math.sqrt(2.0), bias: bool = False
    ) -> None:
        super().__init__(fan_in, fan_out, kernel, padding=kernel // 2, bias=bias)
        self.rate = gain / math.sqrt(fan_in * kernel * kernel)


class _UpConv(_Conv):
    def __init__(self, fan_in: int, fan_out: int, side: int) -> None:
        super().__init__(fan_in, fan_out, 3)
        self.fused = side >= _FUSED_FROM

    def forward(self, x: Tensor) -> Tensor:
        if not self.fused:
            return super().forward(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        # The published kernel is laid out for a transposed convolution.
        kernel = _four_by_four(self.weight.flip(2, 3).transpose(0, 1))
        return F.conv_transpose2d(x, kernel, stride=2, padding=1)


class _DownConv(_Conv):
    def __init__(self, fan_in: int, fan_out: int, side: int) -> None:
        super().__init__(fan_in, fan_out, 3)
        self.fused = side >= _FUSED_FROM

    def forward(self, x: Tensor) -> Tensor:
        if not self.fused:
            return F.avg_pool2d(super().forward(x), 2)
        return F.conv2d(x, _four_by_four(self.weight) * 0.25, stride=2, padding=1)


def _four_by_four(weight: Tensor) -> Tensor:
    padded = F.pad(weight, (1, 1, 1, 1))
    return padded[:, :, 1:, 1:] + padded[:, :, :-1, 1:] + padded[:, :, 1:, :-1] + padded[:, :, :-1, :-1]


class _Blur(nn.Module):
    kernel: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        row = torch.tensor([1.0, 2.0, 1.0])
        kernel = row[:, None] * row[None, :] / 16.0
        self.channels = channels
        self.register_buffer("kernel", kernel.expand(channels, 1, 3, 3).clone(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.kernel.to(x.dtype), padding=1, groups=self.channels)


class _Mapping(nn.Module):
    def __init__(self, sizes: Sequence[int], normalise: bool) -> None:
        super().__init__()
        self.normalise = normalise
        self.layers = nn.ModuleList(
            _Linear(fan_in, fan_out, multiplier=0.1) for fan_in, fan_out in itertools.pairwise(sizes)
        )

    def forward(self, x: Tensor) -> Tensor:
        if self.normalise:
            x = x * torch.rsqrt(x.square().mean(dim=1, keepdim=True) + 1e-8)
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.2)
        return x


class _Encoder(nn.Module):
    def __init__(self, channels: int, widths: Sequence[int], z_dim: int, side: int) -> None:
        super().__init__()
        self.entrances = nn.ModuleList(_Conv(channels, width, 1, bias=True) for width in widths[:-1])
        self.blocks = nn.ModuleList(
            _EncoderBlock(fan_in, fan_out, z_dim, side >> index)
            for index, (fan_in, fan_out) in enumerate(itertools.pairwise(widths))
        )
        self.mapping = _Mapping([z_dim, z_dim, z_dim, 2 * z_dim], normalise=False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.leaky_relu(F.leaky_relu(self.entrances[0](x), 0.2), 0.2)
        total: Tensor | float = 0.0
        for block in self.blocks:
            x, style1, style2 = block(x)
            total = total + style1 + style2
        out: Tensor = self.mapping(total)
        return out


class _EncoderBlock(nn.Module):
    def __init__(self, fan_in: int, fan_out: int, z_dim: int, side: int) -> None:
        super().__init__()
        self.conv1 = _Conv(fan_in, fan_in, 3)
        self.bias1 = nn.Parameter(torch.zeros(fan_in))
        self.style1 = _Linear(2 * fan_in, z_dim)
        self.blur = _Blur(fan_in)
        self.conv2 = _DownConv(fan_in, fan_out, side)
        self.bias2 = nn.Parameter(torch.zeros(fan_out))
        self.style2 = _Linear(2 * fan_out, z_dim)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = F.leaky_relu(self.conv1(x) + self.bias1.view(1, -1, 1, 1), 0.2)
        style1 = self.style1(_statistics(x))
        x = F.instance_norm(x, eps=1e-5)
        x = F.leaky_relu(self.conv2(self.blur(x)) + self.bias2.view(1, -1, 1, 1), 0.2)
        style2 = self.style2(_statistics(x))
        return F.instance_norm(x, eps=1e-5), style1, style2


def _statistics(x: Tensor) -> Tensor:
    # Clamped, as the gradient of the root is infinite where a plane is constant.
    variance = x.var(dim=(2, 3), unbiased=False)
    return torch.cat([x.mean(dim=(2, 3)), variance.clamp_min(1e-12).sqrt()], dim=1)


class _Decoder(nn.Module):
    def __init__(self, channels: int, widths: Sequence[int], z_dim: int, mapping_layers: int) -> None:
        super().__init__()
        self.mapping = _Mapping([z_dim] * (mapping_layers + 1), normalise=True)
        self.constant = nn.Parameter(torch.ones(widths[0], 4, 4))
        self.blocks = nn.ModuleList(
            _DecoderBlock(widths[max(0, index - 1)], width, z_dim, 4 << index, first=index == 0)
            for index, width in enumerate(widths)
        )
        self.exits = nn.ModuleList(_Conv(width, channels, 1, gain=0.03, bias=True) for width in widths)

    def forward(self, styles: Tensor, noise: Sequence[Tensor] | None) -> Tensor:
        x = self.constant.unsqueeze(0)
        for index, block in enumerate(self.blocks):
            maps = () if noise is None else noise[2 * index : 2 * index + 2]
            x = block(x, styles[:, 2 * index], styles[:, 2 * index + 1], *maps)
        image: Tensor = self.exits[-1](x)
        return image


class _DecoderBlock(nn.Module):
    def __init__(self, fan_in: int, fan_out: int, z_dim: int, side: int, first: bool) -> None:
        super().__init__()
        self.conv1 = None if first else _UpConv(fan_in, fan_out, side)
        self.blur = None if first else _Blur(fan_out)
        self.noise_weight1 = nn.Parameter(torch.zeros(fan_out))
        self.bias1 = nn.Parameter(torch.zeros(fan_out))
        self.style1 = _Linear(z_dim, 2 * fan_out, gain=1.0)
        self.conv2 = _Conv(fan_out, fan_out, 3)
        self.noise_weight2 = nn.Parameter(torch.zeros(fan_out))
        self.bias2 = nn.Parameter(torch.zeros(fan_out))
        self.style2 = _Linear(z_dim, 2 * fan_out, gain=1.0)

    def forward(
        self, x: Tensor, style1: Tensor, style2: Tensor, noise1: Tensor | None = None, noise2: Tensor | None = None
    ) -> Tensor:
        if self.conv1 is not None and self.blur is not None:
            x = self.blur(self.conv1(x))
        x = self._styled(x, self.noise_weight1, self.bias1, self.style1(style1), noise1)
        return self._styled(self.conv2(x), self.noise_weight2, self.bias2, self.style2(style2), noise2)

    def _styled(self, x: Tensor, noise_weight: Tensor, bias: Tensor, style: Tensor, noise: Tensor | None) -> Tensor:
        if noise is None:
            noise = torch.randn(x.shape[0], 1, x.shape[2], x.shape[3], device=x.device, dtype=x.dtype)
        return styled_instance_norm(x, noise, noise_weight, bias, *style.chunk(2, dim=1))
