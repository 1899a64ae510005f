"""Normalising shapes and taking points from them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sivae.data.clouds.base import CloudSet, Normalize, Shape
from sivae.errors import DataError


class One(CloudSet):
    """A set of one shape."""

    def __init__(self, shape: Shape, points: int, normalize: Normalize = "none") -> None:
        self.stored, self.reads = shape, 0
        super().__init__("set", ["it"], np.zeros(1, np.int64), ("kind",), points=points, normalize=normalize)

    def shape(self, index: int) -> Shape:
        self.reads += 1
        return self.stored

    @property
    def fingerprint(self) -> str:
        return "one"


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


BOX = np.array([(1.0, 2.0, 3.0), (3.0, 2.5, 3.0), (3.0, 2.0, 4.0)])


def test_the_sphere_has_radius_one_half_about_the_middle_of_the_box() -> None:
    found = One(BOX, 3, "sphere").cloud(0).double()
    middle, radius = np.array([2.0, 2.25, 3.5]), np.sqrt(1.0 + 0.25**2 + 0.5**2)
    np.testing.assert_allclose(found, (BOX - middle) / (2 * radius), rtol=0, atol=2.0**-24)  # float32 below 0.5
    assert found.norm(dim=1).max() == pytest.approx(0.5, abs=2.0**-23)


def test_the_cube_has_side_one() -> None:
    found = One(BOX, 3, "cube").cloud(0)
    np.testing.assert_array_equal(found, (BOX - (2.0, 2.25, 3.5)) / 2.0)


def test_nothing_changes_without_normalising() -> None:
    np.testing.assert_array_equal(One(BOX, 3).cloud(0), BOX)


def test_many_points_give_different_ones_and_few_points_give_all_of_them() -> None:
    points = np.arange(30.0).reshape(10, 3)
    some = One(points, 4).cloud(0, seeded())
    assert len(set(some[:, 0].tolist())) == 4
    repeated = One(points, 25).cloud(0, seeded())
    assert set(repeated[:, 0].tolist()) == set(points[:, 0])
    assert repeated.shape == (25, 3)


def test_points_of_a_surface_are_uniform_by_area() -> None:
    # Two triangles of areas 1/2 and 3/2 in the plane z = 0; the second one is beyond x = 1.
    surface = np.array([[(0.0, 0, 0), (1, 0, 0), (0, 1, 0)], [(1.0, 0, 0), (2, 0, 0), (1, 3, 0)]])
    count = 40_000
    cloud = One(surface, count).cloud(0, seeded()).double()
    first = cloud[:, 0] < 1.0
    # Five standard deviations of a share, and of a mean in the first triangle, whose coordinates have variance 1/18.
    assert float(first.double().mean()) == pytest.approx(0.25, abs=5 * (0.25 * 0.75 / count) ** 0.5)
    centre = cloud[first].mean(0)
    assert centre[:2].tolist() == pytest.approx([1 / 3, 1 / 3], abs=5 * (1 / 18 / 10_000) ** 0.5)
    assert (cloud[first][:, :2].sum(1) <= 1.0 + 1e-6).all()
    assert (cloud[:, 2] == 0.0).all()


def test_the_generator_decides_and_a_shape_is_read_once() -> None:
    shapes = One(np.random.default_rng(0).normal(size=(50, 3, 3)), 8)
    first, same, other = (shapes.cloud(0, seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    assert shapes.reads == 1
    assert torch.equal(shapes.batch([0, 0], seeded(1))[0], first)


def test_a_set_that_does_not_fit_the_memory_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sivae.data.clouds.base.available_memory", lambda: 0)
    shapes = One(BOX, 3)
    shapes.cloud(0)
    shapes.cloud(0)
    assert shapes.reads == 2


@pytest.mark.parametrize(
    ("shape", "normalize", "reason"),
    [
        (np.full((2, 3), np.nan), "none", "not finite"),
        (np.ones((2, 3)), "sphere", "all its points are at one place"),
        (np.array([[0.0] * 3, [1e300] * 3]), "none", "too large for float32"),
        (np.ones((2, 3, 3)), "none", "have no area"),
    ],
)
def test_a_shape_that_cannot_be_used_is_named(shape: Shape, normalize: Normalize, reason: str) -> None:
    with pytest.raises(DataError, match=f"it of set: .*{reason}"):
        One(shape, 3, normalize).cloud(0)


def test_huge_shapes_are_scaled() -> None:
    huge = One(np.array([[-1e308] * 3, [1e308] * 3]), 2, "sphere").cloud(0)
    assert huge.norm(dim=1).tolist() == pytest.approx([0.5, 0.5])


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(DataError, match="points = 0; expected 1 or more"):
        One(BOX, 0)
    with pytest.raises(DataError, match="normalize = 'ball'; expected sphere, cube or none"):
        One(BOX, 3, "ball")  # type: ignore[arg-type]
    with pytest.raises(IndexError, match="has no shape 1, only 0 to 0"):
        One(BOX, 3).cloud(1)
