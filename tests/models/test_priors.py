"""Learned priors: their samples, the KL to them, and the models that have one."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from sivae import ops
from sivae.models import build_model
from sivae.models.latent import generate, prior_noise, prior_samples
from sivae.models.priors import Components, MixturePrior, VampPrior
from sivae.models.storage import load_model, save_model

SMALL: dict[str, dict[str, Any]] = {
    "mlp": {"hidden": 8, "layers": 1},
    "conv": {"image_size": 8, "channels": 1, "widths": [4, 4], "z_dim": 3},
    "pointnet": {"points": 5, "z_dim": 3, "widths": [4], "hidden": 4, "decoder_widths": [4]},
    "autoencoder": {"image_size": 4, "channels": 1, "widths": [2, 4], "latent_channels": 2, "layers": 1, "groups": 2},
}
LEARNED = [(name, prior) for name in SMALL for prior in ("mixture", "vamp")]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normals(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=generator(seed))


@pytest.fixture
def mixture() -> Components:
    """Three components over two values, with gradients."""
    weights = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    mu = torch.tensor([[0.0, 1.0], [2.0, -1.0], [-3.0, 0.5]], dtype=torch.float64)
    logvar = torch.tensor([[0.0, -1.0], [-2.0, 0.5], [-0.5, -0.5]], dtype=torch.float64)
    return Components(*(tensor.requires_grad_() for tensor in (weights, mu, logvar)))


def test_samples_have_the_moments_of_the_mixture(mixture):
    """Means within 5 standard errors: sigma / sqrt(n) of values, sqrt(w (1 - w) / n) of shares of components."""
    count = 200_000
    weights, mu, logvar = mixture.detached()
    z = mixture.detached().draw(normals(count, 3))
    mean = weights @ mu
    variance = weights @ (logvar.exp() + mu.square()) - mean.square()
    assert ((z.mean(0) - mean).abs() < 5 * (variance / count).sqrt()).all()
    fourth = (z - mean).pow(4).mean(0)
    assert ((z.var(0) - variance).abs() < 5 * ((fourth - variance.square()) / count).sqrt()).all()
    narrow = Components(weights, mu, torch.full_like(mu, -60.0)).draw(normals(count, 3))
    shares = torch.bincount(torch.cdist(narrow, mu).argmin(1), minlength=3) / count
    assert ((shares - weights).abs() < 5 * (weights * (1 - weights) / count).sqrt()).all()


def test_the_last_value_of_a_row_chooses_its_component(mixture):
    """Of the shares 0.5, 0.3 and 0.2 the first component has the values below 0, the last those above 0.842."""
    noise = torch.zeros(5, 3, dtype=torch.float64)
    noise[:, 2] = torch.tensor([-math.inf, -0.01, 0.01, 0.85, math.inf])
    assert torch.equal(mixture.draw(noise), mixture.mu[[0, 0, 1, 2, 2]])


def test_samples_have_gradients_to_the_chosen_components_alone(mixture):
    noise = torch.zeros(1, 3, dtype=torch.float64)
    noise[0] = torch.tensor([1.0, -2.0, 0.1])  # of the second component
    mixture.draw(noise).sum().backward()
    weights, mu, logvar = mixture
    assert weights.grad is None
    assert torch.equal(mu.grad, torch.tensor([[0.0, 0.0], [1.0, 1.0], [0.0, 0.0]], dtype=torch.float64))
    expected = 0.5 * noise[0, :2] * (0.5 * logvar.detach()[1]).exp()
    assert torch.equal(logvar.grad[1], expected) and not logvar.grad[[0, 2]].any()


@pytest.mark.parametrize("rows", [1, 5])
def test_the_kl_to_one_component_is_the_closed_form_with_its_gradients(rows):
    """Up to rounding, which is 1e-16 of sums of 2 P L = 48 terms of up to about 20, so below 1e-12."""
    mu, logvar, prior_mu, prior_logvar = (
        normals(*shape, seed=seed).requires_grad_() for seed, shape in enumerate([(5, 3), (5, 3), (1, 3), (1, 3)])
    )
    one = Components(torch.ones(1, dtype=torch.float64), prior_mu, prior_logvar)
    estimate = one.kl(mu, logvar, normals(rows, 8, 3, seed=9))
    exact = ops.gaussian_kl(mu, logvar, prior_mu=prior_mu, prior_logvar=prior_logvar, backend="reference")
    torch.testing.assert_close(estimate, exact, rtol=0, atol=1e-12)
    leaves = (mu, logvar, prior_mu, prior_logvar)
    for mine, theirs in zip(
        torch.autograd.grad(estimate.sum(), leaves), torch.autograd.grad(exact.sum(), leaves), strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-12)


def test_the_kl_to_a_mixture_is_the_expected_log_ratio(mixture):
    """Within 5 standard errors of both means; 2,000 pairs leave a bias of 1 / 2,000 of the fourth-order terms."""
    weights, mu, logvar = mixture.detached()
    of_q = Normal(torch.tensor([0.5, 0.2], dtype=torch.float64), torch.tensor([0.8, 1.2], dtype=torch.float64))
    p = MixtureSameFamily(Categorical(weights), Independent(Normal(mu, (0.5 * logvar).exp()), 1))
    draws = of_q.mean + of_q.stddev * normals(100_000, 2)
    ratio = of_q.log_prob(draws).sum(1) - p.log_prob(draws)
    repeats = torch.stack(
        [
            mixture.detached().kl(of_q.mean[None], 2 * of_q.stddev.log()[None], normals(1, 2_000, 2, seed=seed))[0]
            for seed in range(20)
        ]
    )
    error = (ratio.var() / len(ratio) + repeats.var() / len(repeats)).sqrt()
    assert abs(ratio.mean() - repeats.mean()) < 5 * error
    assert error < 0.01 * ratio.mean()  # so the comparison says something


def test_the_kl_has_gradients_to_all_of_the_mixture(mixture):
    """Those of the same mean of log densities, computed by torch's distributions, up to rounding."""
    mu, logvar, eps = normals(4, 2, seed=1), normals(4, 2, seed=2), normals(4, 8, 2, seed=3)
    mixture.kl(mu, logvar, eps).sum().backward()
    mine = [tensor.grad.clone() for tensor in mixture]
    for tensor in mixture:
        tensor.grad = None
    weights, of_mu, of_logvar = mixture
    eps = eps / eps.square().mean(1, keepdim=True).sqrt()
    z = mu[:, None] + (0.5 * logvar).exp()[:, None] * torch.cat([eps, -eps], 1)
    of_components = Normal(of_mu, (0.5 * of_logvar).exp()).log_prob(z[:, :, None]).sum(-1)
    (-(of_components + weights.log()).logsumexp(-1).mean(1)).sum().backward()
    for one, tensor in zip(mine, mixture, strict=True):
        torch.testing.assert_close(one, tensor.grad, rtol=1e-10, atol=1e-12)


