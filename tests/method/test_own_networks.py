"""Steps train any modules: a pair of networks, or a module with an encoder and a decoder."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from sivae.models import MLPVAE
from sivae.objectives import IntroObjective, SoftIntroObjective, VAEObjective
from sivae.training import IntroStep, SoftIntroStep, VAEStep

STEPS = [
    pytest.param(VAEStep, VAEObjective(beta_kl=0.3), id="VAE"),
    pytest.param(IntroStep, IntroObjective(), id="IntroVAE"),
    pytest.param(SoftIntroStep, SoftIntroObjective(scale=0.5, beta_neg=1.0, gamma_r=1.0), id="Soft-IntroVAE"),
]


class _TwoHeads(nn.Module):
    """An encoder that returns mu and logvar as a tuple."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mu, logvar = self.network(x).chunk(2, dim=1)
        return mu, logvar


class _OwnVAE(nn.Module):
    """A module with its own methods; `encode` clamps the output of the encoder."""

    def __init__(self, encoder: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        self.calls = 0

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        self.calls += 1
        mu, logvar = self.encoder(x).chunk(2, dim=1)
        return mu, logvar.clamp(-30.0, 20.0)

    def decode(self, z: Tensor) -> Tensor:
        decoded: Tensor = self.decoder(z)
        return decoded


def _networks() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(3)
    model = MLPVAE(hidden=16, layers=2).double()
    return model.encoder, model.decoder


def _trained(step_class, objective, model, encoder: nn.Module, decoder: nn.Module) -> Tensor:
    optimizers = [torch.optim.SGD(network.parameters(), lr=0.05) for network in (encoder, decoder)]
    step = step_class(model, *optimizers, objective, generator=torch.Generator().manual_seed(1))
    batch = torch.randn(7, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    for _ in range(2):
        step(batch)
    return torch.cat([p.detach().flatten() for network in (encoder, decoder) for p in network.parameters()])


@pytest.mark.parametrize(("step_class", "objective"), STEPS)
def test_a_pair_of_modules_trains_as_a_model_made_of_them(step_class, objective) -> None:
    torch.manual_seed(3)
    model = MLPVAE(hidden=16, layers=2).double()
    expected = _trained(step_class, objective, model, model.encoder, model.decoder)

    encoder, decoder = _networks()
    assert torch.equal(_trained(step_class, objective, (encoder, decoder), encoder, decoder), expected)

    encoder, decoder = _networks()
    two_heads = _TwoHeads(encoder)
    assert torch.equal(_trained(step_class, objective, (two_heads, decoder), encoder, decoder), expected)

    encoder, decoder = _networks()
    own = _OwnVAE(encoder, decoder)
    assert torch.equal(_trained(step_class, objective, own, encoder, decoder), expected)
    assert own.calls > 0


def test_networks_with_batch_norm_run_fakes_separately() -> None:
    """Real and fake batches must not share statistics: each pass of the encoder is of one kind of sample."""
    encoder, decoder = _networks()
    normed = nn.Sequential(nn.BatchNorm1d(2).double(), copy.deepcopy(encoder))
    sizes: list[int] = []
    normed.register_forward_hook(lambda module, inputs, output: sizes.append(len(inputs[0])))
    step = SoftIntroStep(
        (normed, decoder),
        torch.optim.SGD(normed.parameters(), lr=0.05),
        torch.optim.SGD(decoder.parameters(), lr=0.05),
        SoftIntroObjective(scale=0.5),
    )
    step(torch.randn(7, 2, dtype=torch.float64))
    assert sizes == [7] * 5  # E(x), then two kinds of fakes in each of the two updates


@pytest.mark.parametrize("model", [nn.Linear(2, 2), "model", (nn.Linear(2, 2),)], ids=["module", "text", "one of two"])
def test_other_objects_are_errors_that_name_their_type(model: object) -> None:
    optimizer = torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.05)
    with pytest.raises(TypeError, match=r"SoftIntroStep: model is \w+, expected a VAEModel, a pair"):
        SoftIntroStep(model, optimizer, optimizer, SoftIntroObjective())  # type: ignore[arg-type]
