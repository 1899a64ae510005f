"""Schemas and fake kernels of the fused ops for torch.library, defined once for each backend.

Every compiled backend implements the same low-level ops in a namespace of its own (`sivae_native`, `sivae_triton`), so
the public functions call all of them the same way. Conventions of the schemas:

* `noise` is either an int64 tensor of one element, a Philox seed, or an explicit eps of mu's shape and dtype.
* `reduction` and `kind` are positions in `REDUCTIONS` and `KINDS`.
* `chamfer_distance` also returns the int32 position of each point's nearest target and of each target's nearest point,
  which its backward op needs; -1 is none.
* `activation` is a position in `ACTIVATIONS`. `group_norm_silu` also returns the mean and the inverse standard
  deviation [B, groups] in float64, which its backward op needs.
* `mixture_log_prob` also returns the log density [N, K] of each component, which its backward op needs.
* A backward op returns an empty tensor of shape [0] for a gradient whose `need_*` flag is not set.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

REDUCTIONS = ("none", "mean", "sum")
KINDS = ("mse", "l1", "bce", "bce_with_logits")
ACTIVATIONS = ("none", "leaky_relu", "silu")

_SCHEMAS = (
    "reparameterize(Tensor mu, Tensor logvar, Tensor noise, int offset) -> Tensor",
    "gaussian_kl(Tensor mu, Tensor logvar, float prior_mu, float prior_logvar, int reduction) -> Tensor",
    "reparameterize_kl(Tensor mu, Tensor logvar, Tensor noise, int offset, float prior_mu, float prior_logvar)"
    " -> (Tensor, Tensor)",
    "latent_backward(Tensor? grad_z, Tensor? grad_kl, Tensor mu, Tensor logvar, Tensor? noise, int offset,"
    " float prior_mu, float prior_logvar, int reduction, bool need_mu, bool need_logvar, bool need_noise)"
    " -> (Tensor, Tensor, Tensor)",
    "reconstruction_error(Tensor recon, Tensor target, int kind, int reduction) -> Tensor",
    "reconstruction_error_backward(Tensor grad, Tensor recon, Tensor target, int kind, int reduction,"
    " bool need_recon, bool need_target) -> (Tensor, Tensor)",
    "exp_elbo(Tensor rec, Tensor kl, float scale, float beta_rec, float beta_kl, float alpha, int reduction) -> Tensor",
    "exp_elbo_backward(Tensor grad, Tensor rec, Tensor kl, float scale, float beta_rec, float beta_kl, float alpha,"
    " int reduction, bool need_rec, bool need_kl) -> (Tensor, Tensor)",
    "styled_instance_norm(Tensor x, Tensor? noise, Tensor? noise_weight, Tensor? bias, Tensor? scale, Tensor? shift,"
    " float negative_slope, float eps) -> (Tensor, Tensor, Tensor)",
    "styled_instance_norm_backward(Tensor? grad_y, Tensor? grad_mean, Tensor? grad_std, Tensor x, Tensor? noise,"
    " Tensor? noise_weight, Tensor? bias, Tensor? scale, Tensor mean, Tensor std, float negative_slope, float eps,"
    " bool need_x, bool need_noise_weight, bool need_bias, bool need_scale, bool need_shift)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    "group_norm_silu(Tensor x, Tensor? weight, Tensor? bias, int groups, int activation, float negative_slope,"
    " float eps) -> (Tensor, Tensor, Tensor)",
    "group_norm_silu_backward(Tensor grad_y, Tensor x, Tensor? weight, Tensor? bias, Tensor mean, Tensor inverse_std,"
    " int groups, int activation, float negative_slope, bool need_x, bool need_weight, bool need_bias)"
    " -> (Tensor, Tensor, Tensor)",
    "chamfer_distance(Tensor points, Tensor targets, int reduction) -> (Tensor, Tensor, Tensor)",
    "chamfer_distance_backward(Tensor grad, Tensor points, Tensor targets, Tensor nearest_target,"
    " Tensor nearest_point, int reduction, bool need_points, bool need_targets) -> (Tensor, Tensor)",
    "mixture_log_prob(Tensor z, Tensor weights, Tensor mu, Tensor logvar) -> (Tensor, Tensor)",
    "mixture_log_prob_backward(Tensor grad, Tensor z, Tensor weights, Tensor mu, Tensor logvar, Tensor log_prob,"
    " Tensor densities, bool need_z, bool need_weights, bool need_mu, bool need_logvar)"
    " -> (Tensor, Tensor, Tensor, Tensor)",
    "philox_normal(Tensor seed, int offset, SymInt[] shape, ScalarType dtype) -> Tensor",
)


def sum_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of sums and losses: float64 for float64, else float32."""
    return torch.float64 if dtype is torch.float64 else torch.float32


def _per_sample_like(tensor: Tensor, reduction: int) -> Tensor:
    shape = (tensor.shape[0],) if REDUCTIONS[reduction] == "none" else ()
    return tensor.new_empty(shape, dtype=sum_dtype(tensor.dtype))


def _grad_like(tensor: Tensor, needed: bool) -> Tensor:
    return torch.empty_like(tensor) if needed else tensor.new_empty((0,))


def _contiguous_grad(tensor: Tensor, needed: bool) -> Tensor:
    return tensor.new_empty(tensor.shape if needed else (0,))


def _fake_reparameterize(mu, logvar, noise, offset):
    return torch.empty_like(mu)


def _fake_gaussian_kl(mu, logvar, prior_mu, prior_logvar, reduction):
    return _per_sample_like(mu, reduction)


