"""The optimizers of each kind of model."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sivae.models import VAEModel


def make_optimizers(model: VAEModel, rate: float | Tensor, *, capturable: bool) -> dict[str, torch.optim.Optimizer]:
    """One optimizer for the encoder and one for the decoder.

    Adam, in one group per scale of the rate; for models with equalised rates without its first moment. The authors' own
    optimizer for those, v <- .99 v + .01 g^2 with the step lr sqrt(1 - .99^t) g / (sqrt(v) + 1e-8), differs from it
    in where the 1e-8 comes in: Adam adds sqrt(1 - .99^t) times as much, a tenth at first and nearly all later. A step
    differs by less than 1e-8 / sqrt(v) of its size, which nothing notices where gradients are above 1e-5.

    Args:
        model: whose parameters to update.
        rate: of all groups at first; a tensor is filled anew by :func:`set_rate`.
        capturable: whether a CUDA graph will hold the steps.
    """
    scales = model.rate_scales()
    return {
        name: _adam(_groups(getattr(model, name), name, scales), rate, capturable, betas=model.ADAM_BETAS)
        for name in ("encoder", "decoder")
    }


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group its scale's share of a rate, in place where the rate is a tensor."""
    for group in optimizer.param_groups:
        of_group = rate * group["rate_scale"]
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(of_group)
        else:
            group["lr"] = of_group


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
