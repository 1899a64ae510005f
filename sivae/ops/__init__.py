"""Fused VAE loss ops with autograd. This package imports torch and nothing else."""

from sivae.ops.backends import available_backends, backend_status, native_build, use_backend
from sivae.ops.chamfer import chamfer_distance
from sivae.ops.exp_elbo import elbo, exp_elbo, log_exp_elbo
from sivae.ops.group_norm import group_norm_silu
from sivae.ops.latent import gaussian_kl, reparameterize, reparameterize_kl
from sivae.ops.mixture import mixture_log_prob
from sivae.ops.noise import PhiloxNoise, philox_normal
from sivae.ops.reconstruction import reconstruction_error
from sivae.ops.seeds import draw_seed
from sivae.ops.styled_norm import styled_instance_norm

__all__ = [
    "PhiloxNoise",
    "available_backends",
    "backend_status",
    "chamfer_distance",
    "draw_seed",
    "elbo",
    "exp_elbo",
    "gaussian_kl",
    "group_norm_silu",
    "log_exp_elbo",
    "mixture_log_prob",
    "native_build",
    "philox_normal",
    "reconstruction_error",
    "reparameterize",
    "reparameterize_kl",
    "styled_instance_norm",
    "use_backend",
]
