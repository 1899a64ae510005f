"""The Chamfer distance of two clouds of points."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sivae.ops.library import sum_dtype
from sivae.ops.reference.reduce import reduce_batch

_ELEMENTS = 1 << 22  # of the distances that are held at a time
NO_POINT = -1  # the nearest point of a cloud that has none


def _nearest(points: Tensor, targets: Tensor) -> Tensor:
    """[B, N, D], [B, M, D] -> [B, N] int64: of equally near targets the first, of NaN distances the first of all."""
    batch, count, dims = points.shape
    others = targets.shape[1]
    if others == 0:
        return torch.full((batch, count), NO_POINT, dtype=torch.int64, device=points.device)
    # In an export with sizes that stay open the number of chunks would not be known.
    known = all(isinstance(size, int) for size in (batch, count, others))
    rows = max(_ELEMENTS // max(batch * others, 1), 1) if known else count
    found = []
    for first in range(0, count, rows) if known else (0,):
        chunk = points[:, first : first + rows]
        distances = torch.zeros((), dtype=points.dtype, device=points.device)
        for d in range(dims):
            difference = chunk[:, :, None, d] - targets[:, None, :, d]
            distances = distances + difference * difference
        found.append(distances.min(2).indices)
    return torch.cat(found, 1) if found else torch.zeros((batch, 0), dtype=torch.int64, device=points.device)


def _to_nearest(points: Tensor, targets: Tensor, nearest: Tensor) -> Tensor:
    """The squared distances [B, N], in float64, with gradients; infinite ones with gradient 0 without a target."""
    if targets.shape[1] == 0:
        return torch.where(nearest < 0, math.inf, points.sum(2)).double()
    chosen = targets.gather(1, nearest[:, :, None].expand(points.shape))
    difference = points - chosen
    return (difference * difference).sum(2).double()


def chamfer_distance(points: Tensor, targets: Tensor, reduction: int) -> tuple[Tensor, Tensor, Tensor]:
    dtype = sum_dtype(points.dtype)
    points, targets = points.to(dtype), targets.to(dtype)
    nearest_target = _nearest(points.detach(), targets.detach())
    nearest_point = _nearest(targets.detach(), points.detach())
    per_cloud = _to_nearest(points, targets, nearest_target).sum(1) + _to_nearest(targets, points, nearest_point).sum(1)
    distance = reduce_batch(per_cloud, reduction).to(dtype)
    return distance, nearest_target.to(torch.int32), nearest_point.to(torch.int32)
