"""The fully connected pair of the 2D experiments in plain modules, as one would first write it down."""

from __future__ import annotations

import itertools

from torch import Tensor, nn


class PlainMLPVAE(nn.Module):
    """Encoder and decoder with ReLU; state dict and initial weights are those of `sivae.models.MLPVAE`."""

    encoder: nn.Module
    decoder: nn.Module

    def __init__(self, data_dim: int = 2, z_dim: int = 2, hidden: int = 256, layers: int = 4) -> None:
        super().__init__()
        self.encoder = _network([data_dim, *[hidden] * layers, 2 * z_dim])
        self.decoder = _network([z_dim, *[hidden] * layers, data_dim])

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[B, data_dim] -> mu and logvar [B, z_dim]."""
        mu, logvar = self.encoder(x).chunk(2, dim=1)
        return mu, logvar

    def decode(self, z: Tensor) -> Tensor:
        """[B, z_dim] -> [B, data_dim]."""
        decoded: Tensor = self.decoder(z)
        return decoded


def _network(sizes: list[int]) -> nn.Sequential:
    modules: list[nn.Module] = []
    for fan_in, fan_out in itertools.pairwise(sizes):
        modules += [nn.Linear(fan_in, fan_out), nn.ReLU(inplace=True)]
    return nn.Sequential(*modules[:-1])
