"""Metrics of scores against their definitions, and thresholds that come back as they were written."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from sivae.errors import ThresholdError
from sivae.evaluation.likelihood import Estimates
from sivae.evaluation.ood import SCORES, Threshold, anomaly, metrics_of_counts, separation, threshold_at

_THRESHOLD = Threshold(1.5, "elbo", 5, 0, 0.5, "mse", 0.95, 300, "digits", "abc")


def scores(count: int, shift: float, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(shift, 1.0, count)


def test_metrics_are_what_their_definitions_say() -> None:
    inside, outside = [0.0, 1.0, 2.0, 3.0], [2.0, 2.5, 4.0, 5.0]
    found = separation(inside, outside, resamples=1)
    pairs = [(o > i) + 0.5 * (o == i) for o in outside for i in inside]
    assert found["auroc"].value == pytest.approx(sum(pairs) / len(pairs))
    # From the top: precision 1 at recall 1/4 and 2/4, after 3 that of 3 out of 4, after the tie at 2 of 4 out of 6.
    assert found["aupr"].value == pytest.approx(1 / 4 + 1 / 4 + 1 / 4 * 3 / 4 + 1 / 4 * 4 / 6)
    assert found["fpr95"].value == 0.5  # to find all of four, the images at 2 and 3 are taken too


def test_out_of_distribution_is_positive_and_larger() -> None:
    apart = separation(scores(50, 0, 0), scores(50, 100, 1), resamples=5)
    for interval, value in zip(apart.values(), (1, 1, 0), strict=True):
        assert interval == pytest.approx((value, value, value))
    reversed_ = separation(scores(50, 100, 1), scores(50, 0, 0), resamples=5)
    assert reversed_["auroc"].value == 0 and reversed_["fpr95"].value == 1


def test_only_the_order_matters_and_infinities_are_part_of_it() -> None:
    inside, outside = scores(40, 0, 0), scores(60, 1, 1)
    found = separation(inside, outside, resamples=3)
    assert separation(np.exp(inside), np.exp(outside), resamples=3) == found
    assert separation([-math.inf, 0.0], [1.0, math.inf], resamples=3)["auroc"].value == 1


def test_intervals_hold_the_value_and_are_a_function_of_the_seed() -> None:
    inside, outside = scores(200, 0, 0), scores(300, 1, 1)
    found = separation(inside, outside, resamples=100)
    for interval in found.values():
        assert interval.low < interval.value < interval.high
    # Hanley and McNeil (1982): at an AUROC of 0.76 (one deviation apart) 200 and 300 images have a standard error of
    # 0.022, so a 95 % interval is 0.085 wide; 100 resamples give an end of it to a few tenths of that error.
    assert found["auroc"].high - found["auroc"].low == pytest.approx(0.085, abs=0.025)
    assert separation(inside, outside, resamples=100) == found != separation(inside, outside, resamples=100, seed=1)


def test_resamples_are_measured_as_scikit_learn_measures() -> None:
    from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

    random = np.random.default_rng(0)
    for levels in (3, 50):  # with many equal scores, and with few
        inside, outside = random.integers(0, levels, 40), random.integers(0, levels, 30) + 1
        counts = [np.bincount(one, minlength=levels + 1)[::-1].astype(float) for one in (inside, outside)]
        positive, values = np.repeat([0, 1], [40, 30]), np.concatenate([inside, outside])
        fpr, tpr, _ = roc_curve(positive, values, drop_intermediate=False)
        expected = (roc_auc_score(positive, values), average_precision_score(positive, values), fpr[tpr >= 0.95][0])
        assert metrics_of_counts(*counts) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("inside", "outside", "resamples", "message"),
    [
        ([], [1.0], 1, "inside scores are none"),
        ([1.0], [], 1, "outside scores are none"),
        ([math.nan, 1.0], [1.0], 1, "inside scores: 1 of 2 are NaN"),
        ([1.0], [1.0], 0, "resamples is 0"),
    ],
)
def test_scores_that_cannot_be_compared(
    inside: list[float], outside: list[float], resamples: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        separation(inside, outside, resamples=resamples)


def test_the_likely_scores_low_and_the_impossible_infinitely_high() -> None:
    found = Estimates(
        kl=torch.tensor([1.0, math.inf]),
        elbo=torch.tensor([-3.0, -math.inf]),
        log_likelihood=torch.tensor([-2.0, -9.0]),
    )
    assert [anomaly(found, score).tolist() for score in SCORES] == [[1.0, math.inf], [3.0, math.inf], [2.0, 9.0]]


@pytest.mark.parametrize(
    ("quantile", "expected"), [(0.95, 95.0), (0.9, 90.0), (1.0, 100.0), (0.001, 1.0), (0.951, 96.0)]
)
def test_at_most_the_other_share_is_above_the_threshold(quantile: float, expected: float) -> None:
    values = np.random.default_rng(0).permutation(np.arange(1.0, 101.0))
    assert threshold_at(values, quantile) == expected
    assert (values > expected).mean() <= 1 - quantile + 1e-9


@pytest.mark.parametrize(
    ("values", "quantile", "message"),
    [
        ([1.0], 0.0, "quantile is 0.0"),
        ([1.0], math.nan, "quantile is nan"),
        ([], 0.5, "calibration's scores are none"),
        ([1.0, math.inf], 0.9, "the threshold at the quantile 0.9 is inf"),
    ],
)
def test_thresholds_that_cannot_be(values: list[float], quantile: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        threshold_at(values, quantile)


def test_a_threshold_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "new" / "threshold.json"
    _THRESHOLD.write(path)
    assert Threshold.read(path) == _THRESHOLD
    assert json.loads(path.read_text())["format"] == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, r"threshold\.json: format is 2, expected 1; .* or calibrate again"),
        ({"threshold": "high"}, 'threshold = "high": expected a finite number; calibrate again'),
        ({"samples": True}, "samples = True: expected a whole number"),
        ({"samples": 0}, "samples = 0: it must be 1 or more"),
        ({"quantile": 1.5}, "quantile = 1.5: it must be more than 0 and at most 1"),
        ({"score": "fid"}, 'score = "fid": expected one of kl, elbo, likelihood'),
        ({"model": None}, "model = null: expected text"),
    ],
)
def test_files_that_are_no_threshold(change: dict[str, object], message: str, tmp_path: Path) -> None:
    path = tmp_path / "threshold.json"
    _THRESHOLD.write(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ThresholdError, match=message):
        Threshold.read(path)


@pytest.mark.parametrize("content", ["", "[]", '{"format": 1, "threshold": NaN}', "[" * 100_000])
def test_files_that_are_anything(content: str, tmp_path: Path) -> None:
    path = tmp_path / "threshold.json"
    path.write_text(content)
    with pytest.raises(ThresholdError, match="threshold"):
        Threshold.read(path)
    with pytest.raises(ThresholdError, match="there is no such file"):
        Threshold.read(tmp_path / "none.json")


def test_a_threshold_that_is_not_finite_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        replace(_THRESHOLD, threshold=math.inf).write(tmp_path / "threshold.json")
    assert not list(tmp_path.iterdir())
