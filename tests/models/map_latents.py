"""Two models with the same networks, whose latents are maps in one and rows in the other."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sivae.models import VAEModel


class MapVAE(VAEModel):
    """Convolutions over images of 4 x 4, with latents [B, 2, 2, 2]."""

    name = "maps"
    sample_shape = (1, 4, 4)
    value_range = (0.0, 1.0)
    z_dim = 8

    def __init__(self, prior: Any = "standard", prior_std: float = 1.0) -> None:
        super().__init__()
        self.hyperparameters = {}
        self._set_prior_std(prior_std)
        self.encoder = nn.Conv2d(1, 4, 2, stride=2)
        self.decoder = nn.ConvTranspose2d(2, 1, 2, stride=2)
        self._set_prior(prior, 3)

    @property
    def latent_shape(self) -> tuple[int, ...]:
        return (2, 2, 2)


class RowVAE(MapVAE):
    """The same with latents [B, 8]."""

    @property
    def latent_shape(self) -> tuple[int, ...]:
        return (8,)

    def encode(self, x: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        mu, logvar = super().encode(x, condition)
        return mu.flatten(1), logvar.flatten(1)

    def decode(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        return super().decode(z.unflatten(1, (2, 2, 2)), condition)


def map_and_row(prior: str = "standard", prior_std: float = 1.0) -> tuple[MapVAE, RowVAE]:
    """Return the two models in float64, with equal parameters."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        maps, rows = MapVAE(prior, prior_std), RowVAE(prior, prior_std)
    rows.load_state_dict(maps.state_dict())
    return maps.double(), rows.double()
