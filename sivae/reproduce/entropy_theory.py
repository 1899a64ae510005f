"""Solve for the densities that the theory predicts: those that minimise KL(p_data || p) + gamma H(p).

Daniel and Tamar (CVPR 2021) show that a Soft-IntroVAE whose decoder weighs the ELBO of its fakes by gamma has its
optimum there. The term with gamma rewards a low entropy. Both solvers minimise over a softmax, from several starts, as
gamma H is concave in p and the problem may have more than one minimum. Everything is float64.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor

Vector = NDArray[np.float64]
_STARTS = 8


def entropy(q: Vector) -> float:
    """-sum q log q in nats, of probabilities [K]."""
    kept = q[q > 0]
    return float(-(kept * np.log(kept)).sum())


def divergence(p: Vector, q: Vector) -> float:
    """sum p log(p/q) in nats; p, q [K], q positive where p is."""
    kept = p > 0
    return float((p[kept] * np.log(p[kept] / q[kept])).sum())


def discrete_optimum(p: Vector, gamma: float) -> Vector:
    """The probabilities q [K] that minimise KL(p || q) + gamma H(q), for p [K]."""

    def loss(logits: Tensor) -> Tensor:
        log_q = torch.log_softmax(logits, 0)
        return -(torch.from_numpy(p) * log_q).sum() - gamma * (log_q.exp() * log_q).sum()

    generator = np.random.default_rng(0)
    starts = [np.log(np.maximum(p, 1e-6))] + [generator.normal(size=len(p)) for _ in range(_STARTS)]
    logits = min((_minimise(loss, start) for start in starts), key=lambda found: found[1])[0]
    result: Vector = torch.log_softmax(torch.from_numpy(logits), 0).exp().numpy()
    return result


def assumption_margin(p: Vector, q: Vector, alpha: float) -> float:
    """The smallest of log p - (alpha + 1) log q over the states with p > 0; the theory assumes that it is not negative.

    Given a decoder q, the encoder can choose W(x), the ELBO of x, up to log q(x). Its objective for each x,
    p W - q exp(alpha W)/alpha, is highest at exp(alpha W) = p/q. Where q^(alpha + 1) <= p, and only there, that is not
    below the bound, so that the best W is log q(x) itself and the ELBO is tight.
    """
    kept = p > 0
    return float((np.log(p[kept]) - (alpha + 1) * np.log(q[kept])).min())


class SmoothedOptimum:
    """Finds the theory's optimum among the densities of decoders with Gaussian noise in the plane.

    p = sum_j w_j N(mean_j, variance I), with the means on a grid over the square and the weights w free.

    Args:
        data: points of p_data [N, 2]; the optimum depends on p_data through its mean of log p.
        variance: of the decoder's noise.
        limit: half of the square's side.
        cells: means along each axis, and four more on either side, as the noise reaches beyond the square.
    """

    def __init__(self, data: Tensor, variance: float, limit: float, cells: int = 48) -> None:
        self._step = 2 * limit / cells
        axis = (torch.arange(-4, cells + 4, dtype=torch.float64) + 0.5) * self._step - limit
        self._axis, self._variance = axis, variance
        self._smooth = self._kernel(axis)  # [G, G]: from means to the grid itself, where the entropy is summed
        self._to_data = [self._kernel(data[:, coordinate].double()) for coordinate in range(2)]  # [N, G] each
        self._logits: Vector | None = None

    def _kernel(self, places: Tensor) -> Tensor:
        squared = (places[:, None] - self._axis[None, :]).square()
        return torch.exp(-squared / (2 * self._variance)) / (2 * torch.pi * self._variance) ** 0.5

    def _measures(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """The cross entropy -E_data log p, and the entropy of p, both in nats."""
        weights = torch.softmax(logits, 0).view(len(self._axis), -1)  # [G, G]
        density = self._smooth @ weights @ self._smooth.T  # at the grid's points
        at_data = ((self._to_data[0] @ weights) * self._to_data[1]).sum(1)  # [N]
        mass = density * self._step**2
        return -at_data.log().mean(), -(mass * (density + 1e-300).log()).sum() / mass.sum()

    def solve(self, gamma: float) -> dict[str, float]:
        """`cross_entropy` and `entropy`, in nats, at the optimum of KL + gamma H.

        The best of several starts, one of them where the last call ended, so call it with ascending gamma.
        """

        def loss(logits: Tensor) -> Tensor:
            cross_entropy, own = self._measures(logits)
            return cross_entropy + gamma * own

        size = len(self._axis) ** 2
        starts = [np.zeros(size), np.random.default_rng(0).normal(size=size)]
        starts += [] if self._logits is None else [self._logits]
        self._logits = min((_minimise(loss, start, iterations=400) for start in starts), key=lambda found: found[1])[0]
        cross_entropy, own = self._measures(torch.from_numpy(self._logits))
        return {"cross_entropy": float(cross_entropy), "entropy": float(own)}


def _minimise(loss: Callable[[Tensor], Tensor], start: Vector, iterations: int = 2_000) -> tuple[Vector, float]:
    def value_and_gradient(point: Vector) -> tuple[float, Vector]:
        logits = torch.from_numpy(point.copy()).requires_grad_()
        value = loss(logits)
        (gradient,) = torch.autograd.grad(value, logits)
        return float(value.detach()), gradient.numpy()

    options: dict[str, Any] = {"maxiter": iterations, "ftol": 1e-13, "gtol": 1e-9}
    found = minimize(value_and_gradient, start, jac=True, method="L-BFGS-B", options=options)
    return found.x, float(found.fun)
