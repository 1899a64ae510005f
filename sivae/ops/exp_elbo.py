"""The ELBO and its soft exponential, from rec and kl of each sample."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sivae.ops import backends
from sivae.ops.checks import check_at_least, check_pair, check_per_sample, check_scalar, reduction_index
from sivae.ops.latent import gaussian_kl
from sivae.ops.library import sum_dtype
from sivae.ops.priors import Parameter
from sivae.ops.ranges import annotated
from sivae.ops.reconstruction import reconstruction_error

# By dtype of the arithmetic: 1 / alpha is finite.
_LEAST_ALPHA = {dtype: 1.0 / torch.finfo(dtype).max for dtype in (torch.float32, torch.float64)}


@annotated
def exp_elbo(
    rec: Tensor,
    kl: Tensor,
    *,
    scale: float,
    beta_rec: float = 1.0,
    beta_kl: float = 1.0,
    alpha: float = 2.0,
    reduction: str = "mean",
    backend: str | None = None,
) -> Tensor:
    """The soft exponential (1/alpha) exp(t), t = -alpha scale (beta_rec rec + beta_kl kl), of each fake sample.

    It is the fake term of the encoder's loss (Soft-IntroVAE, Daniel & Tamar 2021, Eq. 5 and Algorithm 1), taken per
    sample and then reduced. Below the smallest float the value is exactly 0 with gradient 0. Above t = 32 it continues
    as the tangent (1/alpha) exp(32) (1 + t - 32), so value and gradient are finite for |t| up to 1e20.

    Args:
        rec, kl: [B], the per-sample reconstruction error and KL; float64, float32, bfloat16 or float16, also mixed.
        scale: the constant s, 1/(C H W) for images, 1/2 in 2D. Required: a wrong one silently changes the method.
        beta_rec, beta_kl: weights of rec and kl (beta_kl is beta_neg for fakes).
        alpha: sharpness, above 0; 1 / alpha must be finite in the result's dtype.
        reduction: "mean" (default), "sum" or "none"; the mean of an empty batch is NaN.
        backend: "native", "triton", "reference" or None (the fastest available).

    Returns:
        A scalar or [B], float32 (float64 where a tensor is float64). Relative error against float64 (float32,
        normal results): (|t| + 8) * 1.2e-7; t itself is computed in float64.

    Raises:
        TypeError, ValueError: wrong type, dtype, shape, device or number, naming the argument.
        RuntimeError: the requested backend is not available, or a compiled backend is differentiated twice.
    """
    rec, kl = check_pair("exp_elbo", "rec", rec, "kl", kl)
    check_per_sample("exp_elbo", "rec", rec)
    scale = check_scalar("exp_elbo", "scale", scale, positive=True)
    beta_rec = check_scalar("exp_elbo", "beta_rec", beta_rec)
    beta_kl = check_scalar("exp_elbo", "beta_kl", beta_kl)
    alpha = check_scalar("exp_elbo", "alpha", alpha, positive=True)
    dtype = sum_dtype(rec.dtype)
    check_at_least("exp_elbo", "alpha", alpha, _LEAST_ALPHA[dtype], dtype)
    index = reduction_index("exp_elbo", reduction)
    ops = backends.select("exp_elbo", backend, rec.device)
    return ops.exp_elbo(rec, kl, scale, beta_rec, beta_kl, alpha, index)


@annotated
def log_exp_elbo(
    rec: Tensor, kl: Tensor, *, scale: float, beta_rec: float = 1.0, beta_kl: float = 1.0, alpha: float = 2.0
) -> Tensor:
    """ln of the batch mean of (1/alpha) exp(t), with t as in `exp_elbo` and no linear continuation; for logging.

    Computed by log-sum-exp, so it never underflows: where `exp_elbo` is 0 it still gives -300 or -3000.

    Args:
        rec, kl: [B], as in `exp_elbo`.

    Returns:
        A scalar, float32 (float64 where a tensor is float64); NaN for an empty batch.

    Raises:
        TypeError, ValueError: wrong type, dtype, shape, device or number, naming the argument.
    """
    rec, kl = check_pair("log_exp_elbo", "rec", rec, "kl", kl)
    check_per_sample("log_exp_elbo", "rec", rec)
    scale = check_scalar("log_exp_elbo", "scale", scale, positive=True)
    beta_rec = check_scalar("log_exp_elbo", "beta_rec", beta_rec)
    beta_kl = check_scalar("log_exp_elbo", "beta_kl", beta_kl)
    alpha = check_scalar("log_exp_elbo", "alpha", alpha, positive=True)
    dtype = sum_dtype(rec.dtype)
    count = rec.shape[0]
    if isinstance(count, int) and count == 0:
        return torch.full((), math.nan, dtype=dtype, device=rec.device)
    t = -alpha * scale * (beta_rec * rec.to(dtype) + beta_kl * kl.to(dtype))  # [B]
    if isinstance(count, int):
        # A tensor: forward derivatives of a scalar less a number of Python are float64.
        shift = t.new_full((), math.log(alpha * count))
    else:  # a size that stays open in an export
        shift = (alpha * torch.ones_like(t).sum()).log()
    return torch.logsumexp(t, dim=0) - shift


@annotated
def elbo(
    recon: Tensor,
    target: Tensor,
    mu: Tensor,
    logvar: Tensor,
    *,
    beta_rec: float = 1.0,
    beta_kl: float = 1.0,
    kind: str = "mse",
    prior_mu: Parameter = 0.0,
    prior_logvar: Parameter = 0.0,
    kl_balance: float | None = None,
    backend: str | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """ELBO = -(beta_rec rec + beta_kl kl) of each sample, with its two parts.

    Args:
        recon, target: [B, ...], as in `reconstruction_error`.
        mu, logvar, prior_mu, prior_logvar, kl_balance: as in `gaussian_kl`; B is the same.

    Returns:
        elbo, rec, kl: each [B], float32 (float64 where a tensor is float64; of rec and kl each by its own tensors).

    Raises:
        TypeError, ValueError: wrong type, dtype, shape, device or number, naming the argument.
        RuntimeError: the requested backend is not available, or a compiled backend is differentiated twice.
    """
    check_pair("elbo", "recon", recon, "target", target)
    check_pair("elbo", "mu", mu, "logvar", logvar)
    if mu.shape[0] != recon.shape[0]:
        raise ValueError(f"elbo: mu has batch size {mu.shape[0]}, expected {recon.shape[0]} as recon")
    if mu.device != recon.device:
        raise ValueError(f"elbo: mu is on {mu.device}, expected {recon.device} as recon")
    beta_rec = check_scalar("elbo", "beta_rec", beta_rec)
    beta_kl = check_scalar("elbo", "beta_kl", beta_kl)
    rec = reconstruction_error(recon, target, kind=kind, backend=backend)
    kl = gaussian_kl(mu, logvar, prior_mu=prior_mu, prior_logvar=prior_logvar, kl_balance=kl_balance, backend=backend)
    return -(beta_rec * rec + beta_kl * kl), rec, kl
