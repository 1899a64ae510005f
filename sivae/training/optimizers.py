"""Make the optimizers of a model, and set their learning rates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sivae.models import VAEModel

# Factor of the learning rate of a learned prior. Its means have to cross distances of about 1, which Adam's steps of
# 1e-4 do in 10,000 iterations; a network's output moves as far by many small changes.
_PRIOR_RATE = 10.0
_MOMENTS = {"step", "exp_avg", "exp_avg_sq"}  # of Adam


def make_optimizers(model: VAEModel, rate: float | Tensor, *, capturable: bool) -> dict[str, torch.optim.Optimizer]:
    """Make an optimizer for the encoder, one for the decoder, and one for the learned prior if the model has one.

    All are Adam, with one parameter group per scale of the learning rate, and without a first moment for models with
    equalised rates. The authors' own optimizer for these models is v <- .99 v + .01 g^2 with the step
    lr sqrt(1 - .99^t) g / (sqrt(v) + 1e-8). Adam differs only in its 1e-8, which is multiplied by sqrt(1 - .99^t):
    by a tenth at first and by nearly 1 later. So a step differs by less than 1e-8 / sqrt(v) of its size, which is
    negligible for gradients above 1e-5.

    Args:
        model: the model to train.
        rate: the first learning rate of all groups; if it is a tensor, :func:`set_rate` fills it.
        capturable: whether the steps will be captured in a CUDA graph.
    """
    scales = model.rate_scales()
    networks = {"encoder": model.encoder, "decoder": model.decoder}
    if model.prior is not None:
        networks["prior"] = model.prior
        scales = scales | {f"prior.{name}": _PRIOR_RATE for name, _ in model.prior.named_parameters()}
    return {
        name: _adam(_groups(network, name, scales), rate, capturable, betas=model.ADAM_BETAS)
        for name, network in networks.items()
    }


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of every group to `rate` times its scale, in place if the rate is a tensor."""
    for group in optimizer.param_groups:
        of_group = rate * group["rate_scale"]
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(of_group)
        else:
            group["lr"] = of_group


def load_state(optimizer: torch.optim.Optimizer, state: Mapping[int, Mapping[str, Tensor]]) -> None:
    """Load the moments of a state dict's "state"; the learning rates and other options stay the optimizer's own.

    Raises:
        ValueError: a moment is missing, or does not fit its parameter.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for number, moments in state.items():
        if number not in range(len(parameters)) or moments.keys() != _MOMENTS:
            raise ValueError(f"the optimizer has no parameter {number!r} with {', '.join(map(str, moments))}")
        for name, moment in moments.items():
            shape = () if name == "step" else tuple(parameters[number].shape)
            if moment.shape != shape or not moment.is_floating_point():
                raise ValueError(
                    f"{name} of parameter {number} is {moment.dtype} of shape {list(moment.shape)}, expected a "
                    f"floating type of shape {list(shape)}"
                )
    rates = [group["lr"] for group in optimizer.param_groups]
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate  # the same tensor as before, because a captured graph reads it


def _groups(network: nn.Module, prefix: str, scales: dict[str, float]) -> list[dict[str, Any]]:
    by_scale: dict[float, list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        by_scale.setdefault(scales.get(f"{prefix}.{name}", 1.0), []).append(parameter)
    return [{"params": parameters, "rate_scale": scale} for scale, parameters in by_scale.items()]


def _adam(
    groups: list[dict[str, Any]], rate: float | Tensor, capturable: bool, betas: tuple[float, float]
) -> torch.optim.Optimizer:
    for group in groups:
        group["lr"] = rate.clone() if isinstance(rate, Tensor) else rate
    try:
        return torch.optim.Adam(groups, betas=betas, fused=True, capturable=capturable)
    except RuntimeError:  # not every device has the fused kernel
        return torch.optim.Adam(groups, betas=betas)
