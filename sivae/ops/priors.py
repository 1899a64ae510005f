"""Check the prior of a KL divergence, and rewrite the KL to a prior of tensors as one to N(0, 1).

KL(N(mu, s) || N(p, r)) is the KL of N((mu - p) / sqrt(r), s / r) to N(0, 1). So a prior of tensors needs no kernel of
its own: it is subtracted and divided by operators of torch, whose autograd computes the gradients to it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sivae.ops.checks import check_at_least, check_dtype, check_scalar
from sivae.ops.library import sum_dtype

# By dtype of the arithmetic: exp(-prior_logvar / 2) is finite.
_LEAST_LOGVAR = {dtype: -2.0 * math.log(torch.finfo(dtype).max) for dtype in (torch.float32, torch.float64)}

Parameter = float | Tensor  # one of the prior: a number, or a tensor that expands to mu's shape
Prior = tuple[Parameter, Parameter]  # mu and logvar


def check_prior(op: str, prior_mu: Parameter, prior_logvar: Parameter, mu: Tensor) -> Prior:
    prior_mu = _check_parameter(op, "prior_mu", prior_mu, mu)
    prior_logvar = _check_parameter(op, "prior_logvar", prior_logvar, mu)
    if not isinstance(prior_logvar, Tensor):
        dtype = sum_dtype(mu.dtype)
        check_at_least(op, "prior_logvar", prior_logvar, _LEAST_LOGVAR[dtype], dtype)
    return prior_mu, prior_logvar


def _check_parameter(op: str, name: str, value: Parameter, mu: Tensor) -> Parameter:
    if not isinstance(value, Tensor):
        return check_scalar(op, name, value)
    check_dtype(op, name, value)
    if value.device != mu.device:
        raise ValueError(f"{op}: {name} is on {value.device}, expected {mu.device} as mu")
    sizes = list(zip(reversed(value.shape), reversed(mu.shape), strict=False))
    if value.dim() > mu.dim() or any(own not in (1, size) for own, size in sizes):
        raise ValueError(
            f"{op}: {name} has shape {list(value.shape)}, expected one that expands to {list(mu.shape)} as mu"
        )
    return value


def check_balance(op: str, balance: float | None) -> float | None:
    if balance is None:
        return None
    balance = check_scalar(op, "kl_balance", balance)
    if not 0.0 <= balance <= 1.0:
        raise ValueError(f"{op}: kl_balance is {balance}, expected a number in [0, 1] or None")
    return balance


def has_tensors(prior: Prior) -> bool:
    return any(isinstance(parameter, Tensor) for parameter in prior)


def relative(mu: Tensor, logvar: Tensor, prior: Prior) -> tuple[Tensor, Tensor, Prior]:
    """mu, logvar and a prior of two numbers that have the KL of the given ones, in the dtype of the KL."""
    prior_mu, prior_logvar = prior
    dtype = sum_dtype(mu.dtype)
    for parameter in prior:
        if isinstance(parameter, Tensor):
            dtype = torch.promote_types(dtype, parameter.dtype)
    mu, logvar = mu.to(dtype), logvar.to(dtype)
    mu = mu - (prior_mu.to(dtype) if isinstance(prior_mu, Tensor) else prior_mu)
    if not isinstance(prior_logvar, Tensor):
        return mu, logvar, (0.0, prior_logvar)
    prior_logvar = prior_logvar.to(dtype)
    return mu * torch.exp(-0.5 * prior_logvar), logvar - prior_logvar, (0.0, 0.0)


def detached(prior: Prior) -> Prior:
    mu, logvar = (parameter.detach() if isinstance(parameter, Tensor) else parameter for parameter in prior)
    return mu, logvar


def share_gradient(value: Tensor, *parts: tuple[float, Tensor]) -> Tensor:
    """`value`, with the weighted gradients of `parts`, which have its value.

    An infinite value stays; its gradients may be NaN, since the KL's backward pass multiplies by an infinite variance.

    Made of differentiable operators, which take part in every transform of torch.
    """
    value = value.detach()
    for weight, part in parts:
        value = value + weight * torch.where(value.isfinite(), part - part.detach(), 0.0)
    return value
