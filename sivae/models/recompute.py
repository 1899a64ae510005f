"""Activation checkpointing of stages that may hold batch norm and may be frozen for single passes."""

from __future__ import annotations

import contextlib
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sivae.models.norm import batch_norms


def recomputed(stage: nn.Module, *inputs: Tensor | None) -> Any:
    """`stage(*inputs)`, of which only the inputs are kept for the backward pass; the rest is computed again there.

    Gradients and running statistics are those of `stage(*inputs)`, bit for bit, whatever is frozen by the time of the
    backward pass and whatever :func:`sivae.models.norm.batch_statistics` then says. The stage draws no random numbers,
    and is in the same mode then as now.
    """
    if torch.compiler.is_compiling():
        # The compiler repeats arithmetic only, never what moves a buffer.
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
    """Around a repeated pass: the second keeps for the backward pass just what the first did, and moves no statistics.

    What is kept depends on which parameters train, and on whether batch norm has running statistics to move: those it
    then moves here are copies.
    """

    def __init__(self, stage: nn.Module) -> None:
        self._trains = [(parameter, parameter.requires_grad) for parameter in stage.parameters()]
        self._tracks = [(norm, norm.track_running_stats) for norm in batch_norms(stage)]

    def __enter__(self) -> None:
        self._after = contextlib.ExitStack()
        for parameter, trains in self._trains:
            if parameter.requires_grad != trains:
                parameter.requires_grad_(trains)
                self._after.callback(parameter.requires_grad_, not trains)
        for norm, tracks in self._tracks:
            self._after.callback(norm.__dict__.update, track_running_stats=norm.track_running_stats)
            norm.track_running_stats = tracks
            if tracks:
                self._after.callback(norm._buffers.update, norm._buffers.copy())
                norm._buffers.update(
                    {name: None if buffer is None else buffer.clone() for name, buffer in norm._buffers.items()}
                )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._after.close()
