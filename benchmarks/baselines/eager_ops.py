"""The ops in eager PyTorch, with the arguments and results of the ops of the same name in `sivae.ops`."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from sivae.method.plain import exp_elbo, gaussian_kl, mse
from sivae.method.plain import sample as reparameterize

__all__ = [
    "batch_norm_leaky_relu",
    "chamfer_distance",
    "chamfer_distance_over_cdist",
    "exp_elbo",
    "gaussian_kl",
    "group_norm_silu",
    "mixture_log_prob",
    "mixture_log_prob_over_products",
    "mse",
    "reparameterize",
    "reparameterize_kl",
    "styled_instance_norm",
]


def reparameterize_kl(mu: Tensor, logvar: Tensor) -> tuple[Tensor, Tensor]:
    """mu, logvar [B, ...] -> z [B, ...], kl [B]."""
    return reparameterize(mu, logvar), gaussian_kl(mu, logvar)


def styled_instance_norm(
    x: Tensor, noise: Tensor, noise_weight: Tensor, bias: Tensor, scale: Tensor, shift: Tensor
) -> Tensor:
    """x [B, C, H, W], noise [B, 1, H, W], noise_weight and bias [C], scale and shift [B, C] -> [B, C, H, W]."""
    u = F.leaky_relu(x + noise * noise_weight[:, None, None] + bias[:, None, None], 0.2)
    return F.instance_norm(u, eps=1e-8) * (1 + scale[:, :, None, None]) + shift[:, :, None, None]


def group_norm_silu(x: Tensor, weight: Tensor, bias: Tensor, num_groups: int = 32) -> Tensor:
    """x [B, C, ...], weight and bias [C] -> [B, C, ...]."""
    return F.silu(F.group_norm(x, num_groups, weight, bias))


def batch_norm_leaky_relu(x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor) -> Tensor:
    """x and residual [B, C, H, W], weight and bias [C] -> [B, C, H, W]."""
    return F.leaky_relu(F.batch_norm(x, None, None, weight, bias, training=True) + residual, 0.2)


def chamfer_distance(points: Tensor, targets: Tensor) -> Tensor:
    """points [B, N, D], targets [B, M, D] -> [B], by |x|^2 + |y|^2 - 2 x y, as the authors' program does it."""
    squares = [torch.bmm(cloud, cloud.mT).diagonal(dim1=1, dim2=2) for cloud in (points, targets)]  # [B, N], [B, M]
    pairs = squares[0][:, :, None] + squares[1][:, None] - 2 * torch.bmm(points, targets.mT)  # [B, N, M]
    return pairs.min(2).values.sum(1) + pairs.min(1).values.sum(1)


def chamfer_distance_over_cdist(points: Tensor, targets: Tensor) -> Tensor:
    """points [B, N, D], targets [B, M, D] -> [B]; only the nearest points take part in the backward pass."""
    with torch.no_grad():
        pairs = torch.cdist(points, targets)  # [B, N, M]
        nearest_target, nearest_point = pairs.min(2).indices, pairs.min(1).indices

    def squares(of: Tensor, to: Tensor, nearest: Tensor) -> Tensor:
        return (of - to.gather(1, nearest[:, :, None].expand(of.shape))).square().sum((1, 2))

    return squares(points, targets, nearest_target) + squares(targets, points, nearest_point)


def mixture_log_prob(z: Tensor, weights: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    """z [N, L], weights [K], mu and logvar [K, L] -> [N], by tensors of [N, K, L]."""
    terms = (z[:, None] - mu).square() * torch.exp(-logvar) + (logvar + math.log(2 * math.pi))  # [N, K, L]
    return torch.logsumexp(weights.log() - 0.5 * terms.sum(2), 1)


def mixture_log_prob_over_products(z: Tensor, weights: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    """The same by matrix products, z^2 / s - 2 z mu / s + mu^2 / s with the variance s, which cancels far from 0."""
    precision = torch.exp(-logvar)
    distances = z.square() @ precision.t() - 2 * z @ (mu * precision).t() + (mu.square() * precision).sum(1)  # [N, K]
    peaks = (logvar + math.log(2 * math.pi)).sum(1)
    return torch.logsumexp(weights.log() - 0.5 * (distances + peaks), 1)
