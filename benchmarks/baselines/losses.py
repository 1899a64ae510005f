"""The VAE losses in eager PyTorch. Arguments and results are those of the ops of the same name in `sivae.ops`."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def mse(recon: Tensor, target: Tensor) -> Tensor:
    """[B, ...] twice -> [B]."""
    return F.mse_loss(recon, target, reduction="none").flatten(1).sum(1)


def l1(recon: Tensor, target: Tensor) -> Tensor:
    """[B, ...] twice -> [B]."""
    return F.l1_loss(recon, target, reduction="none").flatten(1).sum(1)


def bce(recon: Tensor, target: Tensor) -> Tensor:
    """[B, ...] twice -> [B]."""
    return F.binary_cross_entropy(recon, target, reduction="none").flatten(1).sum(1)


def bce_with_logits(recon: Tensor, target: Tensor) -> Tensor:
    """[B, ...] twice -> [B]."""
    return F.binary_cross_entropy_with_logits(recon, target, reduction="none").flatten(1).sum(1)


RECONSTRUCTION_ERRORS = {"mse": mse, "l1": l1, "bce": bce, "bce_with_logits": bce_with_logits}


def reparameterize(mu: Tensor, logvar: Tensor) -> Tensor:
    """mu, logvar [B, ...] -> z [B, ...], with fresh noise."""
    return mu + torch.randn_like(mu) * torch.exp(0.5 * logvar)


def gaussian_kl(mu: Tensor, logvar: Tensor) -> Tensor:
    """mu, logvar [B, ...] -> kl [B], from N(0, 1)."""
    return -0.5 * (1 + logvar - mu.pow(2) - logvar.exp()).flatten(1).sum(1)


def reparameterize_kl(mu: Tensor, logvar: Tensor) -> tuple[Tensor, Tensor]:
    """mu, logvar [B, ...] -> z [B, ...], kl [B]."""
    return reparameterize(mu, logvar), gaussian_kl(mu, logvar)


def exp_elbo(
    rec: Tensor, kl: Tensor, scale: float, beta_rec: float = 1.0, beta_kl: float = 1.0, alpha: float = 2.0
) -> Tensor:
    """rec, kl [B] -> the batch mean of exp(-alpha scale (beta_rec rec + beta_kl kl)) / alpha."""
    return torch.exp(-alpha * scale * (beta_rec * rec + beta_kl * kl)).mean() / alpha
