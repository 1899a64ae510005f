"""Networks. Every model is a pair `encoder`, `decoder` with `encode(x) -> (mu, logvar)` and `decode(z) -> x`."""

from sivae.models.base import VAEModel
from sivae.models.mlp import MLPVAE

__all__ = ["MLPVAE", "VAEModel"]
