"""What the plain step of Soft-IntroVAE does besides its arithmetic, which tests/method/test_soft_intro.py compares."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sivae.method.plain import PlainSoftIntroStep
from sivae.models import MLPVAE


@pytest.fixture
def batch() -> Tensor:
    return torch.randn(7, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(4))


@pytest.fixture
def step() -> PlainSoftIntroStep:
    model = MLPVAE(hidden=16, layers=2).double()
    optimizers = [torch.optim.SGD(network.parameters(), lr=0.05) for network in (model.encoder, model.decoder)]
    return PlainSoftIntroStep(model, *optimizers, scale=0.5, beta_rec=0.7, beta_kl=0.4, beta_neg=0.9)


def test_it_draws_noise_and_leaves_everything_trainable(step, batch):
    torch.manual_seed(0)
    first = step(batch)
    assert all(isinstance(value, float) for value in first.values())
    assert all(parameter.requires_grad for parameter in step.model.parameters())
    assert step(batch) != first


def test_it_refuses_nan(step, batch):
    with pytest.raises(FloatingPointError, match="NaN"):
        step(torch.full_like(batch, float("nan")))
