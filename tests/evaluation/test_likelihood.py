"""Likelihood estimates: against a model whose likelihood is known, in any portions, and where networks fail."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from sivae import ops
from sivae.evaluation import likelihood
from sivae.evaluation.likelihood import NUMBER_LIMIT, PixelDensity, estimate, kl_to_prior
from sivae.models import MLPVAE, ConvVAE, PointVAE, VAEModel
from sivae.models.style import StyleVAE
from sivae.objectives import VAEObjective

_X, _Z, _SIGMA = 6, 3, 0.4


class LinearGaussian(VAEModel):
    """x = W z + b + sigma noise, so log p(x) is that of N(b, W Wᵀ + sigma²); q(z|x) has the marginals of the true
    posterior, moved and widened. That makes the bounds loose, and no weight is large."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.sample_shape, self.z_dim = (_X,), _Z
        self.decoder = nn.Linear(_Z, _X).double()
        self.encoder = nn.Linear(_X, 2 * _Z).double()
        with torch.no_grad():
            weight = torch.randn(_X, _Z, generator=generator, dtype=torch.float64)
            self.decoder.weight.copy_(weight)
            precision = torch.eye(_Z, dtype=torch.float64) + weight.T @ weight / _SIGMA**2
            self.encoder.weight[:_Z] = torch.linalg.inv(precision) @ weight.T / _SIGMA**2
            self.encoder.weight[_Z:] = 0
            self.encoder.bias[:_Z] = -self.encoder.weight[:_Z] @ self.decoder.bias + 0.05
            self.encoder.bias[_Z:] = torch.linalg.inv(precision).diagonal().log() + 0.3

    def data(self, count: int) -> Tensor:
        generator = torch.Generator().manual_seed(4)
        z = torch.randn(count, _Z, generator=generator, dtype=torch.float64)
        noise = torch.randn(count, _X, generator=generator, dtype=torch.float64)
        return (self.decoder(z) + _SIGMA * noise).detach()

    def log_likelihood(self, x: Tensor) -> Tensor:
        weight = self.decoder.weight
        covariance = weight @ weight.T + _SIGMA**2 * torch.eye(_X, dtype=torch.float64)
        return torch.distributions.MultivariateNormal(self.decoder.bias, covariance).log_prob(x).detach()


def small_conv() -> ConvVAE:
    torch.manual_seed(0)
    return ConvVAE(image_size=8, channels=1, widths=(8,), z_dim=5).eval()


def test_the_bound_rises_with_k_from_the_elbo_to_the_exact_likelihood() -> None:
    model = LinearGaussian()
    x = model.data(200)
    exact = model.log_likelihood(x)
    density = PixelDensity.gaussian(_SIGMA)
    found = {k: estimate(model, x, density=density, samples=k, seed=1) for k in (1, 4, 32, 256)}
    gaps = {k: float((exact - one.log_likelihood).mean()) for k, one in found.items()}
    assert gaps[1] > gaps[4] > gaps[32] > gaps[256]
    # log of a mean of K weights w / p(x), each of mean 1 and variance v, is below 0 by v / (2 K) to first order (Burda
    # et al., Theorem 1, and the delta method); its own standard deviation is sqrt(v / K), and 200 points are averaged.
    log_weights = torch.stack(
        [estimate(model, x, density=density, samples=1, seed=seed).log_likelihood - exact for seed in range(100, 140)]
    )
    v = float((log_weights.exp() - 1).square().mean())
    assert 0.1 < v < 10  # so K = 256 is in the range where the first order holds
    assert gaps[256] == pytest.approx(v / 512, abs=4 * math.sqrt(v / 256 / 200) + (v / 256) ** 2)
    # The ELBO is the mean of log w, of which there are 8,000.
    chance = 4 * float(log_weights.std()) / math.sqrt(log_weights.numel())
    assert float((found[256].elbo - exact).mean()) == pytest.approx(float(log_weights.mean()), abs=chance)


