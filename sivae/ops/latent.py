"""Sample the latent posterior N(mu, exp(logvar)), compute its KL divergence, or do both in one pass."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sivae.ops import backends
from sivae.ops.checks import check_at_least, check_pair, check_scalar, in_common_dtype, reduction_index
from sivae.ops.library import sum_dtype
from sivae.ops.noise import PhiloxNoise, resolve_noise
from sivae.ops.ranges import annotated

# By dtype of the arithmetic: exp(-prior_logvar / 2) is finite.
_LEAST_PRIOR_LOGVAR = {dtype: -2.0 * math.log(torch.finfo(dtype).max) for dtype in (torch.float32, torch.float64)}


@annotated
def reparameterize(
    mu: Tensor,
    logvar: Tensor,
    *,
    noise: Tensor | PhiloxNoise | None = None,
    generator: torch.Generator | None = None,
    backend: str | None = None,
) -> Tensor:
    """Sample z = mu + exp(logvar / 2) * eps with eps ~ N(0, 1) (Kingma & Welling 2014, section 2.4).

    Args:
        mu, logvar: [B, ...] of one shape, float64, float32, bfloat16 or float16, also mixed: narrower ones are widened.
            Views are read in place.
        noise: eps itself ([B, ...], of any of these dtypes), or a `PhiloxNoise`; None draws a fresh seed.
        generator: draws the fresh seed; default: the default generator of mu's device.
        backend: "native", "triton", "reference" or None (the fastest available).

    Returns:
        z: [B, ...] in the dtype that torch promotes those of mu, logvar and eps to, so float32 for a bfloat16 mu and a
        float32 logvar. Arithmetic is in float32 (float64 where a tensor is float64).

    Error against float64 (float32): 4e-7 * (|mu| + |z - mu|) + 1e-6 * exp(logvar / 2).

    Raises:
        TypeError, ValueError: wrong type, dtype, shape or device, naming the argument.
        RuntimeError: the requested backend is not available, or a compiled backend is differentiated twice.
    """
    mu, logvar = check_pair("reparameterize", "mu", mu, "logvar", logvar)
    ops = backends.select("reparameterize", backend, mu.device)
    noise_tensor, offset = resolve_noise("reparameterize", mu, noise, generator)
    mu, logvar, noise_tensor = _with_eps(mu, logvar, noise_tensor)
    return ops.reparameterize(mu, logvar, noise_tensor, offset)


@annotated
def gaussian_kl(
    mu: Tensor,
    logvar: Tensor,
    *,
    prior_mu: float = 0.0,
    prior_logvar: float = 0.0,
    reduction: str = "none",
    backend: str | None = None,
) -> Tensor:
    """KL(N(mu, exp(logvar)) || N(prior_mu, exp(prior_logvar))) summed over each sample, in nats.

    kl = 1/2 sum [exp(d) - 1 - d + (mu - prior_mu)^2 exp(-prior_logvar)] with d = logvar - prior_logvar
    (Kingma & Welling 2014, appendix B, for a general diagonal prior). Every term is computed without cancellation, so
    the result keeps full relative accuracy next to the prior.

    Args:
        mu, logvar: [B, ...] of one shape, float64, float32, bfloat16 or float16, also mixed: the narrower one is
            widened. Views are read in place.
        prior_logvar: at least -177.4 (-1419.5 in float64), so that exp(-prior_logvar / 2) is finite.
        reduction: "none" gives [B]; "mean" and "sum" go over B (the mean of an empty batch is NaN).
        backend: "native", "triton", "reference" or None (the fastest available).

    Returns:
        kl: [B] or a scalar, float32 (float64 where a tensor is float64).

    Relative error against float64 (float32, n elements a sample, prior given in float32 numbers):
    (48 + min(n, 1024) / 4 [+ max |logvar - prior_logvar| where the prior is not standard]) * 6e-8.

    Raises:
        TypeError, ValueError: wrong type, dtype, shape or device, naming the argument.
        RuntimeError: the requested backend is not available, or a compiled backend is differentiated twice.
    """
    mu, logvar = check_pair("gaussian_kl", "mu", mu, "logvar", logvar)
    prior_mu, prior_logvar = _check_prior("gaussian_kl", prior_mu, prior_logvar, mu)
    index = reduction_index("gaussian_kl", reduction)
    return backends.select("gaussian_kl", backend, mu.device).gaussian_kl(mu, logvar, prior_mu, prior_logvar, index)


@annotated
def reparameterize_kl(
    mu: Tensor,
    logvar: Tensor,
    *,
    prior_mu: float = 0.0,
    prior_logvar: float = 0.0,
    noise: Tensor | PhiloxNoise | None = None,
    generator: torch.Generator | None = None,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """`reparameterize` and `gaussian_kl` in one pass over mu and logvar.

    Returns:
        z: [B, ...], as in `reparameterize`, kl: [B] in float32 (float64 where a tensor is float64), in nats.

    Arguments, accuracy and errors are those of the two ops.
    """
    mu, logvar = check_pair("reparameterize_kl", "mu", mu, "logvar", logvar)
    prior_mu, prior_logvar = _check_prior("reparameterize_kl", prior_mu, prior_logvar, mu)
    ops = backends.select("reparameterize_kl", backend, mu.device)
    noise_tensor, offset = resolve_noise("reparameterize_kl", mu, noise, generator)
    mu, logvar, noise_tensor = _with_eps(mu, logvar, noise_tensor)
    return ops.reparameterize_kl(mu, logvar, noise_tensor, offset, prior_mu, prior_logvar)


def _with_eps(mu: Tensor, logvar: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Widen mu and logvar, of one dtype, and an explicit eps to their common dtype; a seed stays as it is."""
    if noise.dtype == mu.dtype or noise.dtype == torch.int64:
        return mu, logvar, noise
    mu, eps = in_common_dtype(mu, noise)
    return mu, logvar.to(mu.dtype), eps


def _check_prior(op: str, prior_mu: float, prior_logvar: float, mu: Tensor) -> tuple[float, float]:
    prior_mu = check_scalar(op, "prior_mu", prior_mu)
    prior_logvar = check_scalar(op, "prior_logvar", prior_logvar)
    dtype = sum_dtype(mu.dtype)
    check_at_least(op, "prior_logvar", prior_logvar, _LEAST_PRIOR_LOGVAR[dtype], dtype)
    return prior_mu, prior_logvar
