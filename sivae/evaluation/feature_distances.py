"""Compare two sets of images by their features: KID, FID, precision and recall, in float64.

The features come from any network; see :mod:`sivae.evaluation.features`. Values of different networks cannot be
compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

KID_SUBSETS, KID_SUBSET = 100, 1000
NEIGHBOUR = 3  # its distance is a feature's radius in precision and recall
FID_LEAST = 5_000  # images; FID of fewer is mostly the bias of their number

_BLOCK_VALUES = 1 << 23  # distances at once, 64 MB


def sample_metrics(
    real: Tensor, generated: Tensor, *, network: str, seed: int, doing: Callable[[str], None] = lambda name: None
) -> dict[str, float]:
    """Compute all metrics of this module, named after the network.

    Args:
        real, generated: features [N, d] each; float32 or float64.
        network: name of the network, such as "effnet_lite0", which ends every name.
        seed: seed of KID's subsets.
        doing: called with what is computed next.

    Returns:
        kid, kid_std: see :func:`kernel_distance`.
        kid_subset: number of images in each of its subsets.
        fid: see :func:`frechet_distance`; from 5,000 images on.
        precision, recall: see :func:`precision_recall`.
        images: number N of images on each side.

    Raises:
        ValueError: the shapes differ, or there are fewer than four images.
    """
    if real.shape != generated.shape:
        raise ValueError(f"features are {list(real.shape)} and {list(generated.shape)}, expected two equal [N, d]")
    doing("KID")
    kid, deviation = kernel_distance(real, generated, seed=seed)
    metrics = {"kid": kid, "kid_std": deviation, "kid_subset": kid_subset(len(real))}
    if len(real) >= FID_LEAST:
        doing("FID")
        metrics["fid"] = frechet_distance(real, generated)
    doing("precision and recall")
    precision, recall = precision_recall(real, generated)
    metrics |= {"precision": precision, "recall": recall, "images": len(real)}
    return {f"{name}_{network}": value for name, value in metrics.items()}


def kernel_distance(real: Tensor, generated: Tensor, *, seed: int, subset: int | None = None) -> tuple[float, float]:
    """Compute KID, the squared MMD of two sets of features with the kernel ``(x·y/d + 1)³`` (Bińkowski et al., 2018).

    Of 100 random subsets the unbiased estimate is computed, which leaves out pairs of an image with itself. It is
    around 0 for equal distributions, negative for half of them, and lower is better.

    Args:
        real, generated: features [N, d] and [M, d], two or more each.
        seed: seed of the subsets, 0 or more.
        subset: number of images in a subset; None: that of :func:`kid_subset`.

    Returns:
        The mean and the standard deviation over the subsets.

    Raises:
        ValueError: the shapes do not fit.
    """
    _check(real, generated)
    size = subset or kid_subset(min(len(real), len(generated)))
    generator = torch.Generator().manual_seed(seed)
    estimates = torch.empty(KID_SUBSETS, dtype=torch.float64)
    for index in range(KID_SUBSETS):
        x, y = (
            rows[torch.randperm(len(rows), generator=generator)[:size].to(rows.device)].double()
            for rows in (real, generated)
        )
        estimates[index] = _squared_mmd(x, y)
    return float(estimates.mean()), float(estimates.std(correction=0))


def kid_subset(count: int) -> int:
    """The number of images in a subset of KID: 1000, or half of the images, so that subsets differ and spread."""
    return max(2, min(KID_SUBSET, count // 2))


def frechet_distance(real: Tensor, generated: Tensor) -> float:
    """Compute FID, the Fréchet distance of Gaussians fitted to two sets of features (Heusel et al., 2017).

    ``|m - m'|² + tr(C + C' - 2 (C C')^½)`` with unbiased covariances. It is too high for few images.

    Args:
        real, generated: features [N, d] and [M, d], two or more each.

    Returns:
        0 or more, and lower is better.

    Raises:
        ValueError: the shapes do not fit.
    """
    _check(real, generated)
    x, y = real.double(), generated.double()
    root = _root(x.T.cov())
    covariance = y.T.cov()
    # (C C')^½ has the trace of (C^½ C' C^½)^½, which is symmetric.
    cross = torch.linalg.eigvalsh(root @ covariance @ root).clamp(min=0.0).sqrt().sum()
    spread = root.square().sum() + covariance.trace() - 2.0 * cross
    return max(0.0, float((x.mean(0) - y.mean(0)).square().sum() + spread))


def precision_recall(real: Tensor, generated: Tensor, *, neighbour: int = NEIGHBOUR) -> tuple[float, float]:
    """Compute precision and recall of two sets of features (Kynkäänniemi et al., NeurIPS 2019).

    A set covers a feature that is at most as far from one of its members as that member's third nearest neighbour in
    the set. Distances are computed in blocks.

    Args:
        real, generated: features [N, d] and [M, d].
        neighbour: which neighbour's distance is the radius.

    Returns:
        The share of the generated features that the real ones cover (how good samples are), and the share of the real
        ones that the generated ones cover (how diverse samples are); higher is better.

    Raises:
        ValueError: the shapes do not fit, or a set has no such neighbour.
    """
    _check(real, generated, least=neighbour + 1)
    x, y = real.double(), generated.double()
    radius, radius_generated = _squared_radius(x, neighbour), _squared_radius(y, neighbour)
    covered = 0
    covers = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    start = 0
    for block in _squared_distances(y, x):
        covered += int((block <= radius).any(1).sum())
        covers |= (block <= radius_generated[start : start + len(block), None]).any(0)
        start += len(block)
    return covered / len(y), float(covers.double().mean())


def _squared_radius(members: Tensor, neighbour: int) -> Tensor:
    """The squared distance of each member to one of its nearest neighbours, of which the nearest is itself: [N]."""
    blocks = _squared_distances(members, members)
    return torch.cat([block.topk(neighbour + 1, dim=1, largest=False).values[:, -1] for block in blocks])


def _squared_distances(points: Tensor, members: Tensor) -> Iterator[Tensor]:
    """Yield the squared distances of blocks of points, [B, M], to all members."""
    lengths = members.square().sum(1)
    # Equal vectors are at distance 0. A product of d terms rounds by at most d ulps of the lengths.
    rounding = (members.shape[1] + 2) * torch.finfo(members.dtype).eps
    for block in points.split(max(1, _BLOCK_VALUES // len(members))):
        sums = block.square().sum(1, keepdim=True) + lengths
        squares = sums - 2.0 * (block @ members.T)
        yield squares.where(squares > rounding * sums, 0.0)


def _squared_mmd(x: Tensor, y: Tensor) -> Tensor:
    """The unbiased estimate from two sets of equal size."""
    n = len(x)
    within = sum((k.sum() - k.trace()) for k in (_kernel(x, x), _kernel(y, y)))
    return within / (n * (n - 1)) - 2.0 * _kernel(x, y).mean()


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.T / x.shape[1] + 1.0).pow_(3)


def _root(matrix: Tensor) -> Tensor:
    """The square root of a symmetric matrix without negative eigenvalues (but for rounding)."""
    values, vectors = torch.linalg.eigh(matrix)
    return vectors * values.clamp(min=0.0).sqrt() @ vectors.T


def _check(real: Tensor, generated: Tensor, least: int = 2) -> None:
    fits = real.ndim == generated.ndim == 2 and real.shape[1] == generated.shape[1]
    if not fits or min(len(real), len(generated)) < least:
        raise ValueError(
            f"features are {list(real.shape)} and {list(generated.shape)}, expected [N, d] and [M, d] with {least} or "
            "more of each"
        )
