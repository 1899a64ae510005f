"""The soft exponential of the ELBO."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sivae.ops.library import sum_dtype
from sivae.ops.reference.reduce import reduce_batch

LINEAR_ABOVE = 32.0  # the exponent from which the exponential goes on as its tangent


def exp_elbo(
    rec: Tensor, kl: Tensor, scale: float, beta_rec: float, beta_kl: float, alpha: float, reduction: int
) -> Tensor:
    dtype = sum_dtype(rec.dtype)
    t = (-alpha * scale * beta_rec) * rec.to(dtype) + (-alpha * scale * beta_kl) * kl.to(dtype)  # [B]
    tangent = math.exp(LINEAR_ABOVE) * (1.0 + (t - LINEAR_ABOVE))
    values = torch.where(t > LINEAR_ABOVE, tangent, torch.exp(t.clamp(max=LINEAR_ABOVE))) / alpha
    return reduce_batch(values, reduction)
