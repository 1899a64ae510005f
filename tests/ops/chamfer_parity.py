"""Compare the Chamfer distance of any backend with float64, within bounds that are derived here."""

from __future__ import annotations

import torch
from torch import Tensor

from sivae.ops import library, reference
from tests.ops.parity import assert_within, reduced, roundoff, storage_error

REDUCTIONS = ("none", "mean", "sum")


def forward(backend: str, points: Tensor, targets: Tensor, reduction: str = "none") -> tuple[Tensor, Tensor, Tensor]:
    """The distance, and the positions of each point's nearest target and of each target's nearest point."""
    place = REDUCTIONS.index(reduction)
    if backend == "reference":
        return reference.chamfer_distance(points, targets, place)
    return getattr(torch.ops, f"sivae_{backend}").chamfer_distance(points, targets, place)


def squared_distances(points: Tensor, targets: Tensor) -> Tensor:
    """[B, N, M] in float64."""
    return (points.double()[:, :, None] - targets.double()[:, None]).square().sum(3)


def gradient_given(grad: Tensor, own: Tensor, other: Tensor, nearest: Tensor, chose: Tensor) -> tuple[Tensor, Tensor]:
    """The gradient of `own` in float64, given which points are the nearest, and eps times the size of its terms.

    grad [B], own [B, N, D], other [B, M, D], nearest [B, N], chose [B, M]. A term is a difference with one rounding;
    the sum of a point's k + 1 terms has k more, and the factors 2 and grad three: 8 + k covers them on every backend.
    """
    x, y, places = own.double(), other.double(), [nearest.long(), chose.long()]
    to, back = (place[:, :, None].expand(-1, -1, x.shape[2]) for place in places)
    terms = x - y.gather(1, to)
    others = x.gather(1, back) - y
    total = terms.scatter_add(1, back, others)
    size = terms.abs().scatter_add(1, back, others.abs())
    count = torch.zeros_like(x).scatter_add(1, back, torch.ones_like(others))
    factor = 2 * grad.double()[:, None, None]
    return factor * total, factor.abs() * (8 + count) * roundoff(own.dtype) * size


def assert_chamfer(backend: str, points: Tensor, targets: Tensor, reduction: str = "none") -> None:
    """Value, choices and both gradients of clouds that are finite.

    A squared distance has a rounding of each difference, one of each square, whose rounding of the difference counts
    twice, and D - 1 of the sum: (D + 2) u at most, relative. So has the least one. Sums are float64, or have two more
    roundings at the end. The chosen point may be another one only if it is as near within these errors.
    """
    batch, _, dims = points.shape
    u = roundoff(points.dtype)
    both = 2 if points.dtype == torch.float64 else 1  # the float64 that is compared with errs as much
    pairs = squared_distances(points, targets)
    distance, nearest_target, nearest_point = forward(backend, points, targets, reduction)
    assert nearest_target.dtype == nearest_point.dtype == torch.int32
    for nearest, dim in ((nearest_target, 2), (nearest_point, 1)):
        chosen = pairs.gather(dim, nearest.long().unsqueeze(dim)).squeeze(dim)
        assert (chosen <= pairs.amin(dim) * (1 + 2 * both * (dims + 3) * u)).all()
    exact = pairs.amin(2).sum(1) + pairs.amin(1).sum(1)
    value = reduced(exact, reduction)
    bound = both * (dims + 4) * u * value + (batch + 1) * u * value * (reduction != "none")
    assert_within(distance, value.to(library.sum_dtype(points.dtype)), bound, f"distance {reduction}")

    upstream = torch.randn(batch if reduction == "none" else (), dtype=distance.dtype)
    per_pair = (upstream / (batch if reduction == "mean" else 1)).expand(batch)
    found = gradients(backend, upstream, points, targets, (nearest_target, nearest_point), reduction)
    for gradient, own, other, nearest, chose in (
        (found[0], points, targets, nearest_target, nearest_point),
        (found[1], targets, points, nearest_point, nearest_target),
    ):
        expected, error = gradient_given(per_pair, own, other, nearest, chose)
        assert_within(gradient, expected.to(own.dtype), error + storage_error(expected, own.dtype), "gradient")


def gradients(
    backend: str,
    upstream: Tensor,
    points: Tensor,
    targets: Tensor,
    nearest: tuple[Tensor, Tensor],
    reduction: str = "none",
    needed: tuple[bool, bool] = (True, True),
) -> tuple[Tensor, Tensor]:
    place = REDUCTIONS.index(reduction)
    if backend == "reference":
        leaves = [cloud.detach().requires_grad_() for cloud in (points, targets)]
        found: tuple[Tensor, Tensor] = torch.autograd.grad(
            reference.chamfer_distance(*leaves, place)[0], leaves, upstream
        )
        return found
    op = getattr(torch.ops, f"sivae_{backend}").chamfer_distance_backward
    return op(upstream, points, targets, *nearest, place, *needed)
