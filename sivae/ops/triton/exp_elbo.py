"""The soft exponential of the ELBO over [B]: one launch forward, one backward. Formulas: csrc/exp_elbo.h."""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from sivae.ops.library import REDUCTIONS, sum_dtype
from sivae.ops.reference.exp_elbo import LINEAR_ABOVE
from sivae.ops.triton import blocks
from sivae.ops.triton.blocks import power_of_two_from
from sivae.ops.triton.launch import launch
from sivae.ops.triton.operands import check_operand, check_row_gradient
from sivae.ops.triton.scalar_math import compute_type, exp, narrow, scalar, widen

LINEAR = tl.constexpr(LINEAR_ABOVE)
EXP_LINEAR = tl.constexpr(math.exp(LINEAR_ABOVE))


@triton.jit
def exponent_of(rec, kl, index, rec_stride, kl_stride, weight_rec, weight_kl, mask):
    """t in float64 for every dtype: the exponential turns an absolute error of it into a relative one of the result."""
    r = widen(tl.load(rec + index * rec_stride, mask=mask, other=0.0)).to(tl.float64)
    k = widen(tl.load(kl + index * kl_stride, mask=mask, other=0.0)).to(tl.float64)
    return scalar(weight_rec, tl.float64) * r + scalar(weight_kl, tl.float64) * k


@triton.jit
def exp_of_exponent(t, dtype: tl.constexpr):
    """exp(t) for t <= LINEAR in `dtype`, from the two halves of a float64 t: exp(high) (1 + low)."""
    held = tl.where(t < -1000.0, -1000.0, t)  # an infinite t has no low half; below -1000 the result is 0
    high = held.to(dtype)
    low = (held - high.to(tl.float64)).to(dtype)
    value = exp(high)
    return value + value * low


@triton.jit
def soft_exp(t, inv_alpha, dtype: tl.constexpr):
    linear = t > LINEAR
    tangent = ((1.0 + (t - LINEAR)) * EXP_LINEAR).to(dtype)  # the tensor first: the interpreter's constexpr needs it
    return tl.where(linear, tangent, exp_of_exponent(tl.where(linear, LINEAR, t), dtype)) * scalar(inv_alpha, dtype)


