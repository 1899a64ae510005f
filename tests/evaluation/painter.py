"""A small model of images for the tests of this folder."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sivae.models import VAEModel


class Painter(VAEModel):
    """Linear networks over images of any size, with dropout and batch norm to tell eval mode from training."""

    name = "painter"

    def __init__(
        self,
        shape: tuple[int, int, int] = (3, 8, 8),
        z_dim: int = 4,
        value_range: tuple[float, float] = (0.0, 1.0),
        condition_dim: int = 0,
    ) -> None:
        super().__init__()
        self.sample_shape, self.z_dim = shape, z_dim
        self.value_range, self.condition_dim = value_range, condition_dim
        size = shape[0] * shape[1] * shape[2]
        generator = torch.Generator().manual_seed(5)
        self.encoder = nn.Sequential(nn.Dropout(), nn.Linear(size + condition_dim, 2 * z_dim))
        self.decoder = nn.Sequential(nn.Linear(z_dim + condition_dim, size), nn.BatchNorm1d(size))
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
        self.seen_training = 0

    def encode(self, x: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        self.seen_training += self.training or torch.is_grad_enabled()
        mu, logvar = self.encoder(_beside(x.flatten(1), condition)).chunk(2, dim=1)
        return mu, logvar

    def decode(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        self.seen_training += self.training or torch.is_grad_enabled()
        low, high = self.value_range
        unit = self.decoder(_beside(z, condition)) * 3 + 0.5  # some of it beyond [0, 1], as decoders do
        return (unit * (high - low) + low).view(-1, *self.sample_shape)


def _beside(x: Tensor, condition: Tensor | None) -> Tensor:
    return x if condition is None else torch.cat([x, condition], dim=1)
