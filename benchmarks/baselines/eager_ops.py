"""The ops in eager PyTorch, with the arguments and results of the ops of the same name in `sivae.ops`."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from sivae.method.plain import exp_elbo, gaussian_kl, mse
from sivae.method.plain import sample as reparameterize

__all__ = [
    "batch_norm_leaky_relu",
    "exp_elbo",
    "gaussian_kl",
    "mse",
    "reparameterize",
    "reparameterize_kl",
    "styled_instance_norm",
]


def reparameterize_kl(mu: Tensor, logvar: Tensor) -> tuple[Tensor, Tensor]:
    """mu, logvar [B, ...] -> z [B, ...], kl [B]."""
    return reparameterize(mu, logvar), gaussian_kl(mu, logvar)


def styled_instance_norm(
    x: Tensor, noise: Tensor, noise_weight: Tensor, bias: Tensor, scale: Tensor, shift: Tensor
) -> Tensor:
    """x [B, C, H, W], noise [B, 1, H, W], noise_weight and bias [C], scale and shift [B, C] -> [B, C, H, W]."""
    u = F.leaky_relu(x + noise * noise_weight[:, None, None] + bias[:, None, None], 0.2)
    return F.instance_norm(u, eps=1e-8) * (1 + scale[:, :, None, None]) + shift[:, :, None, None]


def batch_norm_leaky_relu(x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor) -> Tensor:
    """x and residual [B, C, H, W], weight and bias [C] -> [B, C, H, W]."""
    return F.leaky_relu(F.batch_norm(x, None, None, weight, bias, training=True) + residual, 0.2)
