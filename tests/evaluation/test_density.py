"""The two-dimensional metrics, against straight-line NumPy and against cases worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sivae.data import DENSITIES, Density, get_density
from sivae.evaluation.density import (
    density_grid,
    density_histogram,
    evaluate_density,
    grid_normalised_elbo,
    js_divergence,
    kl_divergence,
    mode_coverage,
    negative_elbo,
    official_js_divergence,
    official_kl_divergence,
)
from sivae.models import VAEModel

# Sums of at most 10,000 float64 terms in another order: 10,000 roundings of 1.1e-16, relative to Σ|terms|,
# which in these cases is within a factor of 10 of the sum.
REORDERED = 1e-11


class Plane(VAEModel):
    """Encodes a point as itself with log-variance 0 and decodes a latent as itself: rec = 0, kl = ½|x|²."""

    def __init__(self) -> None:
        super().__init__()
        self.z_dim = 2
        self.scale = nn.Parameter(torch.ones(()))
        self.inner = nn.Dropout()
        self.calls_in_training = 0

    def encode(self, x: Tensor, /) -> tuple[Tensor, Tensor]:
        self.calls_in_training += self.training or self.inner.training or torch.is_grad_enabled()
        return x * self.scale, torch.zeros_like(x)

    def decode(self, z: Tensor, /) -> Tensor:
        self.calls_in_training += self.training or self.inner.training or torch.is_grad_enabled()
        return z * self.scale


class Picker(Plane):
    """Decodes to one of the given points, chosen by the angle of the latent, each equally likely."""

    def __init__(self, points: Tensor) -> None:
        super().__init__()
        self.register_buffer("points", points.float())

    def decode(self, z: Tensor, /) -> Tensor:
        points = self.get_buffer("points")
        turn = torch.atan2(z[:, 1], z[:, 0]) / (2 * math.pi) + 0.5
        return points[(turn * len(points)).long().clamp(max=len(points) - 1)]


class Curved(Plane):
    """A smooth model whose rec and log-variance are not trivial."""

    def encode(self, x: Tensor, /) -> tuple[Tensor, Tensor]:
        return x * 0.5 + 0.1, x.sin() - 1

    def decode(self, z: Tensor, /) -> Tensor:
        return z.tanh() * 1.5


def sample(name: str, count: int, seed: int) -> Tensor:
    return get_density(name).sample(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def numpy_histogram(points: Tensor, extent: float, bins: int) -> np.ndarray:
    span = [-2 * extent, 2 * extent]
    x, y = points.double().numpy().T
    density: np.ndarray = np.histogram2d(x, y, bins=bins, range=[span, span], density=True)[0]
    return density


def looped_official_kl(p: np.ndarray, q: np.ndarray) -> float:
    total = 0.0
    for i in range(100):
        for j in range(100):
            if p[i, j] > 0:
                total += p[i, j] * (math.log(p[i, j]) - math.log(q[i, j] + 1e-14))
    return total / 100


def looped_jsd(p: np.ndarray, q: np.ndarray) -> float:
    total = 0.0
    for a, b in zip(p.ravel() / p.sum(), q.ravel() / q.sum(), strict=True):
        middle = (a + b) / 2
        total += 0.5 * a * math.log(a / middle) if a > 0 else 0.0
        total += 0.5 * b * math.log(b / middle) if b > 0 else 0.0
    return total


def quick_metrics(model: Plane, density: Density, seed: int) -> dict[str, float]:
    """All metrics, with a gnELBO over fewer points than the published one's."""
    return evaluate_density(model, density, seed=seed, grid_resolution=64, elbo_points=500)


def plain_nelbo(model: Plane, points: Tensor) -> np.ndarray:
    with torch.no_grad():
        mu, logvar = (t.double().numpy() for t in model.encode(points))
        recon = model.decode(model.encode(points)[0]).double().numpy()
    values = []
    for x, r, m, lv in zip(points.double().numpy(), recon, mu, logvar, strict=True):
        rec = sum((x[k] - r[k]) ** 2 for k in range(2))
        kl = sum(0.5 * (math.exp(lv[k]) + m[k] ** 2 - 1 - lv[k]) for k in range(2))
        values.append(rec + kl)
    return np.array(values)


