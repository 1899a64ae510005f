"""The epoch of an iteration, also where the batch size has changed on the way."""

from __future__ import annotations

import pytest

from sivae.data.passes import Passes


def test_each_epoch_has_whole_batches() -> None:
    passes = Passes(10, ((0, 3),))
    assert [passes.place(step) for step in range(7)] == [(0, 0), (0, 3), (0, 6), (1, 0), (1, 3), (1, 6), (2, 0)]
    assert passes.steps_per_epoch == passes.steps_of(1.0) == 3
    assert passes.epochs_after(6) == 2.0


def test_an_epoch_goes_on_with_its_next_samples_where_the_size_changes() -> None:
    # Four samples in batches of 2, then batches of 3: samples 4 to 9 of the first epoch, then whole epochs.
    passes = Passes(10, ((0, 2), (2, 3)))
    assert [passes.place(step) for step in range(2, 8)] == [(0, 4), (0, 7), (1, 0), (1, 3), (1, 6), (2, 0)]
    assert [passes.steps_of(epochs) for epochs in (1.0, 2.0, 3.0)] == [4, 7, 10]
    assert [passes.epochs_after(steps) for steps in (4, 7, 10)] == [1.0, 2.0, 3.0]
    assert passes.epochs_after(1) == 0.2  # with batches of 2


def test_a_batch_that_no_longer_fits_into_the_epoch_begins_the_next_one() -> None:
    passes = Passes(10, ((0, 2), (4, 3), (6, 5)))
    assert Passes(10, passes.sizes[:2]).place(4) == (1, 0)
    assert passes.place(6) == (2, 0)  # 6 of 10 samples are visited, and 5 do not fit
    assert passes.steps_of(2.0) == 6 and passes.steps_of(3.0) == 8


def test_an_iteration_of_an_earlier_size_is_an_error() -> None:
    with pytest.raises(ValueError, match="step = 1: batches of 3 begin with step 2"):
        Passes(10, ((0, 2), (2, 3))).place(1)


def test_an_epoch_without_another_whole_batch_is_over_also_for_a_smaller_size() -> None:
    passes = Passes(39, ((0, 10), (48, 6)))  # 9 samples are left after the third batch of 10
    assert passes.place(48) == (16, 0) and passes.place(54) == (17, 0)
