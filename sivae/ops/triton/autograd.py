"""Backward passes of the Triton ops, as in csrc/autograd.cpp: only needed gradients.

They are differentiable only once, except that of group norm.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sivae.ops import reference

NAMESPACE = "sivae_triton"


class _Once(torch.autograd.Function):
    """A backward op that raises where it is differentiated; the message names the public op."""

    @staticmethod
    def forward(ctx: Any, name: str, op: str, *args: Any) -> tuple[Tensor, ...]:
        ctx.name = name
        return _backward_op(op)(*args)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> None:
        raise RuntimeError(
            f"sivae.ops.{ctx.name}: no second derivative on this backend; "
            'pass backend="reference" where you differentiate twice'
        )


def _backward_op(op: str) -> Any:
    return getattr(getattr(torch.ops, NAMESPACE), op).default


def _once(name: str, op: str, *args: Any) -> tuple[Tensor, ...]:
    return _Once.apply(name, op, *args) if torch.is_grad_enabled() else _backward_op(op)(*args)


def _if_needed(gradients: tuple[Tensor, ...], needed: tuple[bool, ...]) -> list[Tensor | None]:
    return [gradient if need else None for gradient, need in zip(gradients, needed, strict=True)]


def _save_latents(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    mu, logvar, noise, *settings = inputs
    ctx.save_for_backward(mu, logvar, noise)
    ctx.settings = settings
    ctx.set_materialize_grads(False)


def _save_kl(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    mu, logvar, *settings = inputs
    ctx.save_for_backward(mu, logvar)
    ctx.settings = settings
    ctx.set_materialize_grads(False)


def _save_pair(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    first, second, *settings = inputs
    ctx.save_for_backward(first, second)
    ctx.settings = settings


def _reparameterize(ctx: Any, grad_z: Tensor | None) -> tuple[Any, ...]:
    mu, logvar, noise = ctx.saved_tensors
    (offset,) = ctx.settings
    needed = ctx.needs_input_grad[:3]
    found = _once("reparameterize", "latent_backward", grad_z, None, mu, logvar, noise, offset, 0.0, 0.0, 0, *needed)
    return *_if_needed(found, needed), None


def _gaussian_kl(ctx: Any, grad_kl: Tensor | None) -> tuple[Any, ...]:
    mu, logvar = ctx.saved_tensors
    prior_mu, prior_logvar, reduction = ctx.settings
    needed = (*ctx.needs_input_grad[:2], False)
    found = _once(
        "gaussian_kl", "latent_backward",
        None, grad_kl, mu, logvar, None, 0, prior_mu, prior_logvar, reduction, *needed,
    )  # fmt: skip
    return *_if_needed(found, needed)[:2], None, None, None


def _reparameterize_kl(ctx: Any, grad_z: Tensor | None, grad_kl: Tensor | None) -> tuple[Any, ...]:
    mu, logvar, noise = ctx.saved_tensors
    offset, prior_mu, prior_logvar = ctx.settings
    needed = ctx.needs_input_grad[:3]
    found = _once(
        "reparameterize_kl", "latent_backward",
        grad_z, grad_kl, mu, logvar, noise, offset, prior_mu, prior_logvar, 0, *needed,
    )  # fmt: skip
    return *_if_needed(found, needed), None, None, None


def _reconstruction_error(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    needed = ctx.needs_input_grad[:2]
    found = _once(
        "reconstruction_error", "reconstruction_error_backward", grad, *ctx.saved_tensors, *ctx.settings, *needed
    )
    return *_if_needed(found, needed), None, None


def _exp_elbo(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    needed = ctx.needs_input_grad[:2]
    found = _once("exp_elbo", "exp_elbo_backward", grad, *ctx.saved_tensors, *ctx.settings, *needed)
    return *_if_needed(found, needed), None, None, None, None, None


def _save_styled_norm(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, noise, noise_weight, bias, scale, _, *settings = inputs
    _, mean, std = output
    ctx.save_for_backward(x, noise, noise_weight, bias, scale, mean, std)
    ctx.settings = settings
    ctx.set_materialize_grads(False)


def _styled_norm(ctx: Any, grad_y: Tensor | None, grad_mean: Tensor | None, grad_std: Tensor | None) -> tuple[Any, ...]:
    by_x, _, *by_parameters = ctx.needs_input_grad[:6]  # the noise has no gradient
    needed = (by_x, *by_parameters)
    found = _once(
        "styled_instance_norm", "styled_instance_norm_backward",
        grad_y, grad_mean, grad_std, *ctx.saved_tensors, *ctx.settings, *needed,
    )  # fmt: skip
    grad_x, *grads = _if_needed(found, needed)
    return grad_x, None, *grads, None, None


def _save_group_norm(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, weight, bias, *ctx.settings = inputs
    ctx.save_for_backward(x, weight, bias, *output[1:])
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)


def _group_norm(ctx: Any, grad: Tensor | None, *others: Tensor | None) -> tuple[Any, ...]:
    if grad is None:
        return (None,) * 7
    *operands, mean, inverse_std = ctx.saved_tensors
    groups, activation, slope, _ = ctx.settings
    needed = ctx.needs_input_grad[:3]
    if torch.is_grad_enabled():  # under create_graph, a second backward pass may come: the reference's gradients
        wanted = [operand for operand, need in zip(operands, needed, strict=True) if need]
        y = reference.group_norm_silu(*operands, *ctx.settings)[0]
        gradients = iter(torch.autograd.grad(y, wanted, grad, create_graph=True))
        return *(next(gradients) if need else None for need in needed), *(None,) * 4
    found = _backward_op("group_norm_silu_backward")(
        grad, *operands, mean, inverse_std, groups, activation, slope, *needed
    )
    return *_if_needed(found, needed), *(None,) * 4


def _save_chamfer(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    points, targets, ctx.reduction = inputs
    _, nearest_target, nearest_point = output
    ctx.save_for_backward(points, targets, nearest_target, nearest_point)
    ctx.mark_non_differentiable(nearest_target, nearest_point)
    ctx.set_materialize_grads(False)


def _chamfer(ctx: Any, grad: Tensor | None, *_: Tensor | None) -> tuple[Any, ...]:
    if grad is None:
        return None, None, None
    needed = ctx.needs_input_grad[:2]
    found = _once("chamfer_distance", "chamfer_distance_backward", grad, *ctx.saved_tensors, ctx.reduction, *needed)
    return *_if_needed(found, needed), None


def _save_mixture(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs, *output)
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _mixture(ctx: Any, grad: Tensor | None, *_: Tensor | None) -> tuple[Any, ...]:
    if grad is None:
        return None, None, None, None
    needed = ctx.needs_input_grad[:4]
    found = _once("mixture_log_prob", "mixture_log_prob_backward", grad, *ctx.saved_tensors, *needed)
    return tuple(_if_needed(found, needed))


def register(library: torch.library.Library) -> None:
    """Give the ops of `library` their backward passes."""
    for name, backward, save in (
        ("reparameterize", _reparameterize, _save_latents),
        ("gaussian_kl", _gaussian_kl, _save_kl),
        ("reparameterize_kl", _reparameterize_kl, _save_latents),
        ("reconstruction_error", _reconstruction_error, _save_pair),
        ("exp_elbo", _exp_elbo, _save_pair),
        ("styled_instance_norm", _styled_norm, _save_styled_norm),
        ("group_norm_silu", _group_norm, _save_group_norm),
        ("chamfer_distance", _chamfer, _save_chamfer),
        ("mixture_log_prob", _mixture, _save_mixture),
    ):
        torch.library.register_autograd(f"{NAMESPACE}::{name}", backward, setup_context=save, lib=library)