def test_the_elbo_is_the_training_objective_up_to_constants() -> None:
    model, x = small_conv(), torch.rand(7, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    objective = VAEObjective(beta_rec=2.0, beta_kl=0.3)
    density = PixelDensity.of_objective(objective.beta_rec, objective.beta_kl)
    assert density.sigma**2 == pytest.approx(0.3 / (2 * 2.0))
    found = estimate(model, x, density=density, samples=1, seed=5)
    with torch.no_grad():
        mu, logvar = model.encode(x)
        eps = torch.cat([ops.philox_normal(5, (1, 5), offset=number << 24) for number in range(7)])
        z, kl = ops.reparameterize_kl(mu, logvar, noise=eps)
        loss = objective.loss(ops.reconstruction_error(model.decode(z), x), kl)
    constant = 64 / 2 * math.log(2 * math.pi * density.sigma**2)
    # Both sum 64 squares in float32, of a total of about 30 and times 7: 1e-5 relative, see ops.reconstruction_error.
    assert float(-found.elbo.mean() - constant) == pytest.approx(float(loss) / objective.beta_kl, rel=1e-5)


def test_a_laplace_density_goes_with_the_absolute_error() -> None:
    model, x = small_conv(), torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    density = PixelDensity.of_objective(4.0, 1.0, "l1")
    assert density.sigma == pytest.approx(math.sqrt(2) / 4)
    found = estimate(model, x, density=density, samples=1, seed=5)
    with torch.no_grad():
        mu, logvar = model.encode(x)
        eps = torch.cat([ops.philox_normal(5, (1, 5), offset=number << 24) for number in range(3)])
        again = model.decode(ops.reparameterize(mu, logvar, noise=eps))
    log_x = torch.distributions.Laplace(again.double(), 0.25).log_prob(x.double()).flatten(1).sum(1)
    assert torch.allclose(found.elbo + found.kl, log_x, rtol=1e-5)  # rec is summed in float32


def test_one_weight_is_the_three_densities(monkeypatch: pytest.MonkeyPatch) -> None:
    model = LinearGaussian()
    x = model.data(5)
    found = estimate(model, x, density=PixelDensity.gaussian(_SIGMA), samples=1, seed=2)
    mu, logvar = (values.detach() for values in model.encode(x))
    eps = torch.cat([ops.philox_normal(2, (1, _Z), offset=n << 24, dtype=torch.float64) for n in range(5)])
    q = torch.distributions.Normal(mu, (logvar / 2).exp())
    z = mu + (logvar / 2).exp() * eps
    p_x = torch.distributions.Normal(model.decoder(z).detach(), _SIGMA)
    weight = p_x.log_prob(x).sum(1) + torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(1) - q.log_prob(z).sum(1)
    assert torch.allclose(found.log_likelihood, weight, rtol=1e-12)


def test_portions_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    model = LinearGaussian()
    x = model.data(11)
    density = PixelDensity.gaussian(_SIGMA)
    whole = estimate(model, x, density=density, samples=70, seed=1)
    for size in (1, 4):
        monkeypatch.setattr(likelihood, "samples_at_once", lambda shape, size=size: size)
        for one, other in zip(whole, estimate(model, x, density=density, samples=70, seed=1), strict=True):
            assert torch.allclose(one, other, rtol=1e-12)  # float64 throughout
    again = estimate(model, x[3:5], density=density, samples=70, seed=1, numbers=[3, 4])
    assert torch.allclose(again.log_likelihood, whole.log_likelihood[3:5], rtol=1e-12)


def test_the_noise_is_a_function_of_seed_and_number() -> None:
    model = LinearGaussian()
    x = model.data(1).expand(4, -1)
    density = PixelDensity.gaussian(_SIGMA)
    found = estimate(model, x, density=density, samples=3, seed=1, numbers=[0, 1, NUMBER_LIMIT - 1, 0]).log_likelihood
    assert len(set(found.tolist())) == 3 and found[0] == found[3]
    other = estimate(model, x, density=density, samples=3, seed=2, numbers=[0, 1, 2, 3]).log_likelihood
    assert not set(found.tolist()) & set(other.tolist())


def test_improbable_images_neither_underflow_nor_overflow() -> None:
    model = small_conv()
    x = torch.full((2, 1, 8, 8), 100.0)
    found = estimate(model, x, density=PixelDensity.gaussian(1e-3), samples=5)
    for values in found:
        assert values.dtype == torch.float64 and bool(values.isfinite().all())
    assert bool((found.log_likelihood < -1e9).all())  # 64 elements, about 1e5 sigma off each


def test_what_networks_cannot_compute_counts_as_impossible() -> None:
    model = small_conv()
    x = torch.zeros(2, 1, 8, 8)
    x[1] = math.nan
    found = estimate(model, x, density=PixelDensity(1.0), samples=2)
    assert bool(found.log_likelihood.isfinite()[0]) and not bool(found.kl.isinf()[0])
    assert found.kl[1] == math.inf and found.elbo[1] == found.log_likelihood[1] == -math.inf
    assert kl_to_prior(model, x)[1] == math.inf


def test_a_decoder_s_own_noise_does_not_make_it_chance() -> None:
    torch.manual_seed(0)
    model = StyleVAE(image_size=8, channels=1, start_channels=8, max_channels=8, z_dim=8, mapping_layers=2)
    x = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1
    one, other = (estimate(model, x, density=PixelDensity(1.0), samples=3) for _ in range(2))
    assert all(torch.equal(*pair) for pair in zip(one, other, strict=True))
    alone = estimate(model, x[2:], density=PixelDensity(1.0), samples=3, numbers=[2])
    assert torch.allclose(alone.elbo, one.elbo[2:], rtol=1e-5)  # float32 networks, of another batch size


def test_models_get_their_mode_back_and_conditions_arrive() -> None:
    torch.manual_seed(0)
    model = ConvVAE(image_size=8, channels=1, widths=(8,), z_dim=5, condition_dim=2).train()
    x = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(1)).expand(3, 1, 8, 8)
    kinds = torch.eye(2)
    one = estimate(model, x, density=PixelDensity(1.0), samples=2, condition=kinds[[0, 0, 1]])
    other = estimate(model, x, density=PixelDensity(1.0), samples=2, condition=kinds[[0, 1, 1]])
    assert one.elbo[0] == pytest.approx(float(other.elbo[0]), rel=1e-5) and one.elbo[1] != other.elbo[1]
    assert model.training and all(module.training for module in model.modules())
    assert torch.equal(kl_to_prior(model, x, condition=kinds[[0, 0, 1]]), one.kl)