class TestHistogram:
    @pytest.mark.parametrize("name", DENSITIES)
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_equals_numpy(self, name: str, dtype: torch.dtype) -> None:
        extent = get_density(name).extent
        points = sample(name, 5000, 1).to(dtype) * 1.3
        ours = density_histogram(points, extent)
        assert ours.dtype == torch.float64 and ours.shape == (100, 100)
        wanted = numpy_histogram(points, extent, 100)
        # Same counts exactly; the areas NumPy takes as products of edge differences carry ulps of 2e / bin =
        # 100.
        np.testing.assert_allclose(ours.numpy(), wanted, rtol=1e-13, atol=0)

    def test_the_first_index_follows_the_first_coordinate(self) -> None:
        ours = density_histogram(torch.tensor([[1.9, -1.9]]), 1.0, bins=4)
        assert ours[3, 0] > 0 and ours.count_nonzero() == 1

    def test_points_on_edges_fall_where_numpy_puts_them(self) -> None:
        for extent in (1.0, 2.0):
            edges = torch.from_numpy(np.linspace(-2 * extent, 2 * extent, 101))
            points = torch.stack((edges, edges.flip(0)), dim=1)
            ours = density_histogram(points, extent).numpy()
            assert ((ours > 0) == (numpy_histogram(points, extent, 100) > 0)).all()

    def test_the_upper_edge_is_closed(self) -> None:
        assert density_histogram(torch.tensor([[2.0, 2.0]]), 1.0, bins=4)[3, 3] == 1.0

    def test_points_outside_and_nans_are_dropped_before_normalising(self) -> None:
        inside = sample("8gaussians", 50, 2)
        nan, inf = float("nan"), float("inf")
        stray = torch.tensor([[2.001, 0], [0, -3], [nan, 0], [0, nan], [inf, 0], [0, -inf]], dtype=torch.float64)
        assert torch.equal(density_histogram(torch.cat((inside, stray)), 1.0), density_histogram(inside, 1.0))

    def test_integrates_to_one(self) -> None:
        density = density_histogram(sample("rings", 1000, 3), 2.0, bins=37)
        # 1369 roundings of 1.1e-16.
        assert abs(float(density.sum()) * (8 / 37) ** 2 - 1) < 2e-13

    def test_no_point_inside_is_nan_as_in_numpy(self) -> None:
        assert density_histogram(torch.full((3, 2), 9.0), 1.0, bins=5).isnan().all()
        assert density_histogram(torch.zeros(0, 2), 1.0, bins=5).isnan().all()

    @pytest.mark.parametrize(
        ("points", "extent", "bins"),
        [
            (torch.zeros(3), 1.0, 5),
            (torch.zeros(3, 3), 1.0, 5),
            (torch.zeros(3, 2), 0.0, 5),
            (torch.zeros(3, 2), 1.0, 0),
        ],
    )
    def test_wrong_arguments_are_refused(self, points: Tensor, extent: float, bins: int) -> None:
        with pytest.raises(ValueError, match="density_histogram"):
            density_histogram(points, extent, bins)


