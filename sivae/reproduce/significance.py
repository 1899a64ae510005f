"""Test whether a difference between runs is more than chance."""

from __future__ import annotations

from collections.abc import Sequence

_SHUFFLES = 4_999


def rank_correlation(x: Sequence[float], y: Sequence[float]) -> tuple[float, float]:
    """Spearman's rank correlation and its two-sided p-value: how often shuffled pairs have one as far from 0.

    By permutation, with a fixed seed: the usual formula is for many pairs, and would give 0 for a few. The result is
    (0, 1) where x or y does not vary.
    """
    import numpy as np
    from scipy.stats import rankdata

    ranks = [rankdata(values) - (len(values) + 1) / 2 for values in (x, y)]
    norm = float(np.sqrt((ranks[0] ** 2).sum() * (ranks[1] ** 2).sum()))
    if norm == 0.0:
        return 0.0, 1.0
    observed = float(ranks[0] @ ranks[1]) / norm
    generator = np.random.default_rng(0)
    shuffled = np.array([generator.permutation(ranks[0]) @ ranks[1] for _ in range(_SHUFFLES)]) / norm
    beyond = int((np.abs(shuffled) >= abs(observed) - 1e-12).sum())
    return observed, (beyond + 1) / (_SHUFFLES + 1)


def share_difference(first: tuple[int, int], second: tuple[int, int]) -> float:
    """The p-value of Fisher's exact test: how likely two shares differ at least so much by chance.

    Args:
        first, second: how many, out of how many.
    """
    from scipy.stats import fisher_exact

    return float(fisher_exact([[count, total - count] for count, total in (first, second)]).pvalue)
