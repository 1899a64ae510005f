"""The points of the five toy densities: their places and shares, and that a generator determines them.

Statistical checks allow five standard errors: a correct sampler misses one such bound with probability 6e-7,
and the seeds are fixed, so a failure means a change of the distribution.
"""

from __future__ import annotations

import math
import random

import pytest
import torch
from torch import Tensor

from sivae.data import DENSITIES, get_density

COUNT = 40_000
NAMES = ["8gaussians", "25gaussians", "2spirals", "checkerboard", "rings"]
MIXTURES = {"8gaussians": (8, 0.02 / 1.414), "25gaussians": (25, 2 * 0.05 / 2.828)}


def draw(name: str, count: int = COUNT, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return get_density(name).sample(count, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def assert_equal_shares(labels: Tensor, classes: int) -> None:
    """Each class's count is binomial: its share has standard error sqrt(p·(1 − p)/N)."""
    share = torch.bincount(labels, minlength=classes).double() / len(labels)
    p = 1 / classes
    assert share.shape == (classes,)
    assert (share - p).abs().max() < 5 * math.sqrt(p * (1 - p) / len(labels))


def assert_standard_normal(values: Tensor) -> None:
    """Mean 0 with standard error 1/sqrt(N), mean square 1 with standard error sqrt(2/N)."""
    assert values.mean().abs() < 5 / math.sqrt(values.numel())
    assert (values.square().mean() - 1).abs() < 5 * math.sqrt(2 / values.numel())


def plain_point(name: str, rng: random.Random) -> tuple[float, float]:
    """One point, restated line by line from the definitions with Python's own random numbers."""
    if name == "8gaussians":
        angle = rng.randrange(8) * math.pi / 4
        x = 2 * math.cos(angle) + rng.gauss(0, 0.02)
        y = 2 * math.sin(angle) + rng.gauss(0, 0.02)
        return x / 1.414, y / 1.414
    if name == "25gaussians":
        x = rng.choice([-4, -2, 0, 2, 4]) + rng.gauss(0, 0.05)
        y = rng.choice([-4, -2, 0, 2, 4]) + rng.gauss(0, 0.05)
        return x / 2.828 * 2, y / 2.828 * 2
    if name == "2spirals":
        n = math.sqrt(rng.random()) * 3 * math.pi
        x = -math.cos(n) * n + 0.5 * rng.random()
        y = math.sin(n) * n + 0.5 * rng.random()
        if rng.random() < 0.5:
            x, y = -x, -y
        return x / 3 + rng.gauss(0, 0.1), y / 3 + rng.gauss(0, 0.1)
    if name == "checkerboard":
        x = rng.uniform(-2, 2)
        y = rng.random() - 2 * (rng.random() < 0.5) + math.floor(x) % 2
        return 2 * x, 2 * y
    radius = rng.choice([1.0, 0.75, 0.5, 0.25])
    angle = rng.uniform(0, 2 * math.pi)
    x = 3 * radius * math.cos(angle) + rng.gauss(0, 0.08)
    y = 3 * radius * math.sin(angle) + rng.gauss(0, 0.08)
    return x, y


def test_the_registry_holds_the_five_densities() -> None:
    assert list(DENSITIES) == NAMES
    assert all(DENSITIES[name].name == name for name in NAMES)
    assert {name: DENSITIES[name].extent for name in NAMES} == dict.fromkeys(NAMES, 2.0) | {"8gaussians": 1.0}


def test_get_density_returns_the_registered_object() -> None:
    assert get_density("rings") is DENSITIES["rings"]


def test_an_unknown_name_is_named_beside_the_known_ones() -> None:
    with pytest.raises(ValueError, match="'moons'") as caught:
        get_density("moons")
    assert all(name in str(caught.value) for name in NAMES)


def test_densities_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        DENSITIES["rings"].extent = 3.0  # type: ignore[misc]


def assert_equal_means(a: Tensor, b: Tensor) -> None:
    """The means of independent samples' columns differ with standard error sqrt(var₁/N₁ + var₂/N₂)."""
    error = (a.var(dim=0) / len(a) + b.var(dim=0) / len(b)).sqrt()
    assert ((a.mean(dim=0) - b.mean(dim=0)).abs() < 5 * error).all()


def plain_points(name: str) -> Tensor:
    rng = random.Random(7)
    return torch.tensor([plain_point(name, rng) for _ in range(COUNT)], dtype=torch.float64)


@pytest.mark.parametrize("name", NAMES)
def test_the_distribution_is_the_plain_definition(name: str) -> None:
    """Moments, and means of cos(w·x) and sin(w·x) over 24 frequencies, agree with the restated sampler's."""
    frequency = torch.randn(2, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(3)) * 2

    def features(points: Tensor) -> Tensor:
        phase = points @ frequency
        return torch.cat((phase.cos(), phase.sin(), points, points.square()), dim=1)

    assert_equal_means(features(plain_points(name)), features(draw(name)))


@pytest.mark.parametrize("name", MIXTURES)
def test_a_mixture_has_normal_noise_around_equally_likely_modes(name: str) -> None:
    count, sigma = MIXTURES[name]
    modes = get_density(name).modes
    assert modes is not None and modes.shape == (count, 2) and modes.dtype == torch.float64
    assert get_density(name).sigma == sigma

    points = draw(name)
    nearest = torch.cdist(points, modes).argmin(dim=1)
    assert_equal_shares(nearest, count)
    noise = (points - modes[nearest]) / sigma
    assert_standard_normal(noise[:, 0])
    assert_standard_normal(noise[:, 1])
    # The product of two independent standard normals has mean 0 and variance 1.
    assert noise.prod(dim=1).mean().abs() < 5 / math.sqrt(COUNT)
    # A Rayleigh variable passes 6.5 with probability exp(−6.5²/2) = 7e-10, so none of 40,000 should.
    assert noise.norm(dim=1).max() < 6.5


def test_mode_centres_are_where_the_definition_puts_them() -> None:
    eight, many = get_density("8gaussians").modes, get_density("25gaussians").modes
    assert eight is not None and many is not None
    axis = [k / 2.828 * 2 for k in (-4, -2, 0, 2, 4)]
    circle = [(2 * math.cos(k * math.pi / 4) / 1.414, 2 * math.sin(k * math.pi / 4) / 1.414) for k in range(8)]
    # Only the order of the divisions may differ: a few roundings of numbers below 4, 4e-16 each.
    torch.testing.assert_close(eight, torch.tensor(circle, dtype=torch.float64), rtol=0, atol=2e-15)
    wanted = torch.tensor([(x, y) for x in axis for y in axis], dtype=torch.float64)
    torch.testing.assert_close(many, wanted, rtol=0, atol=2e-15)


@pytest.mark.parametrize("name", ["2spirals", "checkerboard", "rings"])
def test_other_densities_have_no_modes(name: str) -> None:
    assert get_density(name).modes is None and get_density(name).sigma is None


def test_the_modes_are_a_copy() -> None:
    first = get_density("8gaussians").modes
    assert first is not None
    first.zero_()
    second = get_density("8gaussians").modes
    assert second is not None and second.abs().max() > 1
    assert draw("8gaussians", 100).norm(dim=1).min() > 1


def test_spiral_points_lie_along_two_equal_arms() -> None:
    """Three times a point is plus or minus (a point of the curve and an offset in [0, ½]²), and noise σ .3.

    6.5 standard deviations of noise in two dimensions are passed with probability 7e-10.
    """
    points = draw("2spirals", 4000) * 3
    n = torch.linspace(0, 3 * math.pi, 1500, dtype=torch.float64)
    arm = torch.stack((-n.cos() * n, n.sin() * n), dim=1) + 0.25
    distance = torch.stack([torch.cdist(points, side * arm).min(dim=1).values for side in (1, -1)])
    # 0.25·√2 from the offset's centre to its corner; curve points are at most 3π·√(1 + 1/(3π)²)/1499 apart.
    assert distance.min(dim=0).values.max() < 0.25 * math.sqrt(2) + 6.5 * 0.3 + 0.01


def test_spiral_arms_have_equal_shares() -> None:
    """The outer half turn of one arm is above the axis, that of its mirror image below."""
    points = draw("2spirals")
    outer = points[points.norm(dim=1) > 8.5 / 3]
    assert len(outer) > COUNT / 10
    assert_equal_shares((outer[:, 1] > 0).long(), 2)


def test_spiral_points_scatter_around_their_arm_as_the_plain_ones_do() -> None:
    """On the outer half turn n = 3π − angle, so 3·|x| − n is what offset and noise add across the arm."""

    def features(points: Tensor) -> Tensor:
        outer = 3 * points[(points[:, 1] > 0.5) & (points.norm(dim=1) > 2.4)]
        angle = torch.atan2(outer[:, 1], outer[:, 0])
        across = outer.norm(dim=1) - (3 * math.pi - angle)
        return torch.stack((across, across * angle.cos(), across * angle.sin(), across.square()), dim=1)

    assert_equal_means(features(plain_points("2spirals")), features(draw("2spirals")))


def test_spiral_second_moment() -> None:
    """E|x|² in closed form, from E n² = 9π²/2, E n·cos n = −4/(3π), E n·sin n = 2 − 8/(9π²) and E u² = ⅓."""
    squared = draw("2spirals").square().sum(dim=1)
    cross = 0.5 * (4 / (3 * math.pi) + 2 - 8 / (9 * math.pi**2))
    expected = (9 * math.pi**2 / 2 + cross + 1 / 6) / 9 + 2 * 0.1**2
    assert abs(squared.mean() - expected) < 5 * squared.std() / math.sqrt(COUNT)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_checkerboard_fills_its_eight_squares_evenly(dtype: torch.dtype) -> None:
    points = draw("checkerboard", dtype=dtype).double()
    assert points.min() >= -4 and points.max() <= 4
    column, row = (points / 2).floor().long().unbind(dim=1)
    assert ((column + row) % 2 == 0).all()
    assert_equal_shares((column + 2) * 2 + (row + 2) // 2, 8)
    # In its square a coordinate is uniform on [0, 1): mean ½, standard error sqrt(1/12/N).
    within = (points / 2).remainder(1)
    assert (within.mean(dim=0) - 0.5).abs().max() < 5 * math.sqrt(1 / 12 / COUNT)
    # Its square has mean ⅓ and variance 1/5 − 1/9 = 4/45.
    assert (within.square().mean(dim=0) - 1 / 3).abs().max() < 5 * math.sqrt(4 / 45 / COUNT)


def test_rings_have_equal_shares_and_are_round() -> None:
    points = draw("rings")
    radius = points.norm(dim=1)
    # Rings are .75 apart and the noise is .08: 4.7 standard deviations to the middle, 3e-6 of points cross
    # it, far below the standard error of a share, 2e-3.
    ring = ((radius / 0.75).round().long() - 1).clamp(0, 3)
    assert_equal_shares(ring, 4)
    for index in range(4):
        on = points[ring == index]
        true_radius = 0.75 * (index + 1)
        # E|x|² = r² + 2σ², with variance 4σ²r² + 4σ⁴.
        excess = on.square().sum(dim=1) - true_radius**2 - 2 * 0.08**2
        variance = 4 * 0.08**2 * true_radius**2 + 4 * 0.08**4
        assert excess.mean().abs() < 5 * math.sqrt(variance / len(on))
        squared = excess.square()
        assert (squared.mean() - variance).abs() < 5 * squared.std() / math.sqrt(len(on))
        angle = torch.atan2(on[:, 1], on[:, 0])
        for harmonic in (1, 2, 3, 4):
            # cos and sin of a uniform angle have mean 0 and variance ½.
            bound = 5 * math.sqrt(0.5 / len(on))
            assert (harmonic * angle).cos().mean().abs() < bound
            assert (harmonic * angle).sin().mean().abs() < bound


@pytest.mark.parametrize("name", NAMES)
def test_the_generator_decides_the_points(name: str) -> None:
    assert torch.equal(draw(name, 512, seed=5), draw(name, 512, seed=5))
    assert not torch.equal(draw(name, 512, seed=5), draw(name, 512, seed=6))
    generator = torch.Generator().manual_seed(5)
    first = get_density(name).sample(512, generator=generator)
    assert not torch.equal(first, get_density(name).sample(512, generator=generator))


@pytest.mark.parametrize("name", NAMES)
def test_a_given_generator_leaves_the_global_one_alone(name: str) -> None:
    state = torch.get_rng_state()
    draw(name, 64)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("name", NAMES)
def test_without_a_generator_the_global_one_is_used(name: str) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(11)
        first = get_density(name).sample(16)
        torch.manual_seed(11)
        assert torch.equal(first, get_density(name).sample(16))


@pytest.mark.parametrize("name", NAMES)
def test_shape_dtype_and_device(name: str) -> None:
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        points = draw(name, 10, dtype=dtype)
        assert points.shape == (10, 2) and points.dtype == dtype and points.device.type == "cpu"
        assert points.is_contiguous() and not points.requires_grad
        assert points.isfinite().all()
    assert get_density(name).sample(1).dtype == torch.float32


@pytest.mark.parametrize("name", NAMES)
def test_narrow_types_are_the_rounded_float32_points(name: str) -> None:
    assert torch.equal(draw(name, 64, dtype=torch.bfloat16), draw(name, 64, dtype=torch.float32).bfloat16())


@pytest.mark.parametrize("name", NAMES)
def test_no_points(name: str) -> None:
    assert draw(name, 0).shape == (0, 2)


def test_a_negative_count_is_refused() -> None:
    with pytest.raises(ValueError, match="rings: count must be 0 or more, got -1"):
        get_density("rings").sample(-1)


@pytest.mark.parametrize("dtype", [torch.int64, torch.complex64])
def test_a_dtype_that_is_not_floating_point_is_refused(dtype: torch.dtype) -> None:
    with pytest.raises(TypeError, match="floating-point"):
        get_density("rings").sample(4, dtype=dtype)
