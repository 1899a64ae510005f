"""The VAE losses in eager PyTorch. Arguments and results are those of the ops of the same name in `sivae.ops`."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from sivae.method.plain import exp_elbo, gaussian_kl, l1, mse, sample

__all__ = [
    "RECONSTRUCTION_ERRORS",
    "bce",
    "bce_with_logits",
    "exp_elbo",
    "gaussian_kl",
    "l1",
    "mse",
    "reparameterize",
    "reparameterize_kl",
]


def bce(recon: Tensor, target: Tensor) -> Tensor:
    """[B, ...] twice -> [B]."""
    return F.binary_cross_entropy(recon, target, reduction="none").flatten(1).sum(1)


def bce_with_logits(recon: Tensor, target: Tensor) -> Tensor:
    """[B, ...] twice -> [B]."""
    return F.binary_cross_entropy_with_logits(recon, target, reduction="none").flatten(1).sum(1)


RECONSTRUCTION_ERRORS = {"mse": mse, "l1": l1, "bce": bce, "bce_with_logits": bce_with_logits}


reparameterize = sample


def reparameterize_kl(mu: Tensor, logvar: Tensor) -> tuple[Tensor, Tensor]:
    """mu, logvar [B, ...] -> z [B, ...], kl [B]."""
    return reparameterize(mu, logvar), gaussian_kl(mu, logvar)
