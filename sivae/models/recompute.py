"""Activation checkpointing for stages that may contain batch norm and may be frozen for single passes."""

from __future__ import annotations

import contextlib
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sivae.models.base import VAEModel
from sivae.models.norm import batch_norms
from sivae.ops import backends


class StagedNetwork(nn.Module):
    """A network of stages. In the backward pass it may compute the activations of a stage again."""

    checkpoint_activations = False

    def _through(self, stage: nn.Module, *inputs: Tensor | None) -> Any:
        if self.checkpoint_activations and torch.is_grad_enabled():
            return recomputed(stage, *inputs)
        return stage(*inputs)


class StagedVAE(VAEModel):
    """A model of two staged networks."""

    encoder: StagedNetwork
    decoder: StagedNetwork

    @property
    def checkpoint_activations(self) -> bool:
        """Whether both networks compute activations again."""
        return self.encoder.checkpoint_activations and self.decoder.checkpoint_activations

    @checkpoint_activations.setter
    def checkpoint_activations(self, value: bool) -> None:
        self.encoder.checkpoint_activations = self.decoder.checkpoint_activations = value


def recomputed(stage: nn.Module, *inputs: Tensor | None) -> Any:
    """Compute `stage(*inputs)`, keep only the inputs for the backward pass, and compute the rest again there.

    Gradients and running statistics are those of `stage(*inputs)`, bit for bit. It does not matter which parameters are
    frozen at the time of the backward pass, which backend of the ops is in force, or whether
    :func:`sivae.models.norm.batch_statistics` or :func:`sivae.models.norm.running_statistics` is active then. The stage
    must not draw random numbers (the ops raise an error), and apart from batch norm it must be in the same mode in both
    passes.
    """
    if torch.compiler.is_compiling():
        # The compiler repeats only arithmetic, never an update of a buffer.
        return checkpoint(stage, *inputs, use_reentrant=False, preserve_rng_state=False)
    again = _AsInFirstPass(stage)
    return checkpoint(
        stage,
        *inputs,
        use_reentrant=False,
        preserve_rng_state=False,
        context_fn=lambda: (contextlib.nullcontext(), again),
    )


class _AsInFirstPass:
    """Makes a repeated pass save the same tensors for backward as the first one, without updating statistics.

    The saved tensors depend on which parameters train, on the backend of the ops, and on whether batch norm uses and
    updates its running statistics. So these are as in the first pass; the repeated pass updates copies of the
    statistics.
    """

    def __init__(self, stage: nn.Module) -> None:
        self._backend = backends.in_force()
        self._trains = [(parameter, parameter.requires_grad) for parameter in stage.parameters()]
        self._norms = [(norm, norm.training, norm.track_running_stats) for norm in batch_norms(stage)]

    def __enter__(self) -> None:
        self._after = contextlib.ExitStack()
        self._after.enter_context(backends.restored(self._backend))
        for parameter, trains in self._trains:
            if parameter.requires_grad != trains:
                parameter.requires_grad_(trains)
                self._after.callback(parameter.requires_grad_, not trains)
        for norm, training, tracks in self._norms:
            now = {"training": norm.training, "track_running_stats": norm.track_running_stats}
            self._after.callback(norm.__dict__.update, now)
            norm.training, norm.track_running_stats = training, tracks
            if tracks:
                self._after.callback(norm._buffers.update, norm._buffers.copy())
                norm._buffers.update(
                    {name: None if buffer is None else buffer.clone() for name, buffer in norm._buffers.items()}
                )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._after.close()
