"""The log density of a mixture of diagonal Gaussians, as a learned prior needs it."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from sivae.ops import backends
from sivae.ops.checks import check_dtype, check_like
from sivae.ops.ranges import annotated

_OP = "mixture_log_prob"


@annotated
def mixture_log_prob(z: Tensor, weights: Tensor, mu: Tensor, logvar: Tensor, *, backend: str | None = None) -> Tensor:
    """log sum_k w_k N(z; mu_k, exp(logvar_k)) of each row of z, in nats, without a tensor of [N, K, L].

    Distances come from differences ((z - mu) / sigma)^2, so they do not cancel far from the origin, as those from
    |z|^2 - 2 z mu + |mu|^2 do. For gradients the call keeps the log densities of the components, [N, K].

    Args:
        z: [N, L] with L above 0, float64, float32, bfloat16 or float16; any strides are read in place.
        weights: [K], the weights themselves, not their logarithms: from 0 on, usually a softmax. They are not
            normalised, so if their sum is s, the result has log s more. A weight below the smallest normal number
            counts as 0: its component changes no result, but the weight has its gradient. A negative one gives NaN.
        mu, logvar: [K, L]. All may have any of these dtypes, also mixed: the narrower ones are widened.
        backend: "native", "triton", "reference" or None (the fastest available). The reference does hold [N, K, L].

    Returns:
        [N], float32 (float64 where a tensor is float64), with gradients to all four. NaN in a row of z makes that row
        NaN, NaN in a component makes all of them NaN. Where no component has a density (K is 0, all weights are 0, or
        all distances overflow) the result is -inf with gradient 0. The gradients to mu and logvar are finite for
        a logvar of at least -87 (-708 in float64).

    Error against float64 (float32): (80 + L / 64 + K / 8) * 6e-8 * (1 + a), in which a is the mean by the components'
    shares r_k = w_k N_k / p of D_k / 2 + sum |logvar_k| / 2 + L + |log w_k|, with D_k the squared distance over sigma.

    Raises:
        TypeError, ValueError: wrong type, dtype, shape or device, naming the argument.
        RuntimeError: the requested backend is not available, or a compiled backend is differentiated twice.
    """
    for name, tensor, shape in (("z", z, "[N, L]"), ("mu", mu, "[K, L]")):
        check_dtype(_OP, name, tensor)
        if tensor.dim() != 2 or tensor.shape[1] == 0:
            raise ValueError(f"{_OP}: {name} has shape {list(tensor.shape)}, expected {shape} with L above 0")
    if mu.device != z.device:
        raise ValueError(f"{_OP}: mu is on {mu.device}, expected {z.device} as z")
    if mu.shape[1] != z.shape[1]:
        raise ValueError(f"{_OP}: mu has shape {list(mu.shape)}, expected [K, {z.shape[1]}] as z, with any K")
    check_like(_OP, "logvar", logvar, "mu", mu)
    check_dtype(_OP, "weights", weights)
    if weights.device != z.device:
        raise ValueError(f"{_OP}: weights is on {weights.device}, expected {z.device} as z")
    if tuple(weights.shape) != (mu.shape[0],):
        raise ValueError(f"{_OP}: weights has shape {list(weights.shape)}, expected [{mu.shape[0]}], one for each mu")
    dtype = functools.reduce(torch.promote_types, (weights.dtype, mu.dtype, logvar.dtype), z.dtype)
    z, weights, mu, logvar = (tensor.to(dtype) for tensor in (z, weights, mu, logvar))
    ops = backends.select(_OP, backend, z.device)
    log_prob: Tensor = ops.mixture_log_prob(z, weights, mu, logvar)[0]
    return log_prob