class TestDivergences:
    @pytest.mark.parametrize("name", DENSITIES)
    def test_equal_straight_line_numpy(self, name: str) -> None:
        extent = get_density(name).extent
        real, fake = sample(name, 3000, 4), sample(name, 3000, 5) * 0.98 + 0.02
        p, q = density_histogram(real, extent), density_histogram(fake, extent)
        a, b = numpy_histogram(real, extent, 100), numpy_histogram(fake, extent, 100)
        middle = (a + b) / 2
        factor = 6.25 if name == "8gaussians" else 1.5625
        wanted_kl = looped_official_kl(a, b)
        wanted_jsd = (looped_official_kl(middle, a) + looped_official_kl(middle, b)) / 2
        assert official_kl_divergence(p, q) == pytest.approx(wanted_kl, rel=REORDERED)
        assert official_js_divergence(p, q) == pytest.approx(wanted_jsd, rel=REORDERED)
        assert kl_divergence(p, q) == pytest.approx(wanted_kl / factor, rel=REORDERED)
        assert js_divergence(p, q) == pytest.approx(looped_jsd(a, b), rel=REORDERED)

    @pytest.mark.parametrize(("extent", "factor"), [(1.0, 6.25), (2.0, 1.5625)])
    def test_official_values_are_densities_summed_over_a_hundred(self, extent: float, factor: float) -> None:
        """P has two bins at ½ each, Q the same at ¼ and ¾: KL = ½·ln(½/¼) + ½·ln(½/¾) = ½·ln(4/3)."""
        limit = 2 * extent
        a, b = [-0.99 * limit, -0.99 * limit], [0.99 * limit, 0.99 * limit]
        p = density_histogram(torch.tensor([a, b]), extent)
        q = density_histogram(torch.tensor([a, b, b, b]), extent)
        # The floor 1e-14 beside a density of at least 39 moves a logarithm by less than 3e-16.
        assert kl_divergence(p, q) == pytest.approx(0.5 * math.log(4 / 3), rel=1e-13)
        assert official_kl_divergence(p, q) == pytest.approx(factor * 0.5 * math.log(4 / 3), rel=1e-13)
        # M = (3/8, 5/8), arguments the wrong way round.
        to_p = 3 / 8 * math.log(3 / 4) + 5 / 8 * math.log(5 / 4)
        to_q = 3 / 8 * math.log(3 / 2) + 5 / 8 * math.log(5 / 6)
        assert official_js_divergence(p, q) == pytest.approx(factor * (to_p + to_q) / 2, rel=1e-12)
        right_way = 0.5 * (math.log(4 / 3) + math.log(4 / 5)) / 2
        right_way += 0.5 * (math.log(2 / 3) / 4 + 3 * math.log(6 / 5) / 4)
        assert js_divergence(p, q) == pytest.approx(right_way, rel=1e-12)

    def test_identical_sets_have_no_divergence(self) -> None:
        p = density_histogram(sample("checkerboard", 5000, 6), 2.0)
        # log(p + 1e-14) − log p: at most 1e-14 over the smallest density, 1/(5000·.0064), plus an ulp of |log
        # p| < 4.
        assert abs(kl_divergence(p, p)) < 1e-12
        assert abs(official_kl_divergence(p, p)) < 1.5625e-12
        assert abs(official_js_divergence(p, p)) < 1.5625e-12
        assert abs(js_divergence(p, p)) < 1e-12

    def test_disjoint_sets(self) -> None:
        points = sample("rings", 2000, 7).abs() + 0.01
        p, q = density_histogram(points, 2.0), density_histogram(-points, 2.0)
        # Sums of 2000 terms that add up to at most 10.
        assert js_divergence(p, q) == pytest.approx(math.log(2), rel=1e-12)
        # Every bin of q under p is empty, so its logarithm is log 1e-14.
        entropy_part = float(torch.xlogy(p, p).sum() / p.sum())
        assert kl_divergence(p, q) == pytest.approx(entropy_part - math.log(1e-14), rel=1e-12)
        assert official_js_divergence(p, q) > 1.5625 * math.log(2)

    def test_the_jensen_shannon_divergences_are_symmetric_and_kl_is_not(self) -> None:
        p = density_histogram(sample("rings", 2000, 8), 2.0)
        q = density_histogram(sample("2spirals", 1000, 9), 2.0)
        assert js_divergence(p, q) == pytest.approx(js_divergence(q, p), rel=REORDERED)
        assert official_js_divergence(p, q) == pytest.approx(official_js_divergence(q, p), rel=REORDERED)
        assert kl_divergence(p, q) != pytest.approx(kl_divergence(q, p), rel=1e-3)

    def test_a_histogram_without_points_gives_nan(self) -> None:
        p = density_histogram(sample("rings", 100, 8), 2.0)
        q = density_histogram(torch.zeros(0, 2), 2.0)
        for divergence in (official_kl_divergence, official_js_divergence, kl_divergence, js_divergence):
            assert math.isnan(divergence(p, q)) and math.isnan(divergence(q, p))