def test_a_mixture_starts_near_the_standard_prior():
    """Its mean is 0 and its variance 1 over the random means: within 5 standard errors over 20,000 components."""
    torch.manual_seed(0)
    weights, mu, logvar = MixturePrior(20_000, 2).components(lambda x: (x, x))
    assert torch.equal(weights, weights[:1].expand(20_000))
    assert mu.mean(0).abs().max() < 5 * math.sqrt(1 / 3 / 20_000)
    second = logvar.exp() + mu.square()  # mean 1, standard deviation sqrt(2) / 3
    assert (second.mean(0) - 1).abs().max() < 5 * math.sqrt(2) / 3 / math.sqrt(20_000)


@pytest.mark.parametrize(("name", "prior"), LEARNED)
def test_a_model_folder_keeps_a_learned_prior(name, prior, tmp_path):
    torch.manual_seed(0)
    model = build_model(name, **SMALL[name], prior=prior, prior_components=3).eval()
    with torch.no_grad():
        for parameter in model.prior.parameters():
            parameter.add_(torch.rand_like(parameter))
    save_model(tmp_path, model)
    again = load_model(tmp_path)
    assert torch.equal(again.sample(4, generator=generator()), model.sample(4, generator=generator()))
    x = torch.rand(4, *model.sample_shape)
    assert torch.equal(again.kl(*again.encode(x)), model.kl(*model.encode(x)))


def test_the_kl_of_an_evaluation_has_other_draws_than_the_samples_of_seed_0(monkeypatch):
    model, used = build_model("mlp", **SMALL["mlp"], prior="mixture", prior_components=3), []
    monkeypatch.setattr(Components, "kl", lambda self, mu, logvar, eps: used.append(eps) or mu.sum(1))
    for _ in range(2):
        model.kl(*model.encode(torch.rand(4, 2)))
    assert torch.equal(used[0], used[1])
    assert not torch.isin(used[0], prior_noise(0, 1_000, model.z_dim)).any()


