"""The log density of a mixture of diagonal Gaussians."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sivae.ops.library import sum_dtype

_LARGEST_EXPONENT = {torch.float32: 88.0, torch.float64: 709.0}


def mixture_log_prob(z: Tensor, weights: Tensor, mu: Tensor, logvar: Tensor) -> tuple[Tensor, Tensor]:
    """Also the log density [N, K] of each component. This holds a tensor [N, K, L]; the other backends do not."""
    dtype = sum_dtype(z.dtype)
    z, weights, mu, logvar = (tensor.to(dtype) for tensor in (z, weights, mu, logvar))
    scaled = (z[:, None] - mu) * torch.exp(-0.5 * logvar)
    peaks = logvar.sum(1) + z.shape[1] * math.log(2.0 * math.pi)
    densities = -0.5 * ((scaled * scaled).sum(2) + peaks)
    if densities.shape[1] == 0:
        nothing = z[:, :0].sum(1) + weights.sum() + mu.sum() + logvar.sum()  # 0, with gradients
        return nothing - math.inf, densities.detach()
    # A weight that counts as 0 still has a gradient.
    counted = torch.where(weights.abs() < torch.finfo(dtype).tiny, weights - weights.detach(), weights)
    most = (densities + torch.log(counted)).detach().amax(1, keepdim=True)
    shift = torch.where(most == -math.inf, 0.0, most)
    exponents, limit = densities - shift, _LARGEST_EXPONENT[dtype]
    total = (counted * torch.exp(torch.where(exponents > limit, limit, exponents))).sum(1)
    nowhere = most[:, 0] == -math.inf
    log_prob = shift[:, 0] + torch.log(torch.where(nowhere, 1.0, total))
    return torch.where(nowhere, -math.inf, log_prob), densities.detach()
