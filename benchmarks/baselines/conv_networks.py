"""The published convolutional networks in plain modules."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class PlainConvVAE(nn.Module):
    """Encoder and decoder with batch norm, with the state dict of `sivae.models.ConvVAE`."""

    encoder: nn.Module
    decoder: nn.Module

    def __init__(
        self, image_size: int = 32, channels: int = 3, widths: Sequence[int] = (64, 128, 256), z_dim: int = 128
    ) -> None:
        super().__init__()
        side = image_size >> len(widths)
        self.encoder = _Encoder(channels, widths, side, z_dim)
        self.decoder = _Decoder(channels, widths, side, z_dim)

    def optimizers(self, rate: float) -> tuple[torch.optim.Optimizer, torch.optim.Optimizer]:
        """Adam for the encoder and the decoder."""
        encoder, decoder = (torch.optim.Adam(network.parameters(), lr=rate) for network in (self.encoder, self.decoder))
        return encoder, decoder

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[B, C, H, W] -> mu and logvar [B, z_dim]."""
        mu, logvar = self.encoder(x).chunk(2, dim=1)
        return mu, logvar

    def decode(self, z: Tensor) -> Tensor:
        """[B, z_dim] -> [B, C, H, W]."""
        decoded: Tensor = self.decoder(z)
        return decoded


class _Entry(nn.Module):
    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, width, 5, padding=2, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.activation = nn.LeakyReLU(0.2)
        self.pool = nn.AvgPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        pooled: Tensor = self.pool(self.activation(self.norm(self.conv(x))))
        return pooled


class _Block(nn.Module):
    def __init__(self, fan_in: int, fan_out: int) -> None:
        super().__init__()
        self.expand = nn.Conv2d(fan_in, fan_out, 1, bias=False) if fan_in != fan_out else nn.Identity()
        self.conv1 = nn.Conv2d(fan_in, fan_out, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(fan_out)
        self.conv2 = nn.Conv2d(fan_out, fan_out, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(fan_out)
        self.activation = nn.LeakyReLU(0.2)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.activation(self.norm1(self.conv1(x)))
        out: Tensor = self.activation(self.norm2(self.conv2(hidden)) + self.expand(x))
        return out


class _Encoder(nn.Module):
    def __init__(self, channels: int, widths: Sequence[int], side: int, z_dim: int) -> None:
        super().__init__()
        self.entry = _Entry(channels, widths[0])
        self.stages = nn.ModuleList(
            _Block(fan_in, fan_out) for fan_in, fan_out in zip(widths, [*widths[1:], widths[-1]], strict=True)
        )
        self.pool = nn.AvgPool2d(2)
        self.head = nn.Linear(widths[-1] * side * side, 2 * z_dim)

    def forward(self, x: Tensor) -> Tensor:
        x = self.entry(x)
        for stage in self.stages[:-1]:
            x = self.pool(stage(x))
        out: Tensor = self.head(self.stages[-1](x).flatten(1))
        return out


class _Decoder(nn.Module):
    def __init__(self, channels: int, widths: Sequence[int], side: int, z_dim: int) -> None:
        super().__init__()
        self.shape = (widths[-1], side, side)
        self.head = nn.Linear(z_dim, widths[-1] * side * side)
        outs = [*reversed(widths), widths[0]]
        self.stages = nn.ModuleList(
            _Block(fan_in, fan_out) for fan_in, fan_out in zip([widths[-1], *outs[:-1]], outs, strict=True)
        )
        self.upsample = nn.Upsample(scale_factor=2, mode="nearest")
        self.predict = nn.Conv2d(widths[0], channels, 5, padding=2)

    def forward(self, z: Tensor) -> Tensor:
        x = torch.relu(self.head(z)).view(-1, *self.shape)
        for stage in self.stages[:-1]:
            x = self.upsample(stage(x))
        out: Tensor = self.predict(self.stages[-1](x))
        return out
