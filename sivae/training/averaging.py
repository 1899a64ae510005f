"""Keep an average of a model's weights, for evaluation."""

from __future__ import annotations

import copy

import torch
from torch import nn

from sivae.models import VAEModel


class AveragedModel:
    """A copy of a model whose parameters are an exponential average of the model's. Its buffers are the model's own.

    Args:
        model: the model to average; the copy starts equal to it.
        half_life: number of images after which a weight's share in the average has halved.
    """

    def __init__(self, model: VAEModel, half_life: float) -> None:
        self.model: VAEModel = copy.deepcopy(model).requires_grad_(False)
        self._half_life = half_life
        self._pairs = _pairs(self.model, model)

    @torch.no_grad()
    def update(self, batch_size: int) -> None:
        """Move the average towards the model's current weights, after an update on `batch_size` images."""
        averaged, current = self._pairs
        torch._foreach_lerp_(averaged, current, 1.0 - 0.5 ** (batch_size / self._half_life))

    @torch.no_grad()
    def take_buffers(self, model: nn.Module) -> None:
        """Copy the model's buffers, which include batch norm's running statistics."""
        for mine, theirs in zip(self.model.buffers(), model.buffers(), strict=True):
            mine.copy_(theirs)


def _pairs(averaged: nn.Module, model: nn.Module) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    return [p.data for p in averaged.parameters()], [p.data for p in model.parameters()]
