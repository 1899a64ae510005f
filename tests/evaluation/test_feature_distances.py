"""KID, FID, precision and recall of random features, against their definitions in float64 NumPy and torchmetrics."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torchmetrics.image.kid import KernelInceptionDistance

from sivae.evaluation import feature_distances
from sivae.evaluation.feature_distances import (
    frechet_distance,
    kernel_distance,
    kid_subset,
    precision_recall,
    sample_metrics,
)
from tests.evaluation.test_fid import numpy_fid, numpy_kid


def features(count: int, seed: int, *, width: int = 12, scale: float = 1.0, shift: float = 0.0) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed)) * scale + shift


def numpy_coverage(points: np.ndarray, members: np.ndarray, neighbour: int) -> float:
    """The share of points in one of the balls around the members, one distance at a time."""

    def distances(point: np.ndarray) -> np.ndarray:
        return np.sqrt(((members - point) ** 2).sum(1))

    radius = np.array([np.sort(distances(member))[neighbour] for member in members])
    return float(np.mean([(distances(point) <= radius).any() for point in points]))


def kid_of(real: Tensor, generated: Tensor, **options: int) -> tuple[float, float]:
    return kernel_distance(real, generated, **{"seed": 0, **options})


class TestKID:
    def test_a_subset_of_all_images_gives_the_unbiased_estimate(self) -> None:
        x, y = features(60, 0), features(60, 1, shift=0.3)
        mean, deviation = kid_of(x, y, subset=60)
        # 100 sums of 60² products of about 1, in another order each time.
        assert mean == pytest.approx(numpy_kid(x.double().numpy(), y.double().numpy()), abs=1e-12)
        assert deviation == pytest.approx(0, abs=1e-12)

    @pytest.mark.filterwarnings("ignore:Metric `Kernel Inception Distance` will save")  # of its memory
    def test_subsets_and_their_spread_are_those_of_torchmetrics(self) -> None:
        x, y = features(300, 0), features(250, 1, shift=0.2)
        given = torch.nn.Identity()
        given.num_features = 12  # type: ignore[assignment]
        theirs = KernelInceptionDistance(feature=given, subsets=100, subset_size=50)
        theirs.update(x.double(), real=True)
        theirs.update(y.double(), real=False)
        with torch.random.fork_rng():
            torch.manual_seed(7)
            expected = [float(value) for value in theirs.compute()]
        # torchmetrics returns float32.
        assert kid_of(x, y, seed=7, subset=50) == pytest.approx(tuple(expected), rel=1e-5)

    def test_it_is_zero_on_average_for_equal_distributions(self) -> None:
        values = [kid_of(features(200, 2 * seed), features(200, 2 * seed + 1), subset=200)[0] for seed in range(40)]
        error = np.std(values) / np.sqrt(len(values))
        assert abs(np.mean(values)) < 3 * error
        assert min(values) < 0

    def test_the_seed_decides_the_subsets_and_no_other_state_does(self) -> None:
        x, y = features(100, 0), features(100, 1)
        state = torch.get_rng_state()
        assert kid_of(x, y, seed=3) == kid_of(x, y, seed=3) != kid_of(x, y, seed=4)
        assert torch.equal(state, torch.get_rng_state())
        assert kid_of(x, y)[1] > 0

    def test_subsets_have_a_thousand_images_or_half_of_them(self) -> None:
        assert [kid_subset(count) for count in (4, 100, 1999, 2000, 50_000)] == [2, 50, 999, 1000, 1000]


class TestFID:
    def test_it_is_what_its_definition_says(self) -> None:
        x, y = features(200, 0), features(150, 1, scale=1.4, shift=0.5)
        expected = numpy_fid(x.double().numpy(), y.double().numpy())
        # Square roots of eigenvalues of 1 that err by some 1e-15.
        assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-10)

    def test_of_gaussians_that_are_known_it_comes_close_to_their_distance(self) -> None:
        # |m|² + d (s - 1)² for N(0, 1) and N(m, s²).
        expected = 12 * 0.5**2 + 12 * 0.4**2
        value = frechet_distance(features(20_000, 0), features(20_000, 1, scale=1.4, shift=0.5))
        # A mean of 20,000 errs by 1/141 in each dimension, which moves 2·0.5·12 of it; three such errors.
        assert value == pytest.approx(expected, abs=3 * 12 / 141)

    def test_fewer_images_than_features_are_no_error(self) -> None:
        x = features(5, 0)
        assert frechet_distance(x, x) == pytest.approx(0, abs=1e-6)  # square roots of rounded zeros


class TestPrecisionAndRecall:
    @pytest.mark.parametrize("values_at_once", [1, 1000, 1 << 23])
    def test_they_are_what_their_definition_says(self, values_at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(feature_distances, "_BLOCK_VALUES", values_at_once)
        x, y = features(90, 0, width=4), features(70, 1, width=4, scale=0.6, shift=0.5)
        precision, recall = precision_recall(x, y)
        a, b = x.double().numpy(), y.double().numpy()
        assert (precision, recall) == (numpy_coverage(b, a, 3), numpy_coverage(a, b, 3))
        assert 0 < recall < precision < 1

    def test_samples_of_one_mode_are_precise_and_recall_little(self) -> None:
        modes = torch.cat([features(100, 0), features(100, 1, shift=20)])
        precision, recall = precision_recall(modes, features(100, 2))
        assert precision > 0.5 and 0.2 < recall < 0.5

    def test_equal_sets_cover_each_other_though_all_radii_are_zero(self) -> None:
        # Each of ten features five times: a distance of 0 has to be found equal to a radius of 0.
        x = features(10, 0, width=1280, shift=3).repeat(5, 1)
        assert precision_recall(x, x.flip(0)) == (1.0, 1.0)
        assert precision_recall(x, x + 1e-3) == (0.0, 0.0)


class TestAll:
    def test_names_end_with_the_network_and_fid_needs_its_number(self, monkeypatch: pytest.MonkeyPatch) -> None:
        x, y, steps = features(40, 0), features(40, 1), []
        few = sample_metrics(x, y, network="net", seed=0, doing=steps.append)
        assert list(few) == [
            f"{name}_net" for name in ("kid", "kid_std", "kid_subset", "precision", "recall", "images")
        ]
        assert (few["kid_net"], few["kid_std_net"]) == kid_of(x, y)
        assert (few["precision_net"], few["recall_net"]) == precision_recall(x, y)
        assert (few["images_net"], few["kid_subset_net"]) == (40, 20)
        assert steps == ["KID", "precision and recall"]
        monkeypatch.setattr(feature_distances, "FID_LEAST", 40)
        assert sample_metrics(x, y, network="net", seed=0)["fid_net"] == frechet_distance(x, y)

    def test_features_that_do_not_fit_are_refused(self) -> None:
        with pytest.raises(ValueError, match=r"\[4, 12\] and \[5, 12\], expected two equal"):
            sample_metrics(features(4, 0), features(5, 0), network="net", seed=0)
        for compute in (kid_of, frechet_distance, precision_recall):
            with pytest.raises(ValueError, match=r"features are \[1, 12\] and \[9, 12\], expected"):
                compute(features(1, 0), features(9, 0))
        with pytest.raises(ValueError, match="with 4 or more of each"):
            precision_recall(features(3, 0), features(9, 0))
