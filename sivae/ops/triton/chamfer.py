"""The Chamfer distance: a launch for each direction, forward and backward. Formulas: csrc/chamfer.h."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from sivae.ops.library import REDUCTIONS, sum_dtype
from sivae.ops.reference.chamfer import NO_POINT
from sivae.ops.triton import blocks
from sivae.ops.triton.blocks import Cut, power_of_two_from
from sivae.ops.triton.launch import launch
from sivae.ops.triton.operands import FLOATING, check_operand, check_row_gradient
from sivae.ops.triton.scalar_math import compute_type, narrow, scalar, widen
from sivae.ops.triton.sums import Sums


@triton.jit
def coordinates(cloud, strides, sample, point, d: tl.constexpr, mask):
    """Coordinate d of some points."""
    return widen(tl.load(cloud + sample * strides[0] + point * strides[1] + d * strides[2], mask=mask, other=0.0))


@triton.jit
def chamfer_forward_kernel(
    points, others, nearest, sums, point_strides, other_strides, count, other_count, splits, all_splits,
    share: tl.float64, DIMS: tl.constexpr, DTYPE: tl.constexpr, POINTS: tl.constexpr, OTHERS: tl.constexpr,
):  # fmt: skip
    """The nearest other point of POINTS points, and the sum of their squared distances times `share`."""
    pid = tl.program_id(0).to(tl.int64)
    sample = pid // splits
    split = pid % splits
    i = split * POINTS + tl.arange(0, POINTS)[:, None]  # [POINTS, 1]
    inside = i < count
    best = tl.full((POINTS, 1), float("inf"), DTYPE)
    index = tl.zeros((POINTS, 1), tl.int32)
    start = 0
    while start < other_count:
        j = start + tl.arange(0, OTHERS)[None, :]  # [1, OTHERS]
        present = j < other_count
        distance = tl.zeros((POINTS, OTHERS), DTYPE)
        for d in tl.static_range(DIMS):
            difference = coordinates(points, point_strides, sample, i, d, inside) - coordinates(
                others, other_strides, sample, j, d, present
            )
            distance += difference * difference
        # No distance is below 0, so -1 stands for NaN, which is the nearest.
        distance = tl.where(distance == distance, distance, -1.0)
        distance = tl.where(present, distance, float("inf"))
        least = tl.min(distance, axis=1)[:, None]  # [POINTS, 1]
        first = tl.min(tl.where((distance == least) & present, j, 2147483647), axis=1)[:, None]
        nearer = least < best
        best = tl.where(nearer, least, best)
        index = tl.where(nearer, first, index)
        start += OTHERS
    tl.store(nearest + sample * count + i, index, mask=inside)
    best = tl.where(best < 0.0, float("nan"), best)
    total = tl.sum(tl.where(inside, best, 0.0).to(tl.float64), axis=0)[:, None] * scalar(share, tl.float64)  # [1, 1]
    tl.store(sums + sample * all_splits + split + tl.zeros((1, 1), tl.int32), total.to(sums.dtype.element_ty))


@triton.jit
def chamfer_backward_kernel(
    grad, points, others, nearest, other_nearest, grad_points,
    grad_stride, point_strides, other_strides, grad_strides, count, other_count, splits,
    share: tl.float64, DIMS: tl.constexpr, DTYPE: tl.constexpr, POINTS: tl.constexpr, OTHERS: tl.constexpr,
):  # fmt: skip
    """The gradient of POINTS points: of the distance to their nearest ones, and of those that others have to them."""
    pid = tl.program_id(0).to(tl.int64)
    sample = pid // splits
    i = (pid % splits) * POINTS + tl.arange(0, POINTS)[:, None]  # [POINTS, 1]
    inside = i < count
    factor = tl.load(grad + sample * grad_stride).to(tl.float64) * scalar(share, tl.float64) * 2.0  # [1, 1]
    chosen = tl.load(nearest + sample * count + i, mask=inside, other=-1)
    known = inside & (chosen >= 0) & (chosen < other_count)
    for d in tl.static_range(DIMS):
        own = coordinates(points, point_strides, sample, i, d, inside)  # [POINTS, 1]
        to = coordinates(others, other_strides, sample, chosen, d, known)
        total = tl.where(known, own - to, 0.0).to(tl.float64)
        start = 0
        while start < other_count:
            j = start + tl.arange(0, OTHERS)[None, :]  # [1, OTHERS]
            present = j < other_count
            chose = tl.load(other_nearest + sample * other_count + j, mask=present, other=-1)
            difference = own - coordinates(others, other_strides, sample, j, d, present)
            terms = tl.where(chose == i, difference, 0.0)
            total += tl.sum(terms, axis=1)[:, None].to(tl.float64)
            start += OTHERS
        place = grad_points + sample * grad_strides[0] + i * grad_strides[1] + d * grad_strides[2]
        tl.store(place, narrow((total * factor).to(DTYPE), grad_points.dtype.element_ty), mask=inside)


def _check(points: Tensor, targets: Tensor) -> None:
    if points.dim() != 3 or targets.dim() != 3 or points.shape[2] == 0:
        raise ValueError(
            f"sivae: points and targets have shapes {list(points.shape)} and {list(targets.shape)}, expected "
            "[B, N, D] and [B, M, D]"
        )
    check_operand("points", points, points, points.shape, *FLOATING)
    batch, _, dims = points.shape
    check_operand("targets", targets, points, (batch, targets.shape[1], dims), points.dtype)


def _tile(count: int, other_count: int) -> tuple[int, int]:
    """Points and others of a tile."""
    limit = blocks.CHAMFER.elements
    others = min(power_of_two_from(other_count), limit // min(power_of_two_from(count), blocks.CHAMFER_POINTS))
    return min(power_of_two_from(count), blocks.CHAMFER_POINTS), others


def chamfer_distance(points: Tensor, targets: Tensor, reduction: int) -> tuple[Tensor, Tensor, Tensor]:
    _check(points, targets)
    batch, count, dims = points.shape
    others = targets.shape[1]
    options: dict[str, Any] = {"dtype": torch.int32, "device": points.device}
    nearest_target, nearest_point = torch.empty((batch, count), **options), torch.empty((batch, others), **options)
    if batch == 0 or count == 0 or others == 0:
        empty = torch.full((batch,), float("inf") if count + others > 0 else 0.0, device=points.device)
        empty = empty.to(sum_dtype(points.dtype))
        name = REDUCTIONS[reduction]
        reduced = empty.mean() if name == "mean" else empty.sum() if name == "sum" else empty
        return reduced, nearest_target.fill_(NO_POINT), nearest_point.fill_(NO_POINT)
    directions = ((points, targets, nearest_target), (targets, points, nearest_point))
    tiles = [_tile(cloud.shape[1], other.shape[1]) for cloud, other, _ in directions]
    splits = [triton.cdiv(cloud.shape[1], tile) for (cloud, _, _), (tile, _) in zip(directions, tiles, strict=True)]
    sums = Sums(points, batch, reduction)
    partial = sums.partial(Cut(1, 1, 1, sum(splits), batch * sum(splits), 1)).view(batch, sum(splits))
    first = 0
    for (cloud, other, nearest), (rows, cols), parts in zip(directions, tiles, splits, strict=True):
        launch(
            chamfer_forward_kernel, batch * parts,
            cloud, other, nearest, partial[:, first:], cloud.stride(), other.stride(),
            cloud.shape[1], other.shape[1], parts, sum(splits), sums.share,
            DIMS=dims, DTYPE=compute_type(points.dtype), POINTS=rows, OTHERS=cols, num_warps=blocks.CHAMFER.warps,
        )  # fmt: skip
        first += parts
    return sums.finish(), nearest_target, nearest_point


def chamfer_distance_backward(
    grad: Tensor,
    points: Tensor,
    targets: Tensor,
    nearest_target: Tensor,
    nearest_point: Tensor,
    reduction: int,
    need_points: bool,
    need_targets: bool,
) -> tuple[Tensor, Tensor]:
    _check(points, targets)
    check_row_gradient(grad, points, reduction)
    for name, nearest, cloud in (
        ("nearest_target", nearest_target, points),
        ("nearest_point", nearest_point, targets),
    ):
        check_operand(name, nearest, points, cloud.shape[:2], torch.int32)
    nearest_target, nearest_point = nearest_target.contiguous(), nearest_point.contiguous()
    batch, name = points.shape[0], REDUCTIONS[reduction]
    results = []
    for needed, cloud, other, nearest, other_nearest in (
        (need_points, points, targets, nearest_target, nearest_point),
        (need_targets, targets, points, nearest_point, nearest_target),
    ):
        gradient = torch.empty_like(cloud) if needed else cloud.new_empty((0,))
        results.append(gradient)
        if not needed or cloud.numel() == 0:
            continue
        rows, cols = _tile(cloud.shape[1], max(other.shape[1], 1))
        parts = triton.cdiv(cloud.shape[1], rows)
        launch(
            chamfer_backward_kernel, batch * parts,
            grad, cloud, other, nearest, other_nearest, gradient,
            grad.stride(0) if name == "none" else 0, cloud.stride(), other.stride(), gradient.stride(),
            cloud.shape[1], other.shape[1], parts, 1.0 / batch if name == "mean" else 1.0,
            DIMS=cloud.shape[2], DTYPE=compute_type(cloud.dtype), POINTS=rows, OTHERS=cols,
            num_warps=blocks.CHAMFER.warps,
        )  # fmt: skip
    return results[0], results[1]
