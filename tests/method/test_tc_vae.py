"""The objective β-TC-VAE, against plain loops over samples and latent values in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from sivae.errors import ConfigError
from sivae.method.tc_vae import log_densities
from sivae.models import ConvVAE
from sivae.objectives import Latents, TCVAEObjective, VAEObjective
from sivae.settings.presets import PRESETS, preset_config
from sivae.training import StepOptions, VAEStep

BATCH, Z_DIM, DATA_SIZE = 5, 3, 40


@pytest.fixture
def latents() -> Latents:
    generator = torch.Generator().manual_seed(1)
    z, mu, logvar = torch.randn(3, BATCH, Z_DIM, dtype=torch.float64, generator=generator)
    return Latents(z, mu, logvar, DATA_SIZE)


def _log_normal(z: float, mu: float, logvar: float) -> float:
    return -0.5 * (math.log(2.0 * math.pi) + logvar + (z - mu) ** 2 / math.exp(logvar))


def _by_loops(z: Tensor, mu: Tensor, logvar: Tensor, data_size: int) -> list[list[float]]:
    """Compute log q(z|x), log q(z), log prod_d q(z_d) and log p(z) of each sample, one number at a time."""
    rows, values = range(len(z)), range(z.shape[1])
    weight = 1.0 / (data_size * len(z))

    def pair(i: int, j: int, d: int) -> float:
        return _log_normal(z[i, d].item(), mu[j, d].item(), logvar[j, d].item())

    posterior = [sum(pair(i, i, d) for d in values) for i in rows]
    mixture = [math.log(weight * sum(math.exp(sum(pair(i, j, d) for d in values)) for j in rows)) for i in rows]
    product = [sum(math.log(weight * sum(math.exp(pair(i, j, d)) for j in rows)) for d in values) for i in rows]
    prior = [sum(_log_normal(z[i, d].item(), 0.0, 0.0) for d in values) for i in rows]
    return [posterior, mixture, product, prior]


def test_the_densities_equal_those_of_plain_loops(latents: Latents) -> None:
    ours = log_densities(latents.z, latents.mu, latents.logvar, DATA_SIZE)
    expected = _by_loops(latents.z, latents.mu, latents.logvar, DATA_SIZE)
    for mine, other in zip(ours, expected, strict=True):
        torch.testing.assert_close(mine, torch.tensor(other, dtype=torch.float64), rtol=1e-12, atol=1e-12)


def test_float32_is_accurate_to_its_rounding(latents: Latents) -> None:
    exact = log_densities(latents.z, latents.mu, latents.logvar, DATA_SIZE)
    rounded = log_densities(*(one.float() for one in latents[:3]), DATA_SIZE)
    # Sums of at most 15 terms, each at most about 30: a few roundings of that size.
    for mine, other in zip(rounded, exact, strict=True):
        torch.testing.assert_close(mine.double(), other, rtol=0.0, atol=16 * 30 * 2.0**-24)


def test_the_loss_is_the_weighted_sum_of_the_three_parts(latents: Latents) -> None:
    posterior, mixture, product, prior = (torch.tensor(one) for one in _by_loops(*latents[:3], DATA_SIZE))
    rec, kl = torch.arange(5.0, dtype=torch.float64), torch.full((5,), math.nan, dtype=torch.float64)
    parts = ((posterior - mixture).mean(), (mixture - product).mean(), (product - prior).mean())
    loss, shown = TCVAEObjective(beta_rec=0.7, beta_kl=0.4, beta_tc=3.0).loss_of(rec, kl, latents)
    expected = 0.7 * rec.mean() + 0.4 * (parts[0] + parts[2]) + 3.0 * parts[1]
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)  # the expected sums are float32
    assert list(shown) == ["mutual_information", "total_correlation", "dimension_kl"]
    for mine, other in zip(shown.values(), parts, strict=True):
        assert mine.item() == pytest.approx(other.item(), rel=1e-5)
        assert not mine.requires_grad


def test_with_equal_weights_the_loss_estimates_that_of_a_vae(latents: Latents) -> None:
    """The three parts add up to log q(z|x) - log p(z), whose mean over draws is the kl."""
    _, parts = TCVAEObjective().loss_of(torch.zeros(BATCH), torch.zeros(BATCH), latents)
    posterior, _, _, prior = log_densities(*latents[:3], DATA_SIZE)
    assert sum(part.item() for part in parts.values()) == pytest.approx((posterior - prior).mean().item(), rel=1e-12)


def test_independent_values_have_less_total_correlation_than_equal_ones() -> None:
    generator = torch.Generator().manual_seed(2)
    mu = torch.randn(256, 1, dtype=torch.float64, generator=generator)
    apart = torch.randn(256, 2, dtype=torch.float64, generator=generator)

    def total_correlation(means: Tensor) -> float:
        logvar = torch.full_like(means, -2.0)
        z = means + torch.exp(0.5 * logvar) * torch.randn(256, 2, dtype=torch.float64, generator=generator)
        zeros = torch.zeros(256)
        return TCVAEObjective().loss_of(zeros, zeros, Latents(z, means, logvar, 256))[1]["total_correlation"].item()

    assert total_correlation(mu.expand(-1, 2)) > total_correlation(apart) + 0.5


def test_the_step_passes_the_size_of_the_data_set() -> None:
    torch.manual_seed(0)
    model = ConvVAE(image_size=8, channels=1, widths=(4, 8), z_dim=3, norm="group")
    optimizers = [torch.optim.SGD(network.parameters(), lr=1e-3) for network in (model.encoder, model.decoder)]
    batch = torch.rand(6, 1, 8, 8)
    losses = {}
    for size in (6, 600):
        step = VAEStep(
            model,
            *optimizers,
            TCVAEObjective(),
            generator=torch.Generator().manual_seed(1),
            options=StepOptions(data_size=size),
        )
        losses[size] = step(batch)
    gap = losses[600]["mutual_information"] - losses[6]["mutual_information"]
    # log N enters log q(z) once; the weights have moved by one small step between.
    assert gap.item() == pytest.approx(math.log(100.0), abs=0.05)
    with pytest.raises(ValueError, match="the number of training samples is needed"):
        VAEStep(model, *optimizers, TCVAEObjective())(batch)


def test_the_conv_presets_keep_their_weights() -> None:
    for name, preset in PRESETS.items():
        if preset.config.model.name == "conv":
            objective = preset_config(name, objective="tc-vae", beta_tc=2.0).objective
            beta_rec, beta_kl = preset.config.objective.elbo_weights()
            assert objective == TCVAEObjective(beta_rec=beta_rec, beta_kl=beta_kl, beta_tc=2.0)
            assert objective.for_warm_up() == VAEObjective(beta_rec=beta_rec, beta_kl=beta_kl)


def test_endless_data_is_an_error() -> None:
    with pytest.raises(ConfigError, match="'tc-vae': it needs the number of training samples, and the data 'density'"):
        preset_config("rings", objective="tc-vae")


def test_one_image_at_a_time_is_an_error() -> None:
    for sizes in ({"batch_size": 1}, {"batch_size": 8, "accumulate": 8}):
        with pytest.raises(ConfigError, match="'tc-vae': it compares the images that pass together"):
            preset_config("digits", objective="tc-vae", norm="group", **sizes)


def test_checkpoints_compare_by_its_own_loss() -> None:
    objective = TCVAEObjective(beta_rec=2.0, beta_kl=3.0, beta_tc=5.0)
    parts = {"mutual_information": 1.0, "dimension_kl": 2.0, "total_correlation": 4.0}
    assert objective.score({"rec": 10.0, "kl_real": 7.0, **parts}) == 2.0 * 10.0 + 3.0 * 3.0 + 5.0 * 4.0
    assert objective.score({"rec": 10.0, "kl_real": 7.0}) is None  # of the warm-up
