"""Turn strided tensors into rows, columns and few strides, which the kernels use as indices."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from sivae.ops.triton.operands import check_operand

_INT32_LIMIT = 2**31 - 2**16  # less the columns of a last tile beyond the row


class Layout(NamedTuple):
    """The memory layout of one sample, for all tensors of a call.

    `sizes` are the dimensions of a sample, joined as far as all strides allow, the last the innermost; `strides` has,
    for each tensor, the stride of a row and then one for each of `sizes` (None for an absent tensor).
    """

    rows: int
    cols: int
    sizes: tuple[int, ...]
    strides: list[tuple[int, ...] | None]
    wide: bool  # offsets within a row need 64 bits


def share_layout(tensors: Sequence[Tensor | None], *, any_order: bool = False) -> Layout:
    """The layout that the present tensors (of one shape, [B, ...], dtype and device) share.

    Args:
        any_order: columns may be numbered in the first tensor's memory order instead of the logical one.
    """
    present = [tensor for tensor in tensors if tensor is not None]
    first = present[0]
    if first.dim() == 0:
        raise ValueError("sivae: operands have no dimensions, expected the batch first: [B, ...]")
    for tensor in present:
        check_operand("an operand", tensor, first, first.shape, first.dtype)
    rows, cols = first.shape[0], math.prod(first.shape[1:])
    if all(tensor.is_contiguous() for tensor in present):
        plain: list[tuple[int, ...] | None] = [None if tensor is None else (cols, 1) for tensor in tensors]
        return Layout(rows, cols, (cols,), plain, cols >= _INT32_LIMIT)

    dims = [d for d in range(1, first.dim()) if first.shape[d] != 1]
    if any_order:
        dims.sort(key=first.stride, reverse=True)
    sizes: list[int] = []
    inner: list[list[int]] = [[] for _ in present]
    for d in dims:
        size = first.shape[d]
        if sizes and all(s[-1] == t.stride(d) * size for s, t in zip(inner, present, strict=True)):
            sizes[-1] *= size
            for s, t in zip(inner, present, strict=True):
                s[-1] = t.stride(d)
        else:
            sizes.append(size)
            for s, t in zip(inner, present, strict=True):
                s.append(t.stride(d))
    if not sizes:  # samples of one element
        sizes = [1]
        inner = [[1] for _ in present]
    reach = max(sum((size - 1) * s for size, s in zip(sizes, strides, strict=True)) for strides in inner)
    by_tensor = iter([(t.stride(0), *s) for s, t in zip(inner, present, strict=True)])
    return Layout(
        rows,
        cols,
        tuple(sizes),
        [None if tensor is None else next(by_tensor) for tensor in tensors],
        max(reach, cols) >= _INT32_LIMIT,
    )


@triton.jit
def offsets_of(row, col, strides, sizes):
    """Memory offsets of elements: row [R, 1] int64, col [R or 1, C] -> [R, C]."""
    offset = row * strides[0]
    rest = col
    for d in tl.static_range(len(sizes) - 1, 0, -1):
        offset = offset + (rest % sizes[d]) * strides[d + 1]
        rest = rest // sizes[d]
    return offset + rest * strides[1]


@triton.jit
def first_col_of(split, span: tl.constexpr, WIDE: tl.constexpr):
    """The first column of a program, in 64 bits where offsets within a row need them."""
    if WIDE:
        split = split.to(tl.int64)
    return split * span
