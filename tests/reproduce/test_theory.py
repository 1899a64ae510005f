"""The optima that the theory predicts, against what can be worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from sivae.reproduce.entropy_theory import (
    SmoothedOptimum,
    assumption_margin,
    discrete_optimum,
    divergence,
    entropy,
)
from sivae.reproduce.significance import rank_correlation, share_difference

P = np.array([0.5, 0.3, 0.15, 0.05])


def test_without_gamma_the_optimum_is_the_data() -> None:
    # The minimum is quadratic, and the solver stops where the gradient is below 1e-9.
    assert discrete_optimum(P, 0.0) == pytest.approx(P, abs=1e-6)


@pytest.mark.parametrize("gamma", [0.25, 0.75, 1.5])
def test_the_discrete_optimum_is_stationary_and_beats_others(gamma: float) -> None:
    q = discrete_optimum(P, gamma)
    # Of -sum p log q - gamma sum q log q with sum q = 1: p/q + gamma log q is one number for all states. The softmax's
    # gradient is q times its deviation, and is below 1e-9 at the smallest q of about 0.01.
    multiplier = P / q + gamma * np.log(q)
    assert np.ptp(multiplier) < 1e-4

    def loss(q: np.ndarray) -> float:
        return divergence(P, q) + gamma * entropy(q)

    generator = np.random.default_rng(1)
    assert loss(q) < min(loss(one) for one in generator.dirichlet(np.ones(4), size=2_000))


def test_entropy_falls_and_divergence_rises_with_gamma() -> None:
    found = [discrete_optimum(P, gamma) for gamma in (0.0, 0.3, 0.6, 1.0, 2.0)]
    entropies, divergences = [entropy(q) for q in found], [divergence(P, q) for q in found]
    assert entropies == sorted(entropies, reverse=True)
    assert divergences == sorted(divergences)


def test_the_assumption_is_that_of_the_encoder_s_best_answer() -> None:
    alpha = 2.0
    q = np.array([0.85, 0.1, 0.04, 0.01])
    assert assumption_margin(P, q, alpha) == pytest.approx(math.log(0.5) - 3 * math.log(0.85))
    # The best W under W <= log q, by trying: it is log q where the margin of that state is not negative.
    for p, one in zip(P, q, strict=True):
        values = np.linspace(math.log(one) - 4, math.log(one), 4_001)
        best = values[np.argmax(p * values - one * np.exp(alpha * values) / alpha)]
        assert (best == values[-1]) == (math.log(p) >= (alpha + 1) * math.log(one))


def test_one_point_of_data_is_one_gaussian() -> None:
    variance = 0.5
    # The grid of 7 cells has a mean exactly at the origin.
    found = SmoothedOptimum(torch.zeros(3, 2), variance, limit=2.0, cells=7).solve(0.0)
    height = math.log(2 * math.pi * variance)
    # The weights of a softmax only approach one of a single mean: 1e-3 is what 400 iterations leave.
    assert found["cross_entropy"] == pytest.approx(height, abs=1e-3)
    assert found["entropy"] == pytest.approx(1 + height, abs=1e-2)


def test_a_rank_correlation_knows_how_few_pairs_it_has() -> None:
    correlation, chance = rank_correlation([0, 1, 2, 3], [9, 5, 2, 1])
    # Of the 24 orders two are as extreme. The estimate from 4,999 of them is within five standard errors.
    assert correlation == pytest.approx(-1.0)
    assert chance == pytest.approx(2 / 24, abs=5 * (2 / 24 * 22 / 24 / 4_999) ** 0.5)
    assert rank_correlation([0, 0, 1, 1, 2, 2], [1, 2, 3, 4, 5, 6])[1] < 0.05
    assert rank_correlation([1, 1, 1], [1, 2, 3]) == (0.0, 1.0)


def test_shares_differ_by_fisher_s_test() -> None:
    assert share_difference((3, 10), (3, 10)) == pytest.approx(1.0)
    assert share_difference((10, 10), (0, 10)) == pytest.approx(2 / math.comb(20, 10))
