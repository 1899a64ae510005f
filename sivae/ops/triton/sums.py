"""The second stage of a sum: partial sums added in a fixed order, without atomics."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from sivae.ops.library import REDUCTIONS, sum_dtype
from sivae.ops.triton import blocks
from sivae.ops.triton.blocks import Cut, cut
from sivae.ops.triton.launch import launch


@triton.jit
def store_sums(out, terms, pid, split, splits, first_row, rows, share, REDUCED: tl.constexpr, ROWS: tl.constexpr):
    """Store a program's sum of `terms` [ROWS, C]: a number for each row or, if REDUCED, a single one, times `share`."""
    by_row = tl.sum(terms, axis=1)  # [ROWS]
    if REDUCED:
        total = tl.sum(by_row.to(tl.float64), axis=0) * tl.sum(share)
        tl.store(out + pid, total.to(out.dtype.element_ty))
    else:
        row = first_row + tl.arange(0, ROWS)
        tl.store(out + row * splits + split, by_row, mask=row < rows)


@triton.jit(do_not_specialize=["groups", "count"])
def sum_kernel(out, partial, groups, count, ROWS: tl.constexpr, COLS: tl.constexpr):
    """partial [groups, count] -> out [groups], added in float64: each program ROWS groups."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)  # [ROWS]
    total = tl.zeros((ROWS, COLS), tl.float64)
    start = 0
    while start < count:  # not range: in Triton 3.6 the interpreter refuses a kernel argument in it
        col = start + tl.arange(0, COLS)
        mask = (row < groups)[:, None] & (col < count)[None, :]
        total += tl.load(partial + row[:, None] * count + col[None, :], mask=mask, other=0.0).to(tl.float64)
        start += COLS
    tl.store(out + row, tl.sum(total, axis=1).to(out.dtype.element_ty), mask=row < groups)


class Sums:
    """Memory for the sums of a forward kernel, and the second stage that adds them.

    With a reduction over the batch each program writes one number, already divided for a mean; else one for each row.
    """

    def __init__(self, like: Tensor, rows: int, reduction: int) -> None:
        self.reduced = REDUCTIONS[reduction] != "none"
        self.share = 1.0 / rows if REDUCTIONS[reduction] == "mean" and rows > 0 else 1.0
        self._empty_mean = REDUCTIONS[reduction] == "mean" and rows == 0
        self._rows = rows
        self._options: dict[str, Any] = {"dtype": sum_dtype(like.dtype), "device": like.device}
        self._partial: Tensor | None = None

    def partial(self, plan: Cut) -> Tensor:
        """[programs], or [rows, splits]."""
        shape = (plan.programs,) if self.reduced else (self._rows, plan.splits)
        self._partial = torch.empty(shape, **self._options)
        return self._partial

    def finish(self) -> Tensor:
        """[rows], or a scalar."""
        shape = () if self.reduced else (self._rows,)
        partial = self._partial
        if partial is None:  # nothing to add
            return torch.full(shape, float("nan") if self._empty_mean else 0.0, **self._options)
        groups = 1 if self.reduced else self._rows
        count = partial.numel() // groups
        if count == 1:
            return partial.view(shape)
        out = torch.empty(shape, **self._options)
        plan = cut(blocks.SUMS, groups, count)
        programs = triton.cdiv(groups, plan.tile_rows)
        launch(
            sum_kernel, programs, out, partial, groups, count,
            ROWS=plan.tile_rows, COLS=plan.tile_cols, num_warps=plan.warps,
        )  # fmt: skip
        return out
