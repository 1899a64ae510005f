"""The ops in plain PyTorch. They define the results that every other backend must give.

They consist of differentiable PyTorch calls, so autograd, torch.compile and second derivatives work. Each function has
the signature of its schema in `sivae.ops.library`.
"""

from sivae.ops.reference.chamfer import chamfer_distance
from sivae.ops.reference.exp_elbo import exp_elbo
from sivae.ops.reference.group_norm import group_norm_silu
from sivae.ops.reference.latent import gaussian_kl, reparameterize, reparameterize_kl
from sivae.ops.reference.mixture import mixture_log_prob
from sivae.ops.reference.philox import philox_normal
from sivae.ops.reference.reconstruction import reconstruction_error
from sivae.ops.reference.styled_norm import styled_instance_norm

__all__ = [
    "chamfer_distance",
    "exp_elbo",
    "gaussian_kl",
    "group_norm_silu",
    "mixture_log_prob",
    "philox_normal",
    "reconstruction_error",
    "reparameterize",
    "reparameterize_kl",
    "styled_instance_norm",
]
