"""The Chamfer distance of two clouds of points."""

from __future__ import annotations

from torch import Tensor

from sivae.ops import backends
from sivae.ops.checks import check_dtype, in_common_dtype, reduction_index
from sivae.ops.ranges import annotated

_OP = "chamfer_distance"


@annotated
def chamfer_distance(points: Tensor, targets: Tensor, *, reduction: str = "none", backend: str | None = None) -> Tensor:
    """The sum of squared distances from each point to the nearest target, plus the same from each target.

    sum_i min_j |x_i - y_j|^2 + sum_j min_i |x_i - y_j|^2 for points x and targets y: sums, not means, and squares, not
    roots (Soft-IntroVAE's convention). Distances come from differences, so they do not cancel far from the origin. The
    memory beyond inputs and gradients grows with N + M, not with N M.

    Args:
        points: [B, N, D], float64, float32, bfloat16 or float16; any strides are read in place.
        targets: [B, M, D], of the same four dtypes, also mixed: the narrower one is widened.
        reduction: "none" gives [B]; "mean" and "sum" go over B (the mean of an empty batch is NaN).
        backend: "native", "triton", "reference" or None (the fastest available).

    Returns:
        [B] or a scalar, float32 (float64 where a tensor is float64), with gradients to both. A gradient passes through
        the nearest points; of equally near ones the first counts. NaN counts as the nearest, as for torch.min: a pair
        of clouds with a NaN coordinate has the distance NaN, other pairs keep theirs. Where one cloud has no points
        (N or M is 0) the distance is infinite with gradient 0, and 0 where both have none.

    Relative error against float64 (float32, squares that are normal numbers): (D + 4) * 6e-8. Error of a gradient
    against float64 with the same choices: (8 + k) * 6e-8 * 2 |g| sum |x - y|, a sum over the point's own pair and the k
    pairs of points that chose it.

    Raises:
        TypeError, ValueError: wrong type, dtype, shape or device, naming the argument.
        RuntimeError: the requested backend is not available, or a compiled backend is differentiated twice.
    """
    for name, cloud in (("points", points), ("targets", targets)):
        check_dtype(_OP, name, cloud)
        if cloud.dim() != 3 or cloud.shape[2] == 0:
            raise ValueError(f"{_OP}: {name} has shape {list(cloud.shape)}, expected [B, N, D] with coordinates")
    if targets.device != points.device:
        raise ValueError(f"{_OP}: targets is on {targets.device}, expected {points.device} as points")
    if targets.shape[0] != points.shape[0] or targets.shape[2] != points.shape[2]:
        batch, _, dims = points.shape
        raise ValueError(
            f"{_OP}: targets has shape {list(targets.shape)}, expected [{batch}, M, {dims}] as points, with any M"
        )
    if points.dtype != targets.dtype:
        points, targets = in_common_dtype(points, targets)
    reduction_position = reduction_index(_OP, reduction)
    ops = backends.select(_OP, backend, points.device)
    distance: Tensor = ops.chamfer_distance(points, targets, reduction_position)[0]
    return distance