class TestNegativeElbo:
    def test_equals_the_plain_definition(self) -> None:
        points = sample("2spirals", 300, 10).float()
        model = Curved()
        values = negative_elbo(model, points)
        assert values.dtype == torch.float64 and values.shape == (300,)
        # The network's outputs are the same float32 numbers; afterwards about 20 float64 operations on them.
        np.testing.assert_allclose(values.numpy(), plain_nelbo(model, points), rtol=1e-13, atol=1e-14)

    def test_weights(self) -> None:
        points = sample("rings", 20, 11).float()
        model = Curved()
        both = negative_elbo(model, points, beta_rec=3.0, beta_kl=0.5)
        rec = negative_elbo(model, points, beta_kl=0.0)
        kl = negative_elbo(model, points, beta_rec=0.0)
        torch.testing.assert_close(both, 3 * rec + 0.5 * kl, rtol=1e-14, atol=0)

    def test_chunks_do_not_show(self) -> None:
        points = sample("rings", 9000, 12)
        # rec = 0 and kl = ½|x|² of the point as float32: a handful of float64 roundings.
        wanted = points.float().double().square().sum(dim=1) / 2
        torch.testing.assert_close(negative_elbo(Plane(), points), wanted, rtol=1e-14, atol=0)


def test_gnelbo_is_the_mean_over_the_sum_of_grid_and_points() -> None:
    assert grid_normalised_elbo(torch.tensor([1.0, 3.0]), torch.tensor([4.0, 5.0, 6.0])) == 2 / 19


class TestModeCoverage:
    modes = torch.tensor([[0.0, 0.0], [10.0, 0.0]])

    def test_points_within_three_sigma_are_good(self) -> None:
        points = torch.tensor([[0.0, 2.99], [3.01, 0.0], [10.0, -2.99], [5.0, 50.0]])
        assert mode_coverage(points, self.modes, 1.0) == (2, 0.5)

    def test_a_mode_needs_a_tenth_of_its_fair_share(self) -> None:
        """With 40 points and 2 modes the fair share is 20, a tenth of it 2."""
        at_first = self.modes[:1].repeat(38, 1)
        assert mode_coverage(torch.cat((at_first, self.modes[1:].repeat(2, 1))), self.modes, 1.0) == (2, 1.0)
        stray = torch.tensor([[5.0, 5.0]])
        assert mode_coverage(torch.cat((at_first, self.modes[1:], stray)), self.modes, 1.0) == (1, 39 / 40)

    def test_nans_are_not_good_and_no_points_capture_nothing(self) -> None:
        assert mode_coverage(torch.full((4, 2), float("nan")), self.modes, 1.0) == (0, 0.0)
        captured, precision = mode_coverage(torch.zeros(0, 2), self.modes, 1.0)
        assert captured == 0 and math.isnan(precision)

    @pytest.mark.parametrize("name", ["8gaussians", "25gaussians"])
    def test_the_mixture_itself_captures_all(self, name: str) -> None:
        """A point is within 3σ with p = 1 − exp(−9/2); the share of N has standard error sqrt(p(1 − p)/N)."""
        density = get_density(name)
        assert density.modes is not None and density.sigma is not None
        captured, precision = mode_coverage(sample(name, 5000, 13), density.modes, density.sigma)
        p = 1 - math.exp(-4.5)
        assert captured == len(density.modes)
        assert abs(precision - p) < 5 * math.sqrt(p * (1 - p) / 5000)

    @pytest.mark.parametrize("name", ["8gaussians", "25gaussians"])
    def test_an_even_spread_captures_none(self, name: str) -> None:
        density = get_density(name)
        assert density.modes is not None and density.sigma is not None
        spread = (torch.rand(5000, 2, generator=torch.Generator().manual_seed(0)) - 0.5) * 4 * density.extent
        assert mode_coverage(spread, density.modes, density.sigma).captured == 0


