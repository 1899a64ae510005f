"""The reconstruction error of each sample."""

from __future__ import annotations

import torch
from torch import Tensor

from sivae.ops.library import KINDS, sum_dtype
from sivae.ops.reference.reduce import reduce_batch, sum_per_sample

_LOG_FLOOR = -100.0
_VARIANCE_FLOOR = 1e-12  # of r (1 - r) in the gradient, as in torch


class _BinaryCrossEntropy(torch.autograd.Function):
    """Elementwise BCE with torch's floors. Plain logs and clamps would give the gradient 0 * inf at r = 0 and 1."""

    @staticmethod
    def forward(ctx, r, t):
        ctx.save_for_backward(r, t)
        return -(t * r.log().clamp(min=_LOG_FLOOR) + (1.0 - t) * (-r).log1p().clamp(min=_LOG_FLOOR))

    @staticmethod
    def backward(ctx, grad):
        r, t = ctx.saved_tensors
        grad_r = grad_t = None
        if ctx.needs_input_grad[0]:
            grad_r = grad * (r - t) / (r * (1.0 - r)).clamp(min=_VARIANCE_FLOOR)
        if ctx.needs_input_grad[1]:
            grad_t = grad * ((-r).log1p().clamp(min=_LOG_FLOOR) - r.log().clamp(min=_LOG_FLOOR))
        return grad_r, grad_t


def reconstruction_error(recon: Tensor, target: Tensor, kind: int, reduction: int) -> Tensor:
    dtype = sum_dtype(recon.dtype)
    r, t = recon.to(dtype), target.to(dtype)
    name = KINDS[kind]
    if name == "mse":
        terms = (r - t) * (r - t)
    elif name == "l1":
        difference = r - t
        # abs() has derivative 0 at a NaN, which would hide it.
        terms = difference * torch.where(difference.isnan(), difference, difference.sign()).detach()
    elif name == "bce":
        terms = _BinaryCrossEntropy.apply(r, t)
    else:
        # max(r, 0) - r t without cancellation, and with the derivative 1/2 - t at r = 0.
        positive = r >= 0.0
        terms = r * torch.where(positive, 1.0 - t, -t) + torch.where(positive, -r, r).exp().log1p()
    return reduce_batch(sum_per_sample(terms), reduction)
