"""Measure how well a model fits a two-dimensional density.

``gnelbo``, ``official_kl`` and ``official_jsd`` are computed as the program published with Soft-IntroVAE (Daniel and
Tamar, CVPR 2021) computes them, so that they can be compared with the paper's tables. ``kl`` and ``jsd`` are the same
two divergences on probabilities, in nats, the latter with the standard direction of its arguments. Networks run in
their own dtype; everything after them is float64.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sivae import ops
from sivae.data import Density
from sivae.models import VAEModel
from sivae.models.base import device_and_dtype, evaluating

_CHUNK = 8192
_LOG_FLOOR = 1e-14


class ModeCoverage(NamedTuple):
    """How many modes of a mixture a set of points reaches, and how precisely; see :func:`mode_coverage`."""

    captured: int
    precision: float


def density_histogram(points: Tensor, extent: float, bins: int = 100) -> Tensor:
    """Estimate the density of points on the square ``[-2·extent, 2·extent]²`` by a normalised histogram.

    Equals ``numpy.histogram2d(x, y, bins, range, density=True)[0]``: points outside the square (and NaNs) are
    dropped before normalising, a point on an inner edge belongs to the bin above it, and the square's upper
    edges belong to the last bins.

    Args:
        points: ``[N, 2]``, any real floating-point dtype.
        extent: a quarter of the square's side.
        bins: bins along each axis.

    Returns:
        float64 ``[bins, bins]``; the first index follows the first coordinate. The sum times the area of a
        bin is 1; all NaN if no point is in the square.

    Raises:
        ValueError: ``points`` is not ``[N, 2]``, ``extent`` is not positive or ``bins`` is below 1.
    """
    if points.ndim != 2 or points.shape[1] != 2:
        raise ValueError(f"density_histogram: points must be [N, 2], got {list(points.shape)}")
    if not extent > 0 or bins < 1:
        raise ValueError(f"density_histogram: needs extent > 0 and bins >= 1, got {extent} and {bins}")
    points = points.detach().double()
    limit = 2.0 * extent
    step = 2 * limit / bins
    # The edges are rounded as numpy.linspace rounds them, so that a point on an edge falls on the same side
    # of it.
    edges = torch.arange(bins + 1, dtype=torch.float64, device=points.device) * step - limit
    edges[-1] = limit
    inside = points[((points >= -limit) & (points <= limit)).all(dim=1)]
    cell = (torch.bucketize(inside, edges, right=True) - 1).clamp_(max=bins - 1)
    counts = torch.bincount(cell[:, 0] * bins + cell[:, 1], minlength=bins * bins)
    return counts.double().div_(len(inside) * step * step).view(bins, bins)


def _log_ratio_sum(p: Tensor, q: Tensor, floor: float) -> Tensor:
    # xlogy is 0 where p is 0, so that bins with p = 0 count nothing.
    return (torch.xlogy(p, p) - torch.xlogy(p, q + floor)).sum()


def official_kl_divergence(p: Tensor, q: Tensor) -> float:
    """The published program's KL: ``(1/100)·Σ p·(log p − log(q + 1e-14))`` over the bins with p > 0.

    It sums densities, not probabilities: with bins of area ``a`` it is ``1/(100·a)`` times the discrete KL,
    which is 6.25 for extent 1 and 1.5625 for extent 2. With another number of bins per axis than 100, that
    number replaces 100.

    Args:
        p: density histogram ``[bins, bins]`` as :func:`density_histogram` makes it; for the metric, of the
            real points.
        q: density histogram of the same shape; for the metric, of the generated points.

    Returns:
        The divergence; NaN if a histogram is NaN.
    """
    p, q = p.double(), q.double()
    return float(_log_ratio_sum(p, q, _LOG_FLOOR)) / p.shape[0]


def official_js_divergence(p: Tensor, q: Tensor) -> float:
    """The published program's JSD: ``½·[KL(M‖p) + KL(M‖q)]`` with M = ½(p + q) and KL the official one.

    The arguments have the opposite order to that of the Jensen–Shannon divergence, so ln 2 is no upper bound.

    Args:
        p, q: density histograms ``[bins, bins]``; the result is symmetric in them.

    Returns:
        The divergence; NaN if a histogram is NaN.
    """
    middle = (p.double() + q.double()) / 2
    return (official_kl_divergence(middle, p) + official_kl_divergence(middle, q)) / 2


def kl_divergence(p: Tensor, q: Tensor) -> float:
    """KL(P‖Q) in nats between the bin probabilities of two density histograms.

    It is ``Σ p·(log p − log(q + 1e-14)) / Σ p`` over the bins with p > 0: exactly
    :func:`official_kl_divergence` over its factor 6.25 or 1.5625. The floor is a density, as in that function,
    and keeps the result finite where q is 0.

    Args:
        p, q: density histograms ``[bins, bins]``.

    Returns:
        The divergence; NaN if a histogram is NaN.
    """
    p, q = p.double(), q.double()
    return float(_log_ratio_sum(p, q, _LOG_FLOOR) / p.sum())


def js_divergence(p: Tensor, q: Tensor) -> float:
    """Jensen–Shannon divergence ``½·KL(P‖M) + ½·KL(Q‖M)``, M = ½(P + Q), in nats: 0 to ln 2.

    Args:
        p, q: density histograms ``[bins, bins]``; they are normalised to probabilities here.

    Returns:
        The divergence; NaN if a histogram is NaN.
    """
    p, q = p.double() / p.double().sum(), q.double() / q.double().sum()
    middle = (p + q) / 2
    return float(_log_ratio_sum(p, middle, 0.0) + _log_ratio_sum(q, middle, 0.0)) / 2


def grid_normalised_elbo(data_nelbo: Tensor, grid_nelbo: Tensor) -> float:
    """gnELBO: mean NELBO of data points over the sum of NELBO of the grid and of those same points.

    Lower is better: the model puts the data lower than the rest of the plane. The value shrinks with the
    number of grid points, so only values from equal grids can be compared.

    Args:
        data_nelbo: negative ELBO of data points, ``[N]``.
        grid_nelbo: negative ELBO of grid points, ``[M]``.
    """
    data_nelbo = data_nelbo.double()
    return float(data_nelbo.mean() / (grid_nelbo.double().sum() + data_nelbo.sum()))


def mode_coverage(points: Tensor, modes: Tensor, sigma: float) -> ModeCoverage:
    """Count the modes of an equal-weight Gaussian mixture that generated points reach.

    A point is *good* if it lies within 3·sigma of its nearest centre; of the mixture's own points 1 −
    exp(−9/2) = 98.9 % are. ``precision`` is the share of good points among all. A mode is *captured* if at
    least a tenth of its fair share, that is 0.1·N/K, of the N points are good and nearest to it. A tenth,
    because points spread evenly over the plotting square already put 1.4 % of a fair share near each of
    the 25 modes of 25gaussians.

    Args:
        points: ``[N, 2]``; NaN coordinates make a point not good.
        modes: centres ``[K, 2]``.
        sigma: standard deviation of each coordinate around its centre.

    Returns:
        ``(captured, precision)``; ``(0, nan)`` for no points.
    """
    if len(points) == 0:
        return ModeCoverage(0, float("nan"))
    offset = points.double().unsqueeze(1) - modes.to(points.device, torch.float64)  # [N, K, 2]
    squared, nearest = offset.square().sum(dim=2).min(dim=1)
    good = squared <= (3 * sigma) ** 2
    per_mode = torch.bincount(nearest[good], minlength=len(modes))
    captured = per_mode * len(modes) * 10 >= len(points)
    return ModeCoverage(int(captured.sum()), float(good.double().mean()))


def negative_elbo(
    model: VAEModel,
    points: Tensor,
    *,
    beta_rec: float = 1.0,
    beta_kl: float = 1.0,
    device: torch.device | str | None = None,
) -> Tensor:
    """Compute ``beta_rec·rec + beta_kl·kl`` of each point, with z = mu instead of a draw, in eval mode and in chunks.

    Args:
        model: of points in the plane; its mode is restored.
        points: ``[N, 2]``; cast to the dtype of the model's parameters.
        beta_rec: weight of the squared error ``Σ (x − x̂)²``.
        beta_kl: weight of the divergence from the prior, see :meth:`VAEModel.kl`.
        device: the model's; None: that of its parameters.

    Returns:
        float64 ``[N]`` on the CPU.
    """
    place, dtype = device_and_dtype(model, device)
    values = []
    with evaluating(model):
        for x in torch.split(points, _CHUNK):
            x = x.to(place, dtype)
            mu, logvar = model.encode(x)
            rec = ops.reconstruction_error(model.decode(mu).double(), x.double())
            kl = model.kl(mu.double(), logvar.double())
            values.append((beta_rec * rec + beta_kl * kl).cpu())
    return torch.cat(values)


def _decode(model: VAEModel, z: Tensor, device: torch.device | str | None) -> Tensor:
    place, dtype = device_and_dtype(model, device)
    with evaluating(model):
        return torch.cat([model.decode(part.to(place, dtype)).double().cpu() for part in torch.split(z, _CHUNK)])


def _grid(axis: Tensor) -> Tensor:
    return torch.cartesian_prod(axis, axis)


def evaluate_density(
    model: VAEModel,
    density: Density,
    *,
    seed: int,
    device: torch.device | str | None = None,
    elbo_points: int = 12_800,
    grid_resolution: int = 1024,
    sample_points: int = 5000,
) -> dict[str, float]:
    """Compute the two-dimensional metrics of a model.

    Data and prior noise are drawn in float64 on the CPU from generators that are made from ``seed``, so the
    points are the same on every device and the global generators do not change. The model runs in eval mode,
    without gradients, and gets its mode back.

    Args:
        model: of points in the plane.
        density: what it was trained on.
        seed: 0 or more.
        device: the model's; None: that of its parameters.
        elbo_points: data points for ``gnelbo``. The defaults of this and the next two are the published
            protocol.
        grid_resolution: points along each axis of the ``gnelbo`` grid, which includes the square's edges.
        sample_points: real points, and generated points, for the divergences and the modes.

    Returns:
        ``gnelbo``, ``official_kl``, ``official_jsd``, ``kl`` and ``jsd``; for a Gaussian mixture also
        ``modes_captured`` (an int) and ``mode_precision``. In all but the last two, lower is better. The four
        divergences are NaN if no generated point is in the square.

    Raises:
        ValueError: ``seed`` is negative.
    """
    # Mixing the seed makes these streams differ from those of a training run with the same seed.
    elbo_rng, real_rng, prior_rng = (
        torch.Generator().manual_seed(int(state)) for state in np.random.SeedSequence(seed).generate_state(3, np.uint64)
    )
    limit = 2 * density.extent
    axis = torch.linspace(-limit, limit, grid_resolution, dtype=torch.float64)
    data = density.sample(elbo_points, generator=elbo_rng, dtype=torch.float64)
    real = density.sample(sample_points, generator=real_rng, dtype=torch.float64)
    noise = torch.randn(sample_points, model.noise_dim, generator=prior_rng, dtype=torch.float64)
    fake = _decode(model, model.from_prior(noise.to(device_and_dtype(model)[0])), device)

    p, q = density_histogram(real, density.extent), density_histogram(fake, density.extent)
    metrics: dict[str, float] = {
        "gnelbo": grid_normalised_elbo(
            negative_elbo(model, data, device=device), negative_elbo(model, _grid(axis), device=device)
        ),
        "official_kl": official_kl_divergence(p, q),
        "official_jsd": official_js_divergence(p, q),
        "kl": kl_divergence(p, q),
        "jsd": js_divergence(p, q),
    }
    if density.modes is not None and density.sigma is not None:
        coverage = mode_coverage(fake, density.modes, density.sigma)
        metrics["modes_captured"] = coverage.captured
        metrics["mode_precision"] = coverage.precision
    return metrics


def density_grid(
    model: VAEModel,
    density: Density,
    resolution: int = 256,
    *,
    beta_rec: float = 1.0,
    beta_kl: float = 1.0,
    device: torch.device | str | None = None,
) -> Tensor:
    """Compute the density that the model's ELBO implies, normalised over the plotting square.

    ``softmax(−NELBO)`` over the cells of a grid, divided by the area of a cell. The ELBO is a lower bound of
    the log-likelihood without a normalising constant, so this is an estimate that is normalised afterwards, not
    the density of generated points. With the default weights a point's likelihood has variance ½ around
    its reconstruction; a larger ``beta_rec`` (``1/(2·variance)``) sharpens the picture.

    Args:
        model: of points in the plane.
        density: gives the square ``[-2·extent, 2·extent]²``.
        resolution: cells along each axis; the NELBO is taken at their centres.
        beta_rec, beta_kl: weights in the NELBO.
        device: the model's; None: that of its parameters.

    Returns:
        float64 ``[resolution, resolution]`` on the CPU; the first index follows the first coordinate. The sum
        times the area of a cell, ``(4·extent/resolution)²``, is 1.

    Raises:
        ValueError: ``resolution`` is below 1.
    """
    if resolution < 1:
        raise ValueError(f"density_grid: resolution must be at least 1, got {resolution}")
    cell = 4 * density.extent / resolution
    axis = (torch.arange(resolution, dtype=torch.float64) + 0.5) * cell - 2 * density.extent
    nelbo = negative_elbo(model, _grid(axis), beta_rec=beta_rec, beta_kl=beta_kl, device=device)
    return torch.softmax(-nelbo, dim=0).div_(cell * cell).view(resolution, resolution)