@pytest.mark.parametrize(("name", "prior"), LEARNED)
def test_the_networks_start_as_with_the_standard_prior(name, prior):
    models = []
    for choice in ({}, {"prior": prior, "prior_components": 3}):
        torch.manual_seed(0)
        models.append(build_model(name, **SMALL[name], **choice).state_dict())
    plain, other = models
    assert all(torch.equal(other[key], tensor) for key, tensor in plain.items())
    assert {key.split(".")[0] for key in other.keys() - plain.keys()} == {"prior"}


@pytest.mark.parametrize("name", SMALL)
def test_a_model_of_the_standard_prior_is_described_as_before_there_was_a_choice(name):
    model = build_model(name, **SMALL[name], prior="standard", prior_components=7)
    assert model.hyperparameters == build_model(name, **SMALL[name]).hyperparameters
    assert not {"prior", "prior_components"} & model.hyperparameters.keys()
    noise = torch.randn(2, model.noise_dim)
    assert model.noise_dim == model.z_dim
    assert torch.equal(model.from_prior(noise), noise.view(2, *model.latent_shape))


@pytest.mark.parametrize(("name", "prior"), LEARNED)
def test_a_sample_depends_on_the_seed_and_its_number_alone(name, prior):
    model = build_model(name, **SMALL[name], prior=prior, prior_components=3).eval()
    latents = prior_samples(model, 5, 6)
    assert torch.equal(prior_samples(model, 5, 4), latents[:4])
    with torch.no_grad():
        assert torch.equal(torch.cat(list(generate(model, 6, seed=5))), model.render(latents))


def test_pseudo_inputs_keep_to_the_range_of_the_images():
    prior = VampPrior(2, (1, 4, 4), (0.0, 1.0))
    with torch.no_grad():
        prior.inputs.copy_(torch.stack([torch.full((1, 4, 4), -1.0), torch.full((1, 4, 4), 3.0)]))
    seen: list[Tensor] = []

    def encode(x: Tensor) -> tuple[Tensor, Tensor]:
        seen.append(x)
        return x.flatten(1), x.flatten(1)

    prior.components(encode)
    assert seen[0].unique().tolist() == [0.0, 1.0]


def test_pseudo_inputs_start_from_samples_in_turn():
    prior = VampPrior(5, (2,), None)
    samples = torch.arange(4.0).view(2, 2)
    prior.start_from(samples, 0)
    assert torch.equal(prior.inputs, samples[[0, 1, 0, 1, 0]])
    prior.start_from(10 + samples, 3)
    assert torch.equal(prior.inputs, torch.cat([samples[[0, 1, 0]], 10 + samples]))


def test_pseudo_inputs_pass_batch_norm_by_its_running_statistics():
    """So the components are the same in training and eval mode, and do not count as a batch."""
    model = build_model("conv", **SMALL["conv"], prior="vamp", prior_components=3).train()
    model.encode(torch.rand(8, 1, 8, 8))
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    in_training = model.prior_components()
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())
    assert all(module.training for module in model.modules())
    torch.testing.assert_close(in_training, model.eval().prior_components(), rtol=0, atol=0)
    assert any(isinstance(module, nn.BatchNorm2d) for module in model.encoder.modules())


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"prior": "flow"}, "prior is 'flow', expected one of standard, mixture, vamp"),
        ({"prior": "mixture", "prior_components": 0}, "prior_components is 0, expected a whole number of at least 1"),
        ({"prior": "vamp", "prior_components": 10_001}, "prior_components is 10001, expected at most 10,000"),
    ],
)
def test_wrong_values(name, wrong, message):
    with pytest.raises(ValueError, match=message):
        build_model(name, **SMALL[name], **wrong)


def test_conditions_go_with_a_mixture_alone():
    with pytest.raises(ValueError, match="prior is 'vamp' and condition_dim 2, expected no conditions"):
        build_model("conv", **SMALL["conv"], condition_dim=2, prior="vamp")
    model = build_model("conv", **SMALL["conv"], condition_dim=2, prior="mixture", prior_components=3)
    assert model.sample(2, condition=torch.eye(2)).shape == (2, 1, 8, 8)
