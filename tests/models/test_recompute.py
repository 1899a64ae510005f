"""Test that a repeated pass is like the first one, whatever has changed between them."""

from __future__ import annotations

import contextlib

import pytest
import torch
from torch import Tensor, nn

from sivae import ops
from sivae.models.recompute import recomputed
from sivae.ops import backends


class Stage(nn.Module):
    """Samples from a layer's output, and keeps the names of the backends in force."""

    def __init__(self, noise: ops.PhiloxNoise | None) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 4)
        self.noise = noise
        self.chosen: list[str | None] = []

    def forward(self, x: Tensor) -> Tensor:
        self.chosen.append(backends.in_force())
        return ops.reparameterize(*self.layer(x).chunk(2, dim=1), noise=self.noise)


@pytest.mark.parametrize("first", ["reference", None])
def test_both_passes_have_the_backend_of_the_first(first: str | None) -> None:
    """Another backend would save other tensors, which torch refuses."""
    stage, x = Stage(ops.PhiloxNoise(5)), torch.ones(2, 3)
    with contextlib.nullcontext() if first is None else ops.use_backend(first):
        recomputed(stage, x).sum().backward()
        expected = stage.layer.weight.grad
        stage.layer.weight.grad = None
        z = recomputed(stage, x)
    with contextlib.nullcontext() if first else ops.use_backend("reference"):
        z.sum().backward()
    assert stage.chosen == [first] * 4
    assert torch.equal(stage.layer.weight.grad, expected)


def test_a_stage_that_draws_is_refused() -> None:
    z = recomputed(Stage(None), torch.ones(2, 3))
    with pytest.raises(RuntimeError, match=r"^reparameterize: a checkpoint with preserve_rng_state=False"):
        z.sum().backward()
