"""The soft exponential of the ELBO."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sivae.ops.library import sum_dtype
from sivae.ops.reference.reduce import reduce_batch

LINEAR_ABOVE = 32.0  # above this exponent the exponential continues as its tangent


def exp_elbo(
    rec: Tensor, kl: Tensor, scale: float, beta_rec: float, beta_kl: float, alpha: float, reduction: int
) -> Tensor:
    # In float64 for every dtype: the exponential turns an absolute error of t into a relative one of the result.
    t = (-alpha * scale * beta_rec) * rec.double() + (-alpha * scale * beta_kl) * kl.double()  # [B]
    linear = t > LINEAR_ABOVE
    tangent = math.exp(LINEAR_ABOVE) * (1.0 + (t - LINEAR_ABOVE))
    values = torch.where(linear, tangent, torch.exp(torch.where(linear, LINEAR_ABOVE, t))) / alpha
    return reduce_batch(values, reduction).to(sum_dtype(rec.dtype))