def test_nothing_comes_of_nothing() -> None:
    empty = torch.zeros(0, 2)
    assert [len(values) for values in estimate(MLPVAE(hidden=4), empty, density=PixelDensity(1.0), samples=1)] == [
        0
    ] * 3
    assert len(kl_to_prior(MLPVAE(hidden=4), empty)) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"samples": 0}, "samples is 0, expected at least 1"),
        ({"samples": 1 << 40}, "expected at most"),
        ({"x": torch.zeros(3, 3)}, r"x is \[3, 3\], expected \[N, 2\]"),
        ({"numbers": [1]}, "1 numbers for 3 samples"),
        ({"numbers": [0, 1, NUMBER_LIMIT]}, "expected 0 to 2"),
    ],
)
def test_arguments_that_cannot_be(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        estimate(MLPVAE(hidden=4), **{"x": torch.zeros(3, 2), "density": PixelDensity(1.0), "samples": 1, **arguments})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PixelDensity(0.0), "precision is 0.0"),
        (lambda: PixelDensity(1.0, "huber"), "kind is 'huber', expected one of 'mse', 'l1'"),
        (lambda: PixelDensity.of_objective(1.0, 0.0), "beta_kl is 0.0"),
        (lambda: PixelDensity.of_objective(math.inf, 1.0), "beta_rec is inf"),
        (lambda: PixelDensity.gaussian(-1.0), "sigma is -1.0"),
        (lambda: PixelDensity.gaussian(1e-200), "sigma is 1e-200"),
    ],
)
def test_densities_that_cannot_be(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]


def test_the_error_of_clouds_is_their_chamfer_distance_without_a_constant() -> None:
    density = PixelDensity.of_objective(1.0, 0.2, "chamfer")
    clouds, others = torch.rand(2, 3, 9, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(density.error(clouds, others), ops.chamfer_distance(clouds, others))
    assert (density.precision, density.log_normaliser) == (5.0, 0.0)
    model = PointVAE(9, 2, (4,), 4, (4,))
    found = estimate(model, clouds, density=density, samples=3)
    assert bool((found.log_likelihood >= found.elbo).all())  # a bound that rises with the samples, for the same draws
    assert torch.equal(found.kl, kl_to_prior(model, clouds))


def test_a_learned_prior_is_scored_as_itself():
    """A mixture of equal components of N(0, 1) is the standard prior: values agree up to the rounding of sums of L."""
    plain = MLPVAE(hidden=8, layers=1)
    learned = MLPVAE(hidden=8, layers=1, prior="mixture", prior_components=3)
    learned.load_state_dict(plain.state_dict(), strict=False)
    x = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
    options = {"density": PixelDensity.gaussian(0.5), "samples": 16}
    with torch.no_grad():
        learned.prior.mu.zero_()
        learned.prior.logvar.zero_()
    for mine, theirs in zip(estimate(learned, x, **options), estimate(plain, x, **options), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-6)  # softmax's weights are float32
    with torch.no_grad():
        learned.prior.mu.fill_(3.0)
    moved, standard = estimate(learned, x, **options), estimate(plain, x, **options)
    assert (moved.kl > standard.kl).all() and (moved.log_likelihood != standard.log_likelihood).all()