@triton.jit(do_not_specialize=["batch"])
def exp_elbo_forward_kernel(
    rec, kl, out, rec_stride, kl_stride, batch: tl.int64,
    weight_rec: tl.float64, weight_kl: tl.float64, inv_alpha: tl.float64, share: tl.float64,
    REDUCED: tl.constexpr, DTYPE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """REDUCED: one program sums [B] and writes the sum times `share`; else each program writes a block of [B]."""
    lane = tl.arange(0, BLOCK)[None, :].to(tl.int64)  # [1, BLOCK]
    if REDUCED:
        total = tl.zeros((1, BLOCK), tl.float64)
        start = tl.program_id(0).to(tl.int64)  # 0
        while start < batch:
            index = start + lane
            mask = index < batch
            t = exponent_of(rec, kl, index, rec_stride, kl_stride, weight_rec, weight_kl, mask)
            total += tl.where(mask, soft_exp(t, inv_alpha, DTYPE).to(tl.float64), 0.0)
            start += BLOCK
        result = tl.sum(total, axis=1) * tl.sum(scalar(share, tl.float64), axis=1)  # [1]
        tl.store(out + tl.arange(0, 1), result.to(DTYPE))
    else:
        index = tl.program_id(0).to(tl.int64) * BLOCK + lane
        mask = index < batch
        t = exponent_of(rec, kl, index, rec_stride, kl_stride, weight_rec, weight_kl, mask)
        tl.store(out + index, soft_exp(t, inv_alpha, DTYPE), mask=mask)


@triton.jit(do_not_specialize=["batch"])
def exp_elbo_backward_kernel(
    grad, rec, kl, grad_rec, grad_kl,  # the last two: None where not needed
    grad_stride, rec_stride, kl_stride, grad_rec_stride, grad_kl_stride, batch: tl.int64,
    weight_rec: tl.float64, weight_kl: tl.float64, inv_alpha: tl.float64, share: tl.float64,
    DTYPE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)[None, :]  # [1, BLOCK]
    mask = index < batch
    t = exponent_of(rec, kl, index, rec_stride, kl_stride, weight_rec, weight_kl, mask)
    slope = exp_of_exponent(tl.where(t > LINEAR, LINEAR, t), DTYPE) * scalar(inv_alpha, DTYPE)
    upstream = tl.load(grad + index * grad_stride, mask=mask, other=0.0).to(tl.float64) * scalar(share, tl.float64)
    by_t = upstream * slope.to(tl.float64)
    if grad_rec is not None:
        by_rec = (by_t * scalar(weight_rec, tl.float64)).to(DTYPE)
        tl.store(grad_rec + index * grad_rec_stride, narrow(by_rec, grad_rec.dtype.element_ty), mask=mask)
    if grad_kl is not None:
        by_kl = (by_t * scalar(weight_kl, tl.float64)).to(DTYPE)
        tl.store(grad_kl + index * grad_kl_stride, narrow(by_kl, grad_kl.dtype.element_ty), mask=mask)


def _weights(scale: float, beta_rec: float, beta_kl: float, alpha: float) -> tuple[float, float, float]:
    """dt/drec, dt/dkl and 1/alpha."""
    return -alpha * scale * beta_rec, -alpha * scale * beta_kl, 1.0 / alpha


def _check_pair(rec: Tensor, kl: Tensor) -> None:
    if rec.dim() != 1:
        raise ValueError(f"sivae: rec has shape {list(rec.shape)}, expected [B]")
    check_operand("kl", kl, rec, rec.shape, rec.dtype)


def _block(batch: int) -> tuple[int, int]:
    """Elements of a block, and warps."""
    block = min(power_of_two_from(batch), blocks.EXP_ELBO.elements)
    return block, min(blocks.EXP_ELBO.warps, max(block // 32, 1))


def exp_elbo(
    rec: Tensor, kl: Tensor, scale: float, beta_rec: float, beta_kl: float, alpha: float, reduction: int
) -> Tensor:
    _check_pair(rec, kl)
    batch, name = rec.shape[0], REDUCTIONS[reduction]
    reduced = name != "none"
    options: dict[str, Any] = {"dtype": sum_dtype(rec.dtype), "device": rec.device}
    if batch == 0:
        return torch.full(() if reduced else (0,), float("nan") if name == "mean" else 0.0, **options)
    out = torch.empty(() if reduced else (batch,), **options)
    block, warps = _block(batch)
    launch(
        exp_elbo_forward_kernel, 1 if reduced else triton.cdiv(batch, block),
        rec, kl, out, rec.stride(0), kl.stride(0), batch,
        *_weights(scale, beta_rec, beta_kl, alpha), 1.0 / batch if name == "mean" else 1.0,
        REDUCED=reduced, DTYPE=compute_type(rec.dtype), BLOCK=block, num_warps=warps,
    )  # fmt: skip
    return out


def exp_elbo_backward(
    grad: Tensor,
    rec: Tensor,
    kl: Tensor,
    scale: float,
    beta_rec: float,
    beta_kl: float,
    alpha: float,
    reduction: int,
    need_rec: bool,
    need_kl: bool,
) -> tuple[Tensor, Tensor]:
    _check_pair(rec, kl)
    check_row_gradient(grad, rec, reduction)
    batch, name = rec.shape[0], REDUCTIONS[reduction]
    grad_rec = torch.empty_like(rec) if need_rec else rec.new_empty((0,))
    grad_kl = torch.empty_like(kl) if need_kl else kl.new_empty((0,))
    if batch > 0 and (need_rec or need_kl):
        block, warps = _block(batch)
        launch(
            exp_elbo_backward_kernel, triton.cdiv(batch, block),
            grad, rec, kl, grad_rec if need_rec else None, grad_kl if need_kl else None,
            grad.stride(0) if name == "none" else 0, rec.stride(0), kl.stride(0),
            grad_rec.stride(0), grad_kl.stride(0), batch,
            *_weights(scale, beta_rec, beta_kl, alpha), 1.0 / batch if name == "mean" else 1.0,
            DTYPE=compute_type(rec.dtype), BLOCK=block, num_warps=warps,
        )  # fmt: skip
    return grad_rec, grad_kl
