"""What training, evaluation and the command line ask of a model."""

from __future__ import annotations

from torch import Tensor, nn


class VAEModel(nn.Module):
    """An encoder and a decoder over a Gaussian latent of `z_dim` values.

    Attributes:
        encoder: x [B, ...] -> mu and logvar side by side, [B, 2 z_dim].
        decoder: z [B, z_dim] -> x [B, ...].
        z_dim: latent values per sample.
        mixes_samples: whether a sample's output depends on the batch around it (batch norm). The introspective steps
            run batches that meet the same weights together and so refuse such a model.
    """

    encoder: nn.Module
    decoder: nn.Module
    z_dim: int
    mixes_samples: bool = False

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """mu and logvar of q(z|x), each [B, z_dim]: views of one tensor."""
        mu, logvar = self.encoder(x).chunk(2, dim=1)
        return mu, logvar

    def decode(self, z: Tensor) -> Tensor:
        """The mean of p(x|z)."""
        decoded: Tensor = self.decoder(z)
        return decoded

    def forward(self, x: Tensor) -> Tensor:
        """Reconstruct x through the posterior mean."""
        return self.decode(self.encode(x)[0])
