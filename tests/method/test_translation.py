"""Steps of the model that separates class and content, against plain statements in float64."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sivae.method.lord import LordStep
from sivae.models.translation import TranslationVAE
from sivae.objectives import LordObjective, SoftIntroObjective, VAEObjective
from sivae.training import SoftIntroStep, StepNoise, StepOptions, VAEStep

BATCH, RATE, CONTENT = 4, 0.05, 3
WEIGHTS = {"beta_rec": 0.7, "beta_kl": 0.4, "beta_neg": 0.9, "beta_kl_class": 0.1, "beta_neg_class": 0.3}
TOLERANCE = 1e-11  # float64: the same sums but for their order, through a dozen layers


@pytest.fixture
def model() -> TranslationVAE:
    return make_model()


def make_model(**changes: Any) -> TranslationVAE:
    torch.manual_seed(3)
    built = TranslationVAE(image_size=8, content_dim=CONTENT, class_dim=4, width=2, hidden=8, **changes).double()
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.mul_(1.5)  # the initial networks are so flat that a wrong gradient could hide in a small one
    return built


@pytest.fixture
def batch() -> Tensor:
    return torch.rand(BATCH, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(4))


@pytest.fixture
def noise() -> StepNoise:
    generator = torch.Generator().manual_seed(5)
    names = [field.name for field in dataclasses.fields(StepNoise)]
    return StepNoise(**{name: torch.randn(BATCH, 7, dtype=torch.float64, generator=generator) for name in names})


def optimizers(model: nn.Module) -> tuple[torch.optim.Optimizer, torch.optim.Optimizer]:
    return torch.optim.SGD(model.encoder.parameters(), lr=RATE), torch.optim.SGD(model.decoder.parameters(), lr=RATE)


def compare(ours: nn.Module, theirs: nn.Module) -> None:
    for (name, mine), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert (mine - other).norm() <= TOLERANCE * other.norm(), name


def changed(ours: nn.Module, before: nn.Module) -> set[str]:
    pairs = zip(ours.named_parameters(), before.parameters(), strict=True)
    return {name for (name, mine), other in pairs if not torch.equal(mine, other)}


def rec(x: Tensor, target: Tensor) -> Tensor:
    return (x - target).square().flatten(1).sum(1)


def kl(mu: Tensor, logvar: Tensor, content: float, of_class: float) -> Tensor:
    each = 0.5 * (logvar.exp() + mu.square() - 1.0 - logvar)
    return content * each[:, :CONTENT].sum(1) + of_class * each[:, CONTENT:].sum(1)


def draw(mu: Tensor, logvar: Tensor, eps: Tensor) -> Tensor:
    return mu + torch.exp(0.5 * logvar) * eps


def exchanged(z: Tensor, exchanges: bool) -> Tensor:
    return torch.cat([z[:, :CONTENT], z[[1, 0, 3, 2], CONTENT:]], 1) if exchanges else z


def descend(network: nn.Module, loss: Tensor) -> None:
    parameters = list(network.parameters())
    gradients = torch.autograd.grad(loss, parameters)
    with torch.no_grad():
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter -= RATE * gradient


def plain_soft_intro(model: TranslationVAE, batch: Tensor, noise: StepNoise, scale: float) -> dict[str, float]:
    """Make both updates in the official semantics, with both kinds of fakes, gamma_r 0 and alpha 2."""
    w = WEIGHTS
    mu, logvar = model.encode(batch)
    z = exchanged(draw(mu, logvar, noise.eps_real), model.exchanges)
    recon, fake = model.decode(z), model.decode(noise.prior)
    real = w["beta_rec"] * rec(recon, batch) + kl(mu, logvar, w["beta_kl"], w["beta_kl_class"])
    terms = []
    for x_f, target, eps in (
        (fake.detach(), fake.detach(), noise.eps_fake_encoder),
        (recon.detach(), recon, noise.eps_rec_encoder),
    ):
        mu_f, logvar_f = model.encode(x_f)
        again = model.decode(draw(mu_f, logvar_f, eps))
        negative = w["beta_rec"] * rec(again, target) + kl(mu_f, logvar_f, w["beta_neg"], w["beta_neg_class"])
        terms.append(0.5 * torch.exp(-2.0 * scale * negative).mean())
    loss_encoder = scale * real.mean() + 0.5 * sum(terms)
    values = {"rec": rec(recon, batch).mean().item(), "kl_real": kl(mu, logvar, 1.0, 1.0).mean().item()}
    values |= {"kl_real_class": kl(mu, logvar, 0.0, 1.0).mean().item(), "loss_encoder": loss_encoder.item()}
    descend(model.encoder, loss_encoder)

    z = z.detach()
    recon, fake = model.decode(z), model.decode(noise.prior)
    of_fakes = [kl(*model.encode(x_f), w["beta_kl"], w["beta_kl_class"]).mean() for x_f in (recon, fake)]
    loss_decoder = scale * (w["beta_rec"] * rec(recon, batch).mean() + 0.5 * sum(of_fakes))
    values["loss_decoder"] = loss_decoder.item()
    descend(model.decoder, loss_decoder)
    return values


@pytest.mark.parametrize("exchanges", [False, True])
def test_soft_intro_weights_the_kl_of_class_and_content_separately(model, batch, noise, exchanges):
    model.exchanges = exchanges
    other = copy.deepcopy(model)
    objective = SoftIntroObjective(scale=0.02, gamma_r=0.0, **WEIGHTS)
    ours = SoftIntroStep(model, *optimizers(model), objective)(batch, noise)
    theirs = plain_soft_intro(other, batch, noise, 0.02)
    for name, value in theirs.items():
        assert ours[name].item() == pytest.approx(value, rel=TOLERANCE), name
    compare(model, other)


@pytest.mark.parametrize("exchanges", [False, True])
def test_a_vae_weights_the_kl_of_class_and_content_separately(model, batch, noise, exchanges):
    model.exchanges = exchanges
    other = copy.deepcopy(model)
    objective = VAEObjective(beta_rec=0.01, beta_kl=0.004, beta_kl_class=0.001)
    ours = VAEStep(model, *optimizers(model), objective)(batch, noise)
    mu, logvar = other.encode(batch)
    recon = other.decode(exchanged(draw(mu, logvar, noise.eps_real), exchanges))
    loss = (0.01 * rec(recon, batch) + kl(mu, logvar, 0.004, 0.001)).mean()
    assert ours["loss"].item() == pytest.approx(loss.item(), rel=TOLERANCE)
    assert ours["kl_real_class"].item() == pytest.approx(kl(mu, logvar, 0.0, 1.0).mean().item(), rel=TOLERANCE)
    descend(other, loss)
    compare(model, other)


def test_missing_weights_of_the_class_are_those_of_the_content(model, batch, noise):
    other = copy.deepcopy(model)
    same = {"scale": 0.02, "beta_kl": 0.4, "beta_neg": 0.9}
    SoftIntroStep(model, *optimizers(model), SoftIntroObjective(**same))(batch, noise)
    explicit = SoftIntroObjective(**same, beta_kl_class=0.4, beta_neg_class=0.9)
    SoftIntroStep(other, *optimizers(other), explicit)(batch, noise)
    assert changed(model, other) == set()


@pytest.mark.parametrize("objective", [VAEObjective, SoftIntroObjective])
def test_a_weight_of_the_class_needs_one_of_the_content(objective):
    with pytest.raises(ValueError, match="beta_kl = 0: beta_kl_class is applied relative to it"):
        objective(beta_kl=0.0, beta_kl_class=1.0)
    with pytest.raises(ValueError, match=r"beta_kl_class = -1\.0: it must be 0 or more"):
        objective(beta_kl_class=-1.0)


def test_parts_of_a_batch_keep_their_pairs(model, batch, noise):
    model.exchanges = True
    other = copy.deepcopy(model)
    objective = SoftIntroObjective(scale=0.02, **WEIGHTS)
    SoftIntroStep(model, *optimizers(model), objective, options=StepOptions(accumulate=2))(batch, noise)
    SoftIntroStep(other, *optimizers(other), objective)(batch, noise)
    compare(model, other)


def test_a_distance_replaces_the_error(model, batch, noise):
    """A distance of twice the squared error equals a doubled beta_rec."""
    other = copy.deepcopy(model)
    SoftIntroStep(
        model, *optimizers(model), SoftIntroObjective(scale=0.02, beta_rec=0.35), distance=lambda x, y: 2.0 * rec(x, y)
    )(batch, noise)
    SoftIntroStep(other, *optimizers(other), SoftIntroObjective(scale=0.02, beta_rec=0.7))(batch, noise)
    compare(model, other)


NUMBERS = torch.tensor([[0, 1], [5, 0], [2, 1], [5, 0]])  # image and class


@pytest.fixture
def coded() -> TranslationVAE:
    return make_model(coded_images=6, coded_classes=2)


def test_the_first_stage_of_lord_learns_codes_and_the_decoder(coded, batch, noise):
    before, other = copy.deepcopy(coded), copy.deepcopy(coded)
    objective = LordObjective(content_noise=0.3, content_decay=0.2, kind="l1")
    step = LordStep(coded, *optimizers(coded), objective, stage="codes")
    ours = step(batch, noise, NUMBERS)
    codes = other.encoder.codes
    content, of_class = codes.content[NUMBERS[:, 0]], codes.of_class[NUMBERS[:, 1]]
    recon = other.decode(torch.cat([content + 0.3 * noise.eps_real[:, :CONTENT], of_class], 1))
    loss = (recon - batch).abs().mean() + 0.2 * content.square().sum(1).mean()
    assert ours["loss"].item() == pytest.approx(loss.item(), rel=TOLERANCE)
    assert ours["content_norm"].item() == pytest.approx(content.square().sum(1).mean().item(), rel=TOLERANCE)
    gradient = torch.autograd.grad(loss, [codes.content, *other.decoder.parameters()])
    expected = (codes.content - RATE * gradient[0]).detach()
    assert torch.allclose(coded.encoder.codes.content, expected, rtol=1e-10, atol=1e-14)
    assert torch.equal(coded.encoder.codes.content[[1, 3, 4]], before.encoder.codes.content[[1, 3, 4]])
    moved = changed(coded, before)
    assert {name for name in moved if name.startswith("encoder.")} == {
        "encoder.codes.content",
        "encoder.codes.of_class",
    }
    assert any(name.startswith("decoder.") for name in moved)


def test_the_second_stage_of_lord_learns_encoders_that_predict_the_codes(coded, batch, noise):
    before = copy.deepcopy(coded)
    objective = LordObjective(code_weight=3.0, kind="mse")
    ours = LordStep(coded, *optimizers(coded), objective, stage="encoders")(batch, noise, NUMBERS)
    mu = before.encode(batch)[0]
    codes = before.encoder.codes(NUMBERS[:, 0], NUMBERS[:, 1])
    error = (mu - codes).square()
    expected = (before.decode(mu) - batch).square().mean()
    expected = expected + 3.0 * (error[:, :CONTENT].mean() + error[:, CONTENT:].mean())
    assert ours["loss"].item() == pytest.approx(expected.item(), rel=TOLERANCE)
    moved = changed(coded, before)
    assert not any(".codes." in name for name in moved)
    assert all(any(name.startswith(f"encoder.{one}.") for name in moved) for one in ("content", "of_class"))


def test_lord_draws_its_noise_from_the_step_s_generator(coded, batch):
    twins = [copy.deepcopy(coded) for _ in range(3)]
    for twin, seed in zip(twins, (1, 1, 2), strict=True):
        generator = torch.Generator().manual_seed(seed)
        LordStep(twin, *optimizers(twin), LordObjective(), stage="codes", generator=generator)(batch, condition=NUMBERS)
    assert changed(twins[0], twins[1]) == set() and changed(twins[0], twins[2])


@pytest.mark.parametrize("name", ["content_noise", "content_decay", "code_weight"])
def test_negative_weights_of_lord_are_errors(name):
    with pytest.raises(ValueError, match=f"{name} = -1.0: it must be 0 or more"):
        LordObjective(**{name: -1.0})