class TestEvaluate:
    def test_keys(self) -> None:
        always = {"gnelbo", "official_kl", "official_jsd", "kl", "jsd"}
        assert set(quick_metrics(Plane(), get_density("rings"), seed=0)) == always
        mixture = quick_metrics(Plane(), get_density("8gaussians"), seed=0)
        assert set(mixture) == always | {"modes_captured", "mode_precision"}
        assert isinstance(mixture["modes_captured"], int)
        assert all(math.isfinite(value) for value in mixture.values())

    def test_gnelbo_of_the_plane_model_in_closed_form(self) -> None:
        """NELBO = ½|x|². Over an R-point axis from −a to a the mean of x² is a²(R + 1)/(3(R − 1)).

        For checkerboard E½|x|² is 16/3 with standard deviation d < 3.4 (its coordinates are uniform in [−4,
        4] and d² = 2·Var(x²)/4 = 2·(4⁴·4/45)/4 = 11.4 for independent ones, which bounds the sum within √2
        for any others); 5 standard errors of the mean over 12,800 points are 0.21.
        """
        value = evaluate_density(Plane(), get_density("checkerboard"), seed=3, grid_resolution=256)["gnelbo"]
        grid_sum = 256**2 * 16 * 257 / (3 * 255)
        for mean, compare in ((16 / 3 - 0.21, value.__gt__), (16 / 3 + 0.21, value.__lt__)):
            assert compare(mean / (grid_sum + 12_800 * mean))

    def test_a_perfect_generator_is_near_zero_and_a_collapsed_one_is_not(self) -> None:
        density = get_density("8gaussians")
        perfect = quick_metrics(Picker(sample("8gaussians", 20_000, 14)), density, seed=0)
        assert density.modes is not None
        collapsed = quick_metrics(Picker(density.modes[:1]), density, seed=0)
        assert perfect["modes_captured"] == 8 and collapsed["modes_captured"] == 1
        assert collapsed["mode_precision"] == 1.0
        # For two samples of N = 5000 that reach B bins, jsd is a chi-square of B − 1 degrees over 4N to first
        # order. A bin is 2.8σ wide, so the ±4σ around 8 modes touch B <= 8·4·4 bins: mean 127, deviation
        # √254, over 4N.
        assert 0 <= perfect["jsd"] < (127 + 5 * math.sqrt(254)) / (4 * 5000)
        # Seven eighths of the data lie where the collapsed model is never: at least ⅞·½·ln 2 of P's half
        # alone.
        assert collapsed["jsd"] > 7 / 16 * math.log(2)
        assert perfect["official_kl"] == pytest.approx(6.25 * perfect["kl"], rel=REORDERED)
        # Missing mass of 7/8 costs at least 7/8·(log of the smallest density reached − log 1e-14) > 7/8·20
        # nats.
        assert collapsed["kl"] > 17.5 > perfect["kl"]

    def test_a_generator_outside_the_square_has_no_divergence(self) -> None:
        metrics = quick_metrics(Picker(torch.tensor([[9.0, 9.0]])), get_density("8gaussians"), seed=0)
        assert all(math.isnan(metrics[key]) for key in ("official_kl", "official_jsd", "kl", "jsd"))
        assert math.isfinite(metrics["gnelbo"]) and metrics["mode_precision"] == 0

    def test_the_seed_decides_and_the_global_generator_does_not(self) -> None:
        density = get_density("8gaussians")
        with torch.random.fork_rng():
            torch.manual_seed(1)
            state = torch.get_rng_state()
            first = quick_metrics(Curved(), density, seed=5)
            assert torch.equal(state, torch.get_rng_state())
            torch.manual_seed(2)
            assert quick_metrics(Curved(), density, seed=5) == first
        other = quick_metrics(Curved(), density, seed=6)
        assert all(other[key] != first[key] for key in ("gnelbo", "official_kl", "jsd"))

    def test_points_differ_from_those_of_a_run_with_the_same_seed(self) -> None:
        """A model that returns what training with this seed drew first does not score as identical."""
        density = get_density("25gaussians")
        first_batch = density.sample(5000, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
        assert quick_metrics(Picker(first_batch), density, seed=5)["jsd"] > 1e-3

    def test_runs_in_eval_mode_without_gradients_and_restores_each_module(self) -> None:
        model = Plane().train()
        model.inner.eval()
        quick_metrics(model, get_density("rings"), seed=0)
        assert model.calls_in_training == 0
        assert model.training and not model.inner.training
        assert model.scale.grad is None and torch.is_grad_enabled()

    def test_the_mode_is_restored_when_the_model_fails(self) -> None:
        class Broken(Plane):
            def encode(self, x: Tensor, /) -> tuple[Tensor, Tensor]:
                raise RuntimeError("broken")

        model = Broken().train()
        with pytest.raises(RuntimeError, match="broken"):
            quick_metrics(model, get_density("rings"), seed=0)
        assert model.training and model.inner.training and torch.is_grad_enabled()

    def test_a_double_model_sees_doubles(self) -> None:
        class Picky(Plane):
            def encode(self, x: Tensor, /) -> tuple[Tensor, Tensor]:
                assert x.dtype == torch.float64
                return super().encode(x)

        single = quick_metrics(Plane(), get_density("rings"), seed=1)
        double = quick_metrics(Picky().double(), get_density("rings"), seed=1)
        # The same points, rounded to float32 (6e-8 relative) in one of the two; NELBO doubles that.
        assert double["gnelbo"] == pytest.approx(single["gnelbo"], rel=5e-7)

    def test_a_negative_seed_is_refused(self) -> None:
        with pytest.raises(ValueError, match="non-negative"):
            quick_metrics(Plane(), get_density("rings"), seed=-1)


class TestDensityGrid:
    def test_is_the_gaussian_of_the_plane_model(self) -> None:
        """NELBO = ½|x|² makes the estimate a standard normal, normalised over the square's cells."""
        grid = density_grid(Plane().double(), get_density("rings"), 40)
        assert grid.dtype == torch.float64 and grid.shape == (40, 40)
        centres = np.array([-4 + 8 * (k + 0.5) / 40 for k in range(40)])
        weight = np.exp(-(centres[:, None] ** 2 + centres[None, :] ** 2) / 2)
        # A softmax over 1600 cells with exponents down to −16: 1600 + 16 roundings.
        np.testing.assert_allclose(grid.numpy(), weight / weight.sum() / 0.2**2, rtol=4e-13)

    def test_the_first_index_follows_the_first_coordinate(self) -> None:
        class Right(Plane):
            def encode(self, x: Tensor, /) -> tuple[Tensor, Tensor]:
                return (x - torch.tensor([3.0, 0.0])), torch.zeros_like(x)

            def decode(self, z: Tensor, /) -> Tensor:
                return z + torch.tensor([3.0, 0.0])

        grid = density_grid(Right(), get_density("rings"), 9)
        # Cell centres are −4 + 8(k + ½)/9; the nearest to (3, 0) is (7, 4).
        assert divmod(int(grid.argmax()), 9) == (7, 4)

    def test_huge_nelbos_do_not_underflow(self) -> None:
        grid = density_grid(Plane(), get_density("8gaussians"), 11, beta_kl=1e6)
        # All mass in the centre cell, of area (4/11)².
        assert float(grid[5, 5]) == pytest.approx((11 / 4) ** 2, rel=1e-14)
        assert grid.isfinite().all()

    def test_restores_the_mode_and_makes_no_gradient(self) -> None:
        model = Plane().train()
        assert not density_grid(model, get_density("rings"), 4).requires_grad
        assert model.training and model.calls_in_training == 0

    def test_an_empty_grid_is_refused(self) -> None:
        with pytest.raises(ValueError, match="resolution must be at least 1, got 0"):
            density_grid(Plane(), get_density("rings"), 0)
