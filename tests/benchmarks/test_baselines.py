"""The plain baselines are the same mathematics as what they are compared with."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.baselines import losses
from benchmarks.baselines.mlp_networks import PlainMLPVAE
from sivae import ops
from sivae.method.plain import PlainSoftIntroStep
from sivae.models import MLPVAE

WEIGHTS = {"beta_rec": 0.7, "beta_kl": 0.4, "beta_neg": 0.9, "alpha": 2.0}


@pytest.fixture
def batch() -> Tensor:
    return torch.randn(7, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(4))


@pytest.fixture
def plain() -> PlainSoftIntroStep:
    model = PlainMLPVAE(hidden=16, layers=2).double()
    optimizers = [torch.optim.SGD(network.parameters(), lr=0.05) for network in (model.encoder, model.decoder)]
    return PlainSoftIntroStep(model, *optimizers, scale=0.5, **WEIGHTS)


def test_plain_loop_draws_noise_and_leaves_everything_trainable(plain, batch):
    torch.manual_seed(0)
    first = plain(batch)
    assert all(isinstance(value, float) for value in first.values())
    assert all(parameter.requires_grad for parameter in plain.model.parameters())
    assert plain(batch) != first


def test_plain_loop_refuses_nan(plain, batch):
    with pytest.raises(FloatingPointError, match="NaN"):
        plain(torch.full_like(batch, float("nan")))


def test_plain_networks_are_the_models():
    """Names, initial weights and, to rounding, values."""
    models = []
    for kind in (PlainMLPVAE, MLPVAE):
        torch.manual_seed(1)
        models.append(kind(data_dim=3, z_dim=2, hidden=16, layers=3).double())
    plain, model = models
    for (name, ours), (other, theirs) in zip(model.state_dict().items(), plain.state_dict().items(), strict=True):
        assert name == other
        assert torch.equal(ours, theirs)
    x = torch.randn(7, 3, dtype=torch.float64)
    for ours, theirs in zip(
        (*model.encode(x), model(x)), (*plain.encode(x), plain.decode(plain.encode(x)[0])), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("kind", list(losses.RECONSTRUCTION_ERRORS))
def test_baseline_errors_are_the_ops(kind):
    generator = torch.Generator().manual_seed(0)
    recon = torch.rand(3, 2, 4, dtype=torch.float64, generator=generator)
    target = torch.rand(3, 2, 4, dtype=torch.float64, generator=generator)
    torch.testing.assert_close(
        losses.RECONSTRUCTION_ERRORS[kind](recon, target), ops.reconstruction_error(recon, target, kind=kind)
    )


def test_baseline_bce_with_logits_is_bce_of_the_sigmoid():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 5, dtype=torch.float64, generator=generator)
    target = torch.rand(3, 5, dtype=torch.float64, generator=generator)
    expected = F.binary_cross_entropy(logits.sigmoid(), target, reduction="none").sum(1)
    torch.testing.assert_close(losses.bce_with_logits(logits, target), expected)