def _fake_reparameterize_kl(mu, logvar, noise, offset, prior_mu, prior_logvar):
    return torch.empty_like(mu), _per_sample_like(mu, REDUCTIONS.index("none"))


def _fake_latent_backward(
    grad_z, grad_kl, mu, logvar, noise, offset, prior_mu, prior_logvar, reduction, need_mu, need_logvar, need_noise
):
    eps = mu if noise is None or noise.dtype == torch.int64 else noise
    return _grad_like(mu, need_mu), _grad_like(logvar, need_logvar), _grad_like(eps, need_noise)


def _fake_reconstruction_error(recon, target, kind, reduction):
    return _per_sample_like(recon, reduction)


def _fake_reconstruction_error_backward(grad, recon, target, kind, reduction, need_recon, need_target):
    return _grad_like(recon, need_recon), _grad_like(target, need_target)


def _fake_exp_elbo(rec, kl, scale, beta_rec, beta_kl, alpha, reduction):
    return _per_sample_like(rec, reduction)


def _fake_exp_elbo_backward(grad, rec, kl, scale, beta_rec, beta_kl, alpha, reduction, need_rec, need_kl):
    return _grad_like(rec, need_rec), _grad_like(kl, need_kl)


def _fake_styled_instance_norm(x, noise, noise_weight, bias, scale, shift, negative_slope, eps):
    mean, std = (x.new_empty(x.shape[:2], dtype=sum_dtype(x.dtype)) for _ in range(2))
    return torch.empty_like(x), mean, std


def _fake_styled_instance_norm_backward(
    grad_y,
    grad_mean,
    grad_std,
    x,
    noise,
    noise_weight,
    bias,
    scale,
    mean,
    std,
    negative_slope,
    eps,
    need_x,
    need_noise_weight,
    need_bias,
    need_scale,
    need_shift,
):
    return (
        _grad_like(x, need_x),
        _contiguous_grad(x if noise_weight is None else noise_weight, need_noise_weight),
        _contiguous_grad(x if bias is None else bias, need_bias),
        _contiguous_grad(x if scale is None else scale, need_scale),
        _contiguous_grad(x if scale is None else scale, need_shift),
    )


def _fake_group_norm_silu(x, weight, bias, groups, activation, negative_slope, eps):
    mean, inverse_std = (x.new_empty((x.shape[0], groups), dtype=torch.float64) for _ in range(2))
    return torch.empty_like(x), mean, inverse_std


def _fake_group_norm_silu_backward(
    grad_y, x, weight, bias, mean, inverse_std, groups, activation, negative_slope, need_x, need_weight, need_bias
):
    return (
        _grad_like(x, need_x),
        _contiguous_grad(x if weight is None else weight, need_weight),
        _contiguous_grad(x if bias is None else bias, need_bias),
    )


def _fake_chamfer_distance(points, targets, reduction):
    nearest = (cloud.new_empty(cloud.shape[:2], dtype=torch.int32) for cloud in (points, targets))
    return _per_sample_like(points, reduction), *nearest


def _fake_chamfer_distance_backward(
    grad, points, targets, nearest_target, nearest_point, reduction, need_points, need_targets
):
    return _grad_like(points, need_points), _grad_like(targets, need_targets)


def _fake_mixture_log_prob(z, weights, mu, logvar):
    log_prob = _per_sample_like(z, REDUCTIONS.index("none"))
    return log_prob, log_prob.new_empty((z.shape[0], mu.shape[0]))


def _fake_mixture_log_prob_backward(
    grad, z, weights, mu, logvar, log_prob, densities, need_z, need_weights, need_mu, need_logvar
):
    return (
        _grad_like(z, need_z),
        _contiguous_grad(weights, need_weights),
        _contiguous_grad(mu, need_mu),
        _contiguous_grad(logvar, need_logvar),
    )


def _fake_philox_normal(seed, offset, shape, dtype):
    return torch.empty(shape, dtype=dtype, device=seed.device)


_FAKES: dict[str, Callable[..., object]] = {
    "reparameterize": _fake_reparameterize,
    "gaussian_kl": _fake_gaussian_kl,
    "reparameterize_kl": _fake_reparameterize_kl,
    "latent_backward": _fake_latent_backward,
    "reconstruction_error": _fake_reconstruction_error,
    "reconstruction_error_backward": _fake_reconstruction_error_backward,
    "exp_elbo": _fake_exp_elbo,
    "exp_elbo_backward": _fake_exp_elbo_backward,
    "styled_instance_norm": _fake_styled_instance_norm,
    "styled_instance_norm_backward": _fake_styled_instance_norm_backward,
    "group_norm_silu": _fake_group_norm_silu,
    "group_norm_silu_backward": _fake_group_norm_silu_backward,
    "chamfer_distance": _fake_chamfer_distance,
    "chamfer_distance_backward": _fake_chamfer_distance_backward,
    "mixture_log_prob": _fake_mixture_log_prob,
    "mixture_log_prob_backward": _fake_mixture_log_prob_backward,
    "philox_normal": _fake_philox_normal,
}
# The ops that public functions call.
OP_NAMES = tuple(name for name in _FAKES if not name.endswith("_backward"))
BACKWARD_OP_NAMES = tuple(name for name in _FAKES if name.endswith("_backward"))


def define_ops(namespace: str) -> torch.library.Library:
    """Define every op in `namespace`, with its fake kernel. The caller must keep the result alive."""
    library = torch.library.Library(namespace, "DEF")
    for schema in _SCHEMAS:
        library.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    for name, fake in _FAKES.items():
        torch.library.register_fake(f"{namespace}::{name}", fake, lib=library)
    return library
