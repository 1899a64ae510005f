"""The ops in Triton: for NVIDIA GPUs, and on the CPU in Triton's interpreter.

Importing this package imports triton and registers the ops in the namespace `sivae_triton`.
"""

from __future__ import annotations

from types import SimpleNamespace

import torch

from sivae.ops import library, transforms
from sivae.ops.triton import autograd
from sivae.ops.triton.chamfer import chamfer_distance, chamfer_distance_backward
from sivae.ops.triton.exp_elbo import exp_elbo, exp_elbo_backward
from sivae.ops.triton.group_norm import group_norm_silu, group_norm_silu_backward
from sivae.ops.triton.latent import gaussian_kl, latent_backward, reparameterize, reparameterize_kl
from sivae.ops.triton.mixture import mixture_log_prob, mixture_log_prob_backward
from sivae.ops.triton.philox import philox_normal
from sivae.ops.triton.reconstruction import reconstruction_error, reconstruction_error_backward
from sivae.ops.triton.styled_norm import styled_instance_norm
from sivae.ops.triton.styled_norm_backward import styled_instance_norm_backward

_library = library.define_ops(autograd.NAMESPACE)
for _function in (
    reparameterize,
    gaussian_kl,
    reparameterize_kl,
    latent_backward,
    reconstruction_error,
    reconstruction_error_backward,
    exp_elbo,
    exp_elbo_backward,
    styled_instance_norm,
    styled_instance_norm_backward,
    group_norm_silu,
    group_norm_silu_backward,
    chamfer_distance,
    chamfer_distance_backward,
    mixture_log_prob,
    mixture_log_prob_backward,
    philox_normal,
):
    for _key in ("CPU", "CUDA"):
        _library.impl(_function.__name__, _function, _key)
autograd.register(_library)
transforms.support_transforms(_library, autograd.NAMESPACE)

_namespace = getattr(torch.ops, autograd.NAMESPACE)
OPS = SimpleNamespace(**{name: getattr(_namespace, name).default for name in library.OP_NAMES})
