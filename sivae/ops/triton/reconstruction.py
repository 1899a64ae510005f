"""The reconstruction error: one kernel forward, one backward. The formulas are those of csrc/reconstruction.h."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from sivae.ops.library import KINDS, REDUCTIONS
from sivae.ops.triton import blocks
from sivae.ops.triton.blocks import cut
from sivae.ops.triton.launch import launch
from sivae.ops.triton.layout import first_col_of, offsets_of, share_layout
from sivae.ops.triton.operands import check_row_gradient
from sivae.ops.triton.scalar_math import compute_type, divide, exp, log, log1p, log1p_of_unit, narrow, scalar, widen
from sivae.ops.triton.sums import Sums, store_sums

MSE = tl.constexpr(KINDS.index("mse"))
L1 = tl.constexpr(KINDS.index("l1"))
BCE = tl.constexpr(KINDS.index("bce"))
BCE_WITH_LOGITS = tl.constexpr(KINDS.index("bce_with_logits"))


@triton.jit
def floored(log_value):
    """max(x, -100), as in torch's BCE; NaN stays NaN."""
    return tl.where(log_value < -100.0, -100.0, log_value)


@triton.jit
def rec_term(r, t, KIND: tl.constexpr):
    if KIND == MSE:
        term = (r - t) * (r - t)
    elif KIND == L1:
        term = tl.abs(r - t)
    elif KIND == BCE:
        term = -(t * floored(log(r)) + (1.0 - t) * floored(log1p(-r)))
    else:
        # max(r, 0) - r t without cancellation.
        term = r * tl.where(r >= 0.0, 1.0 - t, -t) + log1p_of_unit(exp(-tl.abs(r)))
    return term


@triton.jit
def rec_grad_recon(r, t, KIND: tl.constexpr):
    if KIND == MSE:
        grad = 2.0 * (r - t)
    elif KIND == L1:
        difference = r - t
        grad = tl.where(difference > 0.0, 1.0, tl.where(difference < 0.0, -1.0, difference))  # 0 and NaN stay
    elif KIND == BCE:
        variance = r * (1.0 - r)
        grad = divide(r - t, tl.where(variance < 1e-12, 1e-12, variance))
    else:
        e = exp(-tl.abs(r))
        grad = divide(tl.where(r >= 0.0, 1.0, e), 1.0 + e) - t
    return grad


@triton.jit
def rec_grad_target(r, t, KIND: tl.constexpr):
    if KIND == BCE:
        grad = floored(log1p(-r)) - floored(log(r))
    elif KIND == BCE_WITH_LOGITS:
        grad = -r
    else:
        grad = -rec_grad_recon(r, t, KIND)
    return grad


