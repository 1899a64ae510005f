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

    generate_vmap_rule = True

    @staticmethod
    def forward(r, t):
        return -(t * r.log().clamp(min=_LOG_FLOOR) + (1.0 - t) * (-r).log1p().clamp(min=_LOG_FLOOR))

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx, grad):
        by_r, by_t = ctx.needs_input_grad
        r, t = ctx.saved_tensors
        return _times_slope_by_r(grad, r, t) if by_r else None, _times_slope_by_t(grad, r) if by_t else None

    @staticmethod
    def jvp(ctx, tangent_r, tangent_t):
        r, t = ctx.saved_tensors
        along_r = None if tangent_r is None else _times_slope_by_r(tangent_r, r, t)
        along_t = None if tangent_t is None else _times_slope_by_t(tangent_t, r)
        return along_r if along_t is None else along_t if along_r is None else along_r + along_t


def _times_slope_by_r(factor: Tensor, r: Tensor, t: Tensor) -> Tensor:
    return factor * (r - t) / (r * (1.0 - r)).clamp(min=_VARIANCE_FLOOR)


def _times_slope_by_t(factor: Tensor, r: Tensor) -> Tensor:
    return factor * ((-r).log1p().clamp(min=_LOG_FLOOR) - r.log().clamp(min=_LOG_FLOOR))


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
