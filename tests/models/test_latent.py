"""Prior samples and interpolation paths, against their definitions."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from sivae.models.base import one_hot
from sivae.models.latent import generate, lerp, prior_noise, slerp
from tests.evaluation.painter import Painter

Path = Callable[[Tensor, Tensor, int], Tensor]
every_path = pytest.mark.parametrize("path", [lerp, slerp])


def gaussian(seed: int, size: int = 64, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def test_more_noise_begins_with_the_same_noise() -> None:
    many = prior_noise(3, 100, 6)
    assert many.shape == (100, 6) and many.dtype == torch.float32
    assert torch.equal(prior_noise(3, 7, 6), many[:7])
    assert not torch.equal(prior_noise(4, 100, 6), many)
    # 600 independent normals: the mean's standard deviation is 0.041, that of the variance 0.058.
    assert abs(float(many.mean())) < 5 * 0.041 and abs(float(many.var()) - 1) < 5 * 0.058


@every_path
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_path_begins_and_ends_at_its_ends(path: Path, dtype: torch.dtype) -> None:
    a, b = gaussian(0, dtype=dtype), gaussian(1, dtype=dtype)
    points = path(a, b, 9)
    assert points.shape == (9, 64) and points.dtype == dtype
    assert torch.equal(points[0], a) and torch.equal(points[-1], b)
    assert torch.equal(path(a, b, 1), a.unsqueeze(0))
    assert torch.equal(path(a, b, 2), torch.stack([a, b]))
    # Backwards is the same way: roundings of a few operations on values below 4.
    torch.testing.assert_close(path(b, a, 9), points.flip(0), rtol=0, atol=1e-6 if dtype == torch.float32 else 1e-14)


def test_a_straight_path_has_equal_steps() -> None:
    a, b = gaussian(0), gaussian(1)
    steps = lerp(a, b, 5).diff(dim=0)
    torch.testing.assert_close(steps, ((b - a) / 4).expand(4, -1), rtol=0, atol=1e-14)


def test_an_arc_turns_evenly_and_grows_evenly() -> None:
    a, b = gaussian(0), 3 * gaussian(1)
    points = slerp(a, b, 6)
    lengths = points.norm(dim=1)
    # sums of 64 squares in float64
    torch.testing.assert_close(lengths, torch.linspace(float(a.norm()), float(b.norm()), 6).double(), rtol=1e-6, atol=0)
    directions = points / lengths.unsqueeze(1)
    cosines = (directions[1:] * directions[:-1]).sum(1)
    whole = math.acos(float(directions[0] @ directions[-1]))
    torch.testing.assert_close(cosines, torch.full((5,), math.cos(whole / 5), dtype=torch.float64), rtol=0, atol=1e-12)
    # The path stays in the plane of its ends: a vector orthogonal to both ends is orthogonal to it.
    plane, _ = torch.linalg.qr(torch.stack([a, b], dim=1))
    torch.testing.assert_close(points @ plane @ plane.T, points, rtol=0, atol=1e-12)


def test_a_quarter_turn_by_hand() -> None:
    points = slerp(torch.tensor([2.0, 0.0]), torch.tensor([0.0, 4.0]), 3)
    half = 3 * math.sqrt(0.5)
    torch.testing.assert_close(points, torch.tensor([[2.0, 0.0], [half, half], [0.0, 4.0]]))


def test_an_arc_keeps_the_length_of_the_prior_s_samples_and_a_line_does_not() -> None:
    a, b = gaussian(0, 4096), gaussian(1, 4096)
    # |z| is 64 give or take 0.7; the cosine of two samples 0 give or take 1/64.
    assert float(slerp(a, b, 3)[1].norm()) == pytest.approx(64, abs=3)
    assert float(lerp(a, b, 3)[1].norm()) == pytest.approx(64 / math.sqrt(2), abs=3)


@pytest.mark.parametrize("scale", [1.0, 1.5, 1.0 + 1e-12])
def test_parallel_ends_are_joined_by_a_line(scale: float) -> None:
    a = gaussian(0)
    torch.testing.assert_close(slerp(a, a * scale, 5), lerp(a, a * scale, 5), rtol=0, atol=1e-13)


@pytest.mark.parametrize("angle", [1e-3, 1e-6, 1e-9, 0.0])
def test_nearly_parallel_ends_lose_no_accuracy(angle: float) -> None:
    a = torch.tensor([1.0, 0.0], dtype=torch.float64)
    b = torch.tensor([math.cos(angle), math.sin(angle)], dtype=torch.float64)
    expected = torch.tensor([math.cos(angle / 2), math.sin(angle / 2)], dtype=torch.float64)
    torch.testing.assert_close(slerp(a, b, 3)[1], expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize("off", [0.0, 1e-12, 1e-5])
def test_opposite_ends_are_joined_around_zero(off: float) -> None:
    a = gaussian(0)
    b = -a
    b[0] += off
    points = slerp(a, b, 101)
    assert points.isfinite().all()
    torch.testing.assert_close(points.norm(dim=1), a.norm().expand(101), rtol=1e-5, atol=0)
    # No jump anywhere: a half turn in 100 steps.
    assert float((points.diff(dim=0).norm(dim=1) / a.norm()).max()) < 1.01 * math.pi / 100


@pytest.mark.parametrize(
    ("a", "b"),
    [([0.0, 0.0], [1.0, 2.0]), ([1.0, 2.0], [0.0, 0.0]), ([0.0, 0.0], [0.0, 0.0]), ([2.0], [-1.0]), ([2.0], [1.0])],
)
def test_without_an_arc_the_path_is_a_line(a: list[float], b: list[float]) -> None:
    start, end = torch.tensor(a), torch.tensor(b)
    assert torch.equal(slerp(start, end, 5), lerp(start, end, 5))


@every_path
def test_wrong_ends_are_errors(path: Path) -> None:
    with pytest.raises(ValueError, match=r"ends are \[2\] and \[3\], expected two latents of one shape, \[z_dim\] or"):
        path(torch.zeros(2), torch.zeros(3), 4)
    with pytest.raises(ValueError, match=r"ends are \[1, 2\] and \[2, 1\]"):
        path(torch.zeros(1, 2), torch.zeros(2, 1), 4)
    with pytest.raises(ValueError, match=r"ends are \[\] and \[\]"):
        path(torch.zeros(()), torch.zeros(()), 4)
    with pytest.raises(ValueError, match="steps is 0, expected at least 1"):
        path(torch.zeros(2), torch.ones(2), 0)


class TestSamples:
    def test_an_image_depends_only_on_the_seed_and_its_number(self) -> None:
        model = Painter().eval()
        many = torch.cat(list(generate(model, 300, seed=1)))
        assert many.shape == (300, 3, 8, 8) and not many.requires_grad
        few = torch.cat(list(generate(model, 5, seed=1)))
        # The same noise in a batch of another size: sums of 4 products in another order.
        torch.testing.assert_close(few, many[:5], rtol=0, atol=1e-6)
        torch.testing.assert_close(few, model.decode(prior_noise(1, 5, 4)).detach(), rtol=0, atol=1e-6)
        assert not torch.equal(few, torch.cat(list(generate(model, 5, seed=2))))

    def test_large_images_come_in_small_batches(self) -> None:
        model = Painter((1, 1, 1 << 14)).eval()
        assert [len(batch) for batch in generate(model, 600, seed=0)] == [256, 256, 88]
        assert [len(batch) for batch in generate(Painter((1, 1, 1 << 20), z_dim=1).eval(), 5, seed=0)] == [4, 1]

    def test_each_image_gets_its_condition(self) -> None:
        model = Painter(condition_dim=2).eval()
        condition = one_hot(torch.arange(300) % 2, 2)
        batches = torch.cat(list(generate(model, 300, seed=1, condition=condition)))
        whole = model.decode(prior_noise(1, 300, 4), condition).detach()
        torch.testing.assert_close(batches, whole, rtol=0, atol=1e-6)
