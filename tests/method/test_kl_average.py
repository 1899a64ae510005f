"""The running mean of the real samples' kl."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from sivae.method.kl_average import KLAverage


def _after(*kls: float, average: KLAverage | None = None) -> KLAverage:
    average = average or KLAverage()
    for kl in kls:
        average.observe(torch.tensor(kl, dtype=torch.float64))
    return average


def _mean(average: KLAverage) -> float:
    return average.mean(torch.zeros(3, dtype=torch.float64)).item()


def test_no_mean_is_known_before_the_first_observation() -> None:
    assert math.isnan(_mean(KLAverage()))


def test_a_mean_that_starts_over_is_that_of_the_observations_since() -> None:
    average = _after(50.0, 60.0)
    average.start_over()
    assert math.isnan(_mean(average))
    assert _mean(_after(2.0, 3.0, average=average)) == _mean(_after(2.0, 3.0))


def test_an_iteration_counts_98_percent_of_the_next_one() -> None:
    kls = [2.0, 3.0, 5.0]
    shares = [0.98**age for age in (2, 1, 0)]
    expected = sum(kl * share for kl, share in zip(kls, shares, strict=True)) / sum(shares)
    assert _mean(_after(*kls)) == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_kl_that_is_not_finite_is_left_out(bad: float) -> None:
    assert _mean(_after(bad, 2.0, bad, 3.0)) == _mean(_after(2.0, 3.0))


def test_one_bad_batch_moves_a_settled_mean_by_less_than_a_fifth() -> None:
    settled = [2.0] * 500
    assert 2.0 < _mean(_after(*settled, 1e30)) < 2.0 * 1.2


def test_a_collapsed_posterior_counts_as_a_tenth_of_a_nat() -> None:
    assert _mean(_after(0.0, 1e-9)) == pytest.approx(0.1)
    assert _mean(_after(*[0.0] * 400, *[5.0] * 800)) == pytest.approx(5.0, rel=1e-3)  # it can recover


def test_processes_share_their_mean() -> None:
    def reduce(tensors: list[Tensor]) -> None:
        tensors[0].add_(4.0).div_(2.0)  # the other process has 4

    assert _mean(_after(2.0, average=KLAverage(reduce))) == pytest.approx(3.0)


def test_the_sums_are_in_the_dtype_of_the_kl_and_in_float32_at_least() -> None:
    for dtype, expected in ((torch.bfloat16, torch.float32), (torch.float32, torch.float32), (torch.float64,) * 2):
        mean = _after(2.0).mean(torch.zeros(1, dtype=dtype))
        assert (mean.dtype, mean.shape) == (expected, ())


def test_a_restored_state_goes_on_as_before() -> None:
    whole = _after(2.0, 3.0, 5.0)
    restored = KLAverage()
    restored.load_state(_after(2.0, 3.0).state())
    assert _mean(_after(5.0, average=restored)) == _mean(whole)
    with pytest.raises(RuntimeError, match="shape"):
        restored.load_state({"sums": torch.zeros(3)})
