"""Compare the log density of a mixture with the formula in float64, within the bounds that follow from its arithmetic.

u is the unit roundoff of the arithmetic. A component's log density: a scaled difference errs by 4 u (a difference, an
exponential, a product), its square by 9 u, and a sum of up to 64 terms and of L / 64 sums by as many u. The sum of
logvar, exponentials and the logarithm of the weight add a few u of their own size. An error of a log density moves a
component's share r by as much, relative to r. The sum over components errs by at most K / 8 u, in eight lanes or more.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sivae import ops

Case = tuple[Tensor, Tensor, Tensor, Tensor]


def mixture(rows: int, components: int, dims: int, dtype: torch.dtype = torch.float32) -> Case:
    """z, weights, mu, logvar, close enough to each other that several components have a share."""
    z, mu = torch.randn(rows, dims), torch.randn(components, dims)
    weights, logvar = torch.softmax(torch.randn(components), 0), 0.5 * torch.randn(components, dims)
    return tuple((x / math.sqrt(dims) if x is mu else x).to(dtype) for x in (z, weights, mu, logvar))


def exact(z: Tensor, weights: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    """The broadcast formula in float64, for weights above 0."""
    z, weights, mu, logvar = (x.double() for x in (z, weights, mu, logvar))
    terms = (z[:, None] - mu) ** 2 * torch.exp(-logvar) + logvar + math.log(2 * math.pi)
    return torch.logsumexp(weights.log() - 0.5 * terms.sum(2), 1)


def assert_mixture(backend: str, *case: Tensor) -> None:
    """Values and all gradients of one call; `case` may have mixed dtypes and any layout."""
    leaves = [x.detach().requires_grad_() for x in case]
    log_prob = ops.mixture_log_prob(*leaves, backend=backend)
    grad = torch.randn(log_prob.shape, dtype=log_prob.dtype)
    found = torch.autograd.grad(log_prob, leaves, grad)
    doubles = [x.detach().double().requires_grad_() for x in case]
    expected = exact(*doubles)
    wanted = torch.autograd.grad(expected, doubles, grad.double())
    u = torch.finfo(log_prob.dtype).eps / 2

    z, weights, mu, logvar = (x.detach() for x in doubles)
    components, dims = mu.shape
    difference, precision = z[:, None] - mu, torch.exp(-logvar)
    distance = (difference**2 * precision).sum(2)  # [N, K]
    sizes = distance / 2 + logvar.abs().sum(1) / 2 + dims + weights.log().abs()
    densities = -0.5 * (distance + logvar.sum(1) + dims * math.log(2 * math.pi))
    shares = torch.exp(densities + weights.log() - expected.detach()[:, None])
    unit = (80 + dims / 64 + components / 8) * u
    bound = unit * (1 + (shares * sizes).sum(1))
    assert ((log_prob - expected).abs() <= bound).all()
    # Of a share: its density and the row's; and the sums of its terms over rows (up to 64, or as many parts) and K.
    relative = unit * (1 + sizes) + bound[:, None] + (200 + components) * u
    terms = shares * grad.double().abs()[:, None] * relative  # [N, K]
    bounds = [
        torch.einsum("nk,nkl->nl", terms, (difference * precision).abs()),
        (terms / weights).sum(0),
        torch.einsum("nk,nkl->kl", terms, (difference * precision).abs()),
        torch.einsum("nk,nkl->kl", terms, 0.5 * (difference**2 * precision + 1)),
    ]
    for gradient, target, limit, leaf in zip(found, wanted, bounds, leaves, strict=True):
        assert gradient.dtype == leaf.dtype
        rounding = torch.finfo(leaf.dtype).eps * target.abs() + torch.finfo(leaf.dtype).tiny
        assert ((gradient - target).abs() <= limit + rounding).all()