@triton.jit(do_not_specialize=["rows", "splits"])
def reconstruction_forward_kernel(
    recon, target, out,
    recon_strides, target_strides, sizes,
    rows, cols, splits, share: tl.float64,
    KIND: tl.constexpr, DTYPE: tl.constexpr, REDUCED: tl.constexpr, WIDE: tl.constexpr,
    ROWS: tl.constexpr, COLS: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    pid = tl.program_id(0)
    split = pid % splits
    first_row = (pid // splits).to(tl.int64) * ROWS
    row = first_row + tl.arange(0, ROWS)[:, None]  # [ROWS, 1]
    total = tl.zeros((ROWS, COLS), DTYPE)
    for step in range(STEPS):  # rolled: unrolled, the loads of all steps would not fit the registers
        col = first_col_of(split, STEPS * COLS, WIDE) + step * COLS + tl.arange(0, COLS)[None, :]  # [1, COLS]
        mask = (row < rows) & (col < cols)
        r = widen(tl.load(recon + offsets_of(row, col, recon_strides, sizes), mask=mask, other=0.0))
        t = widen(tl.load(target + offsets_of(row, col, target_strides, sizes), mask=mask, other=0.0))
        total += tl.where(mask, rec_term(r, t, KIND), 0.0)
    store_sums(out, total, pid, split, splits, first_row, rows, scalar(share, tl.float64), REDUCED, ROWS)


@triton.jit(do_not_specialize=["rows", "splits"])
def reconstruction_backward_kernel(
    grad, recon, target, grad_recon, grad_target,  # the last two: None where not needed
    recon_strides, target_strides, grad_recon_strides, grad_target_strides, sizes, grad_stride,
    rows, cols, splits, share: tl.float64,
    KIND: tl.constexpr, WIDE: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    pid = tl.program_id(0)
    row = (pid // splits).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]  # [ROWS, 1]
    col = first_col_of(pid % splits, COLS, WIDE) + tl.arange(0, COLS)[None, :]  # [1, COLS]
    mask = (row < rows) & (col < cols)
    r = widen(tl.load(recon + offsets_of(row, col, recon_strides, sizes), mask=mask, other=0.0))
    t = widen(tl.load(target + offsets_of(row, col, target_strides, sizes), mask=mask, other=0.0))
    weight = tl.load(grad + row * grad_stride, mask=row < rows, other=0.0).to(tl.float64)
    weight = (weight * scalar(share, tl.float64)).to(r.dtype)  # [ROWS, 1]
    if grad_recon is not None:
        place = grad_recon + offsets_of(row, col, grad_recon_strides, sizes)
        tl.store(place, narrow(weight * rec_grad_recon(r, t, KIND), grad_recon.dtype.element_ty), mask=mask)
    if grad_target is not None:
        place = grad_target + offsets_of(row, col, grad_target_strides, sizes)
        tl.store(place, narrow(weight * rec_grad_target(r, t, KIND), grad_target.dtype.element_ty), mask=mask)


def reconstruction_error(recon: Tensor, target: Tensor, kind: int, reduction: int) -> Tensor:
    layout = share_layout([recon, target], any_order=True)
    sums = Sums(recon, layout.rows, reduction)
    if recon.numel() > 0:
        plan = cut(blocks.RECONSTRUCTION_FORWARD, layout.rows, layout.cols, whole=sums.reduced)
        launch(
            reconstruction_forward_kernel, plan.programs,
            recon, target, sums.partial(plan), *layout.strides, layout.sizes,
            layout.rows, layout.cols, plan.splits, sums.share,
            KIND=kind, DTYPE=compute_type(recon.dtype), REDUCED=sums.reduced, WIDE=layout.wide,
            ROWS=plan.tile_rows, COLS=plan.tile_cols, STEPS=plan.steps, num_warps=plan.warps,
        )  # fmt: skip
    return sums.finish()


def reconstruction_error_backward(
    grad: Tensor, recon: Tensor, target: Tensor, kind: int, reduction: int, need_recon: bool, need_target: bool
) -> tuple[Tensor, Tensor]:
    check_row_gradient(grad, recon, reduction)
    grad_recon = torch.empty_like(recon) if need_recon else recon.new_empty((0,))
    grad_target = torch.empty_like(target) if need_target else target.new_empty((0,))
    if recon.numel() > 0 and (need_recon or need_target):
        written = [grad_recon if need_recon else None, grad_target if need_target else None]
        layout = share_layout([recon, target, *written], any_order=True)
        plan = cut(blocks.RECONSTRUCTION_BACKWARD, layout.rows, layout.cols)
        launch(
            reconstruction_backward_kernel, plan.programs,
            grad, recon, target, *written, *layout.strides, layout.sizes,
            grad.stride(0) if REDUCTIONS[reduction] == "none" else 0,
            layout.rows, layout.cols, plan.splits, 1.0 / layout.rows if REDUCTIONS[reduction] == "mean" else 1.0,
            KIND=kind, WIDE=layout.wide, ROWS=plan.tile_rows, COLS=plan.tile_cols, num_warps=plan.warps,
        )  # fmt: skip
    return grad_recon, grad_target
