"""Sampling and KL of a Gaussian posterior."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sivae.ops.library import sum_dtype
from sivae.ops.reference.philox import philox_normal
from sivae.ops.reference.reduce import reduce_batch, sum_per_sample

_SERIES_TERMS = 20  # of expm1(x) - x on |x| <= 1; the next term is below 1e-19 of the sum


def expm1_minus_x(x: Tensor) -> Tensor:
    """exp(x) - 1 - x with full relative accuracy: by its Taylor series on |x| <= 1, where the plain form cancels."""
    near = x.clamp(-1.0, 1.0)
    series = torch.ones_like(near)
    for k in range(_SERIES_TERMS, 2, -1):
        series = 1.0 + series * near * (1.0 / k)
    return torch.where(x.abs() <= 1.0, 0.5 * near * near * series, torch.expm1(x) - x)


def _sample(mu: Tensor, logvar: Tensor, noise: Tensor, offset: int) -> Tensor:
    if noise.dtype == torch.int64:
        noise = philox_normal(noise, offset, mu.shape, mu.dtype)
    return mu + torch.exp(0.5 * logvar) * noise.to(mu.dtype)


def _kl(mu: Tensor, logvar: Tensor, prior_mu: float, prior_logvar: float) -> Tensor:
    scaled = (mu - prior_mu) * math.exp(-0.5 * prior_logvar)
    return sum_per_sample(0.5 * (expm1_minus_x(logvar - prior_logvar) + scaled * scaled))


def reparameterize(mu: Tensor, logvar: Tensor, noise: Tensor, offset: int) -> Tensor:
    dtype = sum_dtype(mu.dtype)
    return _sample(mu.to(dtype), logvar.to(dtype), noise, offset).to(mu.dtype)


def gaussian_kl(mu: Tensor, logvar: Tensor, prior_mu: float, prior_logvar: float, reduction: int) -> Tensor:
    dtype = sum_dtype(mu.dtype)
    return reduce_batch(_kl(mu.to(dtype), logvar.to(dtype), prior_mu, prior_logvar), reduction)


def reparameterize_kl(
    mu: Tensor, logvar: Tensor, noise: Tensor, offset: int, prior_mu: float, prior_logvar: float
) -> tuple[Tensor, Tensor]:
    dtype, out_dtype = sum_dtype(mu.dtype), mu.dtype
    mu, logvar = mu.to(dtype), logvar.to(dtype)  # once, so that the two gradients are added before they are rounded
    return _sample(mu, logvar, noise, offset).to(out_dtype), _kl(mu, logvar, prior_mu, prior_logvar)
