"""Test that a repeated pass is like the first one, whatever has changed between them."""

from __future__ import annotations

import contextlib
import copy

import pytest
import torch
from torch import Tensor, nn

from sivae import ops
from sivae.models.norm import running_statistics
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


def test_both_passes_have_the_mode_of_batch_norm_of_the_first() -> None:
    """Pseudo-inputs pass by running statistics, and the backward pass comes when the batch's are used again."""
    stage, x = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU()), torch.randn(5, 3, 2, 2)
    stage(x)  # running statistics that are not the first ones
    plain = copy.deepcopy(stage)
    with running_statistics(stage), running_statistics(plain):
        again, once = recomputed(stage, x), plain(x)
    for y in (again, once):
        y.square().sum().backward()
    assert stage[1].training
    for mine, other in zip(stage.parameters(), plain.parameters(), strict=True):
        assert mine.grad is not None and torch.equal(mine.grad, other.grad)
    for name, buffer in stage.named_buffers():
        assert torch.equal(buffer, plain.get_buffer(name)), name
