"""Metrics of point clouds: against a recording of the official code, SciPy, and sets whose scores are known."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from sivae.data.clouds import open_clouds
from sivae.evaluation import clouds as module
from sivae.evaluation.clouds import CloudScores, cloud_distances, voxel_jsd

FIXTURE = Path(__file__).parents[1] / "fixtures" / "official_points.npz"


def clouds(count: int, points: int = 30, *, seed: int = 0, scale: float = 0.1, shift: float = 0.0) -> Tensor:
    return torch.randn(count, points, 3, generator=torch.Generator().manual_seed(seed)) * scale + shift


def scipy_jsd(samples: Tensor, reference: Tensor) -> float:
    """The published definition, with a search for the nearest of all points of the grid."""
    axis = np.linspace(-0.5, 0.5, 28)
    grid = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
    tree = cKDTree(grid[np.linalg.norm(grid, axis=1) <= 0.5])
    p, q = (
        np.bincount(tree.query(x.reshape(-1, 3).double().numpy())[1], minlength=tree.n) / (x.numel() // 3)
        for x in (samples, reference)
    )
    middle = (p + q) / 2
    return sum(float(np.sum(half[half > 0] * np.log2(half[half > 0] / middle[half > 0]))) for half in (p, q)) / 2


class TestVoxelJSD:
    def test_it_is_the_official_program_s(self) -> None:
        recorded = np.load(FIXTURE)
        found = voxel_jsd(torch.from_numpy(recorded["jsd_samples"]), torch.from_numpy(recorded["jsd_references"]))
        assert found == pytest.approx(float(recorded["jsd"]), abs=1e-6)

    def test_points_outside_of_the_sphere_count_for_the_nearest_cell(self) -> None:
        samples, reference = clouds(6, 200, scale=0.4), clouds(4, 300, seed=1, scale=0.5, shift=0.2)
        assert float((samples.norm(dim=2) > 0.5).double().mean()) > 0.3
        # Sums of at most 10144 terms, each rounded, of numbers of at most 1.
        assert voxel_jsd(samples, reference) == pytest.approx(scipy_jsd(samples, reference), abs=1e-12)

    def test_it_is_0_for_equal_sets_and_1_bit_for_sets_in_different_places(self) -> None:
        here, there = clouds(3, shift=-0.3, scale=0.01), clouds(5, seed=1, shift=0.3, scale=0.01)
        assert voxel_jsd(here, here.flip(0)) == 0.0
        assert voxel_jsd(here, there) == pytest.approx(1.0, abs=1e-12)

    def test_a_coordinate_that_is_not_finite_makes_it_nan(self) -> None:
        broken = clouds(2)
        broken[1, 3, 0] = math.inf
        assert math.isnan(voxel_jsd(broken, clouds(2)))

    def test_other_shapes_are_refused(self) -> None:
        with pytest.raises(ValueError, match=r"reference is \[2, 30\], expected \[N, P, 3\]"):
            voxel_jsd(clouds(2), torch.zeros(2, 30))
        with pytest.raises(ValueError, match=r"samples is torch.int64, expected floating point"):
            voxel_jsd(clouds(2).long(), clouds(2))


def naive(samples: Tensor, reference: Tensor) -> CloudScores:
    """The definitions, a pair of clouds at a time."""

    def distance(x: Tensor, y: Tensor) -> float:
        squares = (x.double()[:, None] - y.double()).square().sum(2)
        return float(squares.amin(1).mean() + squares.amin(0).mean())

    across = np.array([[distance(x, y) for y in reference] for x in samples])
    everything = [*samples, *reference]
    own = []
    for index, x in enumerate(everything):
        to = [math.inf if other == index else distance(x, y) for other, y in enumerate(everything)]
        own.append((int(np.argmin(to)) < len(samples)) == (index < len(samples)))
    return CloudScores(across.min(0).mean(), len(set(across.argmin(1))) / len(reference), float(np.mean(own)))


class TestCloudDistances:
    @pytest.mark.parametrize("pairs", [4, 256])
    def test_they_are_as_defined(self, pairs: int, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "_PAIRS", pairs)
        samples, reference = clouds(9), clouds(7, seed=1, scale=0.12)
        found, expected = cloud_distances(samples, reference), naive(samples, reference)
        assert found.mmd == pytest.approx(expected.mmd, rel=7 * 6e-8)  # as the op states: (D + 4) * 6e-8
        assert found[1:] == expected[1:]

    def test_sets_that_are_apart_are_told_apart(self) -> None:
        found = cloud_distances(clouds(5), clouds(5, seed=1, shift=3.0))
        assert found.one_nn == 1.0
        assert found.mmd > 2 * 3 * 2.5**2

    def test_copies_cover_everything(self) -> None:
        reference = clouds(6)
        assert cloud_distances(reference.flip(0), reference) == CloudScores(mmd=0.0, coverage=1.0, one_nn=0.0)

    def test_samples_of_one_form_cover_little(self) -> None:
        found = cloud_distances(clouds(1).expand(6, -1, -1), clouds(6, seed=1))
        assert found.coverage == pytest.approx(1 / 6)

    def test_classes_of_shapes_are_told_apart_and_parts_are_not(self) -> None:
        draw = torch.Generator().manual_seed(0)
        shapes = open_clouds("shapes", points=256)
        chairs, more, planes = (shapes.batch(range(start, start + 24), draw) for start in (0, 24, 6000))
        assert cloud_distances(chairs, planes).one_nn == 1.0
        # The share of 48 fair coins is within 3.5 standard deviations of one half.
        assert cloud_distances(chairs, more).one_nn == pytest.approx(0.5, abs=3.5 * 0.5 / 48**0.5)
        assert voxel_jsd(chairs, more) < voxel_jsd(chairs, planes) / 2

    def test_a_coordinate_that_is_not_finite_makes_them_nan(self) -> None:
        broken = clouds(3)
        broken[0, 0, 0] = math.nan
        assert all(math.isnan(value) for value in cloud_distances(clouds(3), broken))

    def test_progress_counts_pairs(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        monkeypatch.setattr(module, "PATIENCE_SECONDS", 0.0)
        cloud_distances(clouds(3), clouds(3, seed=1), show=True)
        assert "Chamfer distances  15/15" in capsys.readouterr().err

    def test_other_shapes_are_refused(self) -> None:
        with pytest.raises(ValueError, match=r"samples is \[1, 30, 3\], expected \[N, P, 3\] with 2 or more"):
            cloud_distances(clouds(1), clouds(2))
        with pytest.raises(ValueError, match="samples have 30 points and the reference 31; expected equally many"):
            cloud_distances(clouds(2), clouds(2, 31))
