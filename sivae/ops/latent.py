"""Sample the latent posterior N(mu, exp(logvar)), compute its KL divergence, or do both in one pass."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from torch import Tensor

from sivae.ops import backends
from sivae.ops.checks import check_pair, in_common_dtype, reduction_index
from sivae.ops.library import REDUCTIONS
from sivae.ops.noise import PhiloxNoise, resolve_noise
from sivae.ops.priors import (
    Parameter,
    Prior,
    check_balance,
    check_prior,
    detached,
    has_tensors,
    relative,
    share_gradient,
)
from sivae.ops.ranges import annotated


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
    prior_mu: Parameter = 0.0,
    prior_logvar: Parameter = 0.0,
    kl_balance: float | None = None,
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
        prior_mu, prior_logvar: numbers, or tensors of any of these dtypes that expand to mu's shape, such as one prior
            for all samples ([1, ...]) or one for each ([B, ...]), with gradients to them.
        prior_logvar: at least -177.4 (-1419.5 in float64), so that exp(-prior_logvar / 2) is finite. A tensor is not
            checked, because a GPU would have to be waited for; below, the KL is NaN or infinite.
        kl_balance: b in [0, 1]; the value stays, the gradient becomes b KL(q || sg p) + (1 - b) KL(sg q || p), in which
            sg stops gradients. None is the plain KL.
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
    prior = check_prior("gaussian_kl", prior_mu, prior_logvar, mu)
    balance = check_balance("gaussian_kl", kl_balance)
    index = reduction_index("gaussian_kl", reduction)
    return _kl(backends.select("gaussian_kl", backend, mu.device), mu, logvar, prior, balance, index)


@annotated
def reparameterize_kl(
    mu: Tensor,
    logvar: Tensor,
    *,
    prior_mu: Parameter = 0.0,
    prior_logvar: Parameter = 0.0,
    kl_balance: float | None = None,
    noise: Tensor | PhiloxNoise | None = None,
    generator: torch.Generator | None = None,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """`reparameterize` and `gaussian_kl` in one pass over mu and logvar (in two with a prior of tensors or a balance).

    Returns:
        z: [B, ...], as in `reparameterize`, kl: [B] in float32 (float64 where a tensor is float64), in nats.

    Arguments, accuracy and errors are those of the two ops.
    """
    mu, logvar = check_pair("reparameterize_kl", "mu", mu, "logvar", logvar)
    prior = check_prior("reparameterize_kl", prior_mu, prior_logvar, mu)
    balance = check_balance("reparameterize_kl", kl_balance)
    ops = backends.select("reparameterize_kl", backend, mu.device)
    noise_tensor, offset = resolve_noise("reparameterize_kl", mu, noise, generator)
    mu, logvar, noise_tensor = _with_eps(mu, logvar, noise_tensor)
    if balance is None and not has_tensors(prior):
        return ops.reparameterize_kl(mu, logvar, noise_tensor, offset, *prior)
    # In two passes: the gradients through z are not those of a rescaled posterior, nor are they balanced.
    z = ops.reparameterize(mu, logvar, noise_tensor, offset)
    return z, _kl(ops, mu, logvar, prior, balance, REDUCTIONS.index("none"))


def _kl(
    ops: SimpleNamespace,
    mu: Tensor,
    logvar: Tensor,
    prior: Prior,
    balance: float | None,
    reduction: int,
) -> Tensor:
    if balance is not None:
        parts = [(balance, _kl(ops, mu, logvar, detached(prior), None, reduction))]
        if has_tensors(prior):
            parts.append((1.0 - balance, _kl(ops, mu.detach(), logvar.detach(), prior, None, reduction)))
        return share_gradient(parts[0][1], *parts)
    if has_tensors(prior):
        mu, logvar, prior = relative(mu, logvar, prior)
    kl: Tensor = ops.gaussian_kl(mu, logvar, *prior, reduction)
    return kl


def _with_eps(mu: Tensor, logvar: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Widen mu and logvar, of one dtype, and an explicit eps to their common dtype; a seed stays as it is."""
    if noise.dtype == mu.dtype or noise.dtype == torch.int64:
        return mu, logvar, noise
    mu, eps = in_common_dtype(mu, noise)
    return mu, logvar.to(mu.dtype), eps
