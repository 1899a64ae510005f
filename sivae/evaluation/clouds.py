"""Compare two sets of point clouds: voxel JSD, minimum matching distance, coverage and 1-nearest-neighbour accuracy.

`voxel_jsd` is the metric published with Soft-IntroVAE's point clouds (Daniel and Tamar, CVPR 2021), from "Learning
Representations and Generative Models for 3D Point Clouds" (Achlioptas et al., ICML 2018). It compares where points are,
over all clouds of a set; the other three compare clouds with clouds, by Chamfer distances.
"""

from __future__ import annotations

import math
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from sivae import ops
from sivae.progress import PATIENCE_SECONDS, Progress

CELLS = 28  # along each side of the unit cube
_RADIUS = 0.5
_CHUNK = 4096  # points outside of the sphere at once, 80 MB of distances
_PAIRS = 256  # of clouds at once


class CloudScores(NamedTuple):
    """How well sampled clouds match reference clouds, by Chamfer distances as means of squares.

    Attributes:
        mmd: the distance from a reference to its nearest sample, averaged over the references; lower is better.
        coverage: the share of the references that are the nearest reference of some sample; higher is better.
        one_nn: how often the nearest other cloud of a cloud, among samples and references alike, is of its own set.
            0.5 means that the sets cannot be told apart; 1 that they are apart; 0 that they are copies of one another.
    """

    mmd: float
    coverage: float
    one_nn: float


def voxel_jsd(samples: Tensor, reference: Tensor) -> float:
    """Compute the Jensen–Shannon divergence, in bits, of where the points of two sets of clouds are.

    Space is a grid of 28³ points over the unit cube around 0, without those outside of the sphere of radius 0.5. Every
    point of every cloud counts for its nearest point of the grid, also a point outside of the sphere.

    Args:
        samples, reference: [N, P, 3] and [M, Q, 3], floating point, each with at least one point. Clouds normalised to
            the "sphere" or as ShapeNet's are in scale.

    Returns:
        From 0 to 1, and lower is better; NaN where a coordinate is not finite.

    Raises:
        ValueError: not such clouds.
    """
    for name, clouds in (("samples", samples), ("reference", reference)):
        _check("voxel_jsd", name, clouds)
    if not (samples.isfinite().all() and reference.isfinite().all()):
        return float("nan")
    p, q = (_counts(clouds) for clouds in (samples, reference))
    p, q = p / p.sum(), q / q.sum()
    return float(max(0.0, _entropy((p + q) / 2) - (_entropy(p) + _entropy(q)) / 2))


def cloud_distances(samples: Tensor, reference: Tensor, *, show: bool = False) -> CloudScores:
    """Compute MMD, coverage and 1-nearest-neighbour accuracy of two sets of clouds.

    All pairs are compared, so the time grows with the square of the number of clouds: N·M + N²/2 + M²/2 Chamfer
    distances. They are computed in blocks; beside the clouds, memory holds only the distances.

    Args:
        samples, reference: [N, P, 3] and [M, P, 3] of one dtype and device, N and M at least 2. As many samples as
            references are usual, and needed where `one_nn` shall be 0.5 at best.
        show: show progress.

    Returns:
        The scores; NaN where a coordinate is not finite. Of equal distances the first counts, samples before
        references.

    Raises:
        ValueError: not such clouds.
    """
    for name, clouds in (("samples", samples), ("reference", reference)):
        _check("cloud_distances", name, clouds, least=2)
    if samples.shape[1] != reference.shape[1]:
        raise ValueError(
            f"cloud_distances: samples have {samples.shape[1]} points and the reference {reference.shape[1]}; expected "
            "equally many, as means over points would differ"
        )
    if not (samples.isfinite().all() and reference.isfinite().all()):
        return CloudScores(float("nan"), float("nan"), float("nan"))
    clouds = torch.cat([samples, reference]).detach()
    count, total = len(samples), len(clouds)
    distances = torch.full((total, total), float("inf"), dtype=torch.float64)  # to itself infinite
    with Progress(
        "Chamfer distances", total * (total - 1) // 2, unit="pairs/s", patience=PATIENCE_SECONDS, enabled=show
    ) as progress:
        for row in range(total - 1):
            for start in range(row + 1, total, _PAIRS):
                others = clouds[start : start + _PAIRS]
                found = ops.chamfer_distance(clouds[row].expand_as(others), others).double().cpu() / clouds.shape[1]
                distances[row, start : start + _PAIRS] = found
                distances[start : start + _PAIRS, row] = found
                progress.advance(len(others))
    across = distances[:count, count:]  # [samples, references]
    own = (torch.arange(total) < count) == (distances.argmin(dim=1) < count)
    return CloudScores(
        mmd=float(across.amin(dim=0).mean()),
        coverage=len(across.argmin(dim=1).unique()) / (total - count),
        one_nn=float(own.double().mean()),
    )


def _check(function: str, name: str, clouds: Tensor, least: int = 1) -> None:
    if clouds.ndim != 3 or clouds.shape[2] != 3 or 0 in clouds.shape or len(clouds) < least:
        raise ValueError(
            f"{function}: {name} is {list(clouds.shape)}, expected [N, P, 3] with {least} or more clouds of one "
            "point or more"
        )
    if not clouds.is_floating_point():
        raise ValueError(f"{function}: {name} is {clouds.dtype}, expected floating point")


@cache
def _grid() -> tuple[Tensor, Tensor, Tensor]:
    """Which points of the grid are in the sphere, bool [28³]; the places and numbers of its outermost ones."""
    axis = torch.arange(CELLS, dtype=torch.float64) / (CELLS - 1) - 0.5
    places = torch.cartesian_prod(axis, axis, axis)
    inside = (places.norm(dim=1) <= _RADIUS).view(CELLS, CELLS, CELLS)
    # A point that is not nearest to its own place of the grid is nearest to one that has a neighbour outside: from any
    # other one, a step along an axis leads nearer.
    padded = torch.nn.functional.pad(inside, (1, 1, 1, 1, 1, 1))
    surrounded = inside.clone()
    for dimension in range(3):
        for shift in (-1, 1):
            surrounded &= padded.roll(shift, dimension)[1:-1, 1:-1, 1:-1]
    outermost = (inside & ~surrounded).flatten().nonzero()[:, 0]
    return inside.flatten(), places[outermost], outermost


def _counts(clouds: Tensor) -> Tensor:
    """How many points are nearest to each point of the grid: float64 [28³]."""
    inside, shell, numbers = _grid()
    counts = torch.zeros(CELLS**3, dtype=torch.int64)
    for points in clouds.detach().reshape(-1, 3).split(1 << 20):
        points = points.cpu().double()
        near = ((points + 0.5) * (CELLS - 1)).round().clamp_(0, CELLS - 1).long()
        cell = (near[:, 0] * CELLS + near[:, 1]) * CELLS + near[:, 2]
        beyond = ~inside[cell]
        for part in beyond.nonzero()[:, 0].split(_CHUNK):
            apart = torch.cdist(points[part], shell, compute_mode="donot_use_mm_for_euclid_dist")
            cell[part] = numbers[apart.argmin(dim=1)]
        counts += torch.bincount(cell, minlength=CELLS**3)
    return counts.double()


def _entropy(shares: Tensor) -> float:
    """In bits."""
    return -float(torch.xlogy(shares, shares).sum()) / math.log(2.0)
