"""The training steps with a learned prior, against a plain statement of the update.

With one component the estimate of the KL is its closed form, whatever its noise, so the plain statement needs none.
"""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from sivae.method.noise import StepNoise
from sivae.method.plain import exp_elbo, mse
from sivae.models import MLPVAE
from sivae.objectives import IntroObjective, SoftIntroObjective, VAEObjective
from sivae.training import IntroStep, SoftIntroStep, StepOptions, VAEStep

BATCH, RATE = 8, 0.05
OBJECTIVE = SoftIntroObjective(beta_rec=0.7, beta_kl=0.4, beta_neg=0.9, gamma_r=0.5)


def build(prior: str = "mixture", components: int = 1) -> MLPVAE:
    torch.manual_seed(3)
    model = MLPVAE(hidden=16, layers=2, prior=prior, prior_components=components).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5).add_(0.1)
    return model


def normals(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def optimizers(model: MLPVAE) -> list[torch.optim.Optimizer]:
    return [torch.optim.SGD(getattr(model, name).parameters(), lr=RATE) for name in ("encoder", "decoder", "prior")]


def step_of(kind, model, objective, **options):
    encoder, decoder, prior = optimizers(model)
    return kind(model, encoder, decoder, objective, prior_optimizer=prior, options=StepOptions(**options))


def kl(mu: Tensor, logvar: Tensor, prior_mu: Tensor, prior_logvar: Tensor) -> Tensor:
    ratio = (logvar.exp() + (mu - prior_mu).square()) / prior_logvar.exp()
    return 0.5 * (ratio - 1 - logvar + prior_logvar).sum(1)


def plain_step(model: MLPVAE, x: Tensor, noise: StepNoise) -> None:
    """Soft-IntroVAE with a prior of one learned Gaussian, as the authors' program trains encoder and decoder."""
    o, s = OBJECTIVE, 0.5  # 1 / (values of a sample)
    encoder, decoder, prior = optimizers(model)
    p = (model.prior.mu, model.prior.logvar)
    fixed = tuple(one.detach() for one in p)

    def draw(mu: Tensor, logvar: Tensor, eps: Tensor) -> Tensor:
        return mu + torch.exp(0.5 * logvar) * eps

    mu, logvar = model.encode(x)
    z = draw(mu, logvar, noise.eps_real)
    recon, fake = model.decode(z), model.decode(draw(*fixed, noise.prior[:, :2]))
    loss = s * (o.beta_rec * mse(recon, x).mean() + o.beta_kl * kl(mu, logvar, *p).mean())
    for x_f, eps in ((recon, noise.eps_rec_encoder), (fake, noise.eps_fake_encoder)):
        of_fake = model.encode(x_f.detach())
        rec = mse(model.decode(draw(*of_fake, eps)), x_f)
        loss = loss + exp_elbo(rec, kl(*of_fake, *fixed), s, o.beta_rec, o.beta_neg, o.alpha) / 2
    loss.backward()
    encoder.step()
    decoder.zero_grad()

    z, of_prior = z.detach(), draw(*p, noise.prior[:, :2])
    recon, fake = model.decode(z), model.decode(of_prior)
    loss = s * o.beta_rec * mse(recon, x).mean()
    for x_f, eps in ((recon, noise.eps_rec_decoder), (fake, noise.eps_fake_decoder)):
        of_fake = model.encode(x_f)
        rec = mse(model.decode(draw(*of_fake, eps).detach()), x_f.detach())
        loss = loss + s * (o.beta_kl * kl(*of_fake, *fixed).mean() + o.gamma_r * o.beta_rec * rec.mean()) / 2
    loss.backward()
    decoder.step()
    prior.step()


@pytest.fixture
def noise() -> StepNoise:
    names = ["eps_real", *(f"eps_{kind}_{update}" for kind in ("rec", "fake") for update in ("encoder", "decoder"))]
    draws = {name: normals(BATCH, 2, seed=seed) for seed, name in enumerate(names)}
    return StepNoise(prior=normals(BATCH, 3, seed=9), **draws)


@pytest.mark.parametrize("accumulate", [1, 4])
def test_the_prior_is_the_third_player(noise: StepNoise, accumulate: int):
    """Weights after a step of each, to a relative 1e-10: 1e-16 times the terms of the sums in a few passes."""
    x = normals(BATCH, 2, seed=4)
    ours, theirs = build(), build()
    first = copy.deepcopy(ours.state_dict())
    step_of(SoftIntroStep, ours, OBJECTIVE, accumulate=accumulate)(x, noise)
    plain_step(theirs, x, noise)
    for name, tensor in theirs.state_dict().items():
        if name != "prior.logits":  # one component has the weight 1 whatever its logit
            assert not torch.equal(tensor, first[name]), name
        torch.testing.assert_close(ours.state_dict()[name], tensor, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("prior", ["mixture", "vamp"])
@pytest.mark.parametrize(
    ("kind", "objective"),
    [
        (SoftIntroStep, OBJECTIVE),
        (SoftIntroStep, OBJECTIVE.changed(beta_neg="auto", semantics="paper", gamma_r=None)),
        (SoftIntroStep, OBJECTIVE.changed(fakes=("reconstruction",))),
        (IntroStep, IntroObjective()),
        (VAEStep, VAEObjective()),
    ],
)
@pytest.mark.parametrize("options", [{}, {"accumulate": 2}, {"fresh_passes": True}])
def test_every_step_moves_all_of_the_prior(prior, kind, objective, options):
    model = build(prior, 3)
    before = copy.deepcopy(model.prior.state_dict())
    losses = step_of(kind, model, objective, **options)(normals(BATCH, 2, seed=4))
    assert all(bool(value.isfinite()) for value in losses.values())
    for name, tensor in model.prior.state_dict().items():
        assert (tensor != before[name]).any(), name


def test_parts_of_a_batch_give_the_gradient_of_the_whole():
    """Weights to a relative 1e-10, as above: the noise of a row does not depend on the part that it is in."""
    x = normals(BATCH, 2, seed=4)
    whole, parts = build(components=3), build(components=3)
    for model, accumulate in ((whole, 1), (parts, 4)):
        torch.manual_seed(0)
        step_of(SoftIntroStep, model, OBJECTIVE, accumulate=accumulate)(x)
    for mine, theirs in zip(parts.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("prior", ["mixture", "vamp"])
def test_the_prior_trains_while_a_network_is_frozen(prior):
    for frozen in ("encoder", "decoder"):
        model = build(prior, 3)
        getattr(model, frozen).requires_grad_(False)
        before = copy.deepcopy(model.state_dict())
        step_of(SoftIntroStep, model, OBJECTIVE)(normals(BATCH, 2, seed=4))
        for name, tensor in model.state_dict().items():
            assert torch.equal(tensor, before[name]) == name.startswith(frozen), (frozen, name)


def test_without_an_optimizer_the_prior_stays_as_it_is():
    model = build(components=3)
    before = copy.deepcopy(model.prior.state_dict())
    encoder, decoder, _ = optimizers(model)
    for kind, objective in ((SoftIntroStep, OBJECTIVE), (VAEStep, VAEObjective())):
        kind(model, encoder, decoder, objective)(normals(BATCH, 2, seed=4))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.prior.state_dict().items())


def test_the_encoder_trains_through_pseudo_inputs_in_its_own_update():
    """With all weights of the loss but the kl's at 0, the gradient of -log p(z) through the components remains."""
    gradients = {}
    for prior in ("vamp", "mixture"):
        model = build(prior, 3)
        if prior == "mixture":  # the same components, but free of the encoder
            with torch.no_grad():
                of_vamp = build("vamp", 3).prior_components()
            model.prior.mu, model.prior.logvar = (nn.Parameter(one.detach()) for one in of_vamp[1:])
            model.prior.logits = nn.Parameter(of_vamp[0].detach().log())
        torch.manual_seed(0)
        losses = step_of(VAEStep, model, VAEObjective(beta_rec=0.0))(normals(BATCH, 2, seed=4))
        gradients[prior] = torch.cat([p.grad.flatten() for p in model.encoder.parameters()])
        gradients[f"{prior} kl"] = losses["kl_real"]
    torch.testing.assert_close(gradients["vamp kl"], gradients["mixture kl"], rtol=1e-12, atol=0)
    assert (gradients["vamp"] - gradients["mixture"]).norm() > 1e-3 * gradients["mixture"].norm()
