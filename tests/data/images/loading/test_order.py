"""The images of a step are a function of the seed and the step."""

from __future__ import annotations

import numpy as np
import pytest

from sivae.data.images.loading.order import Order


def order(
    count: int = 103, batch_size: int = 10, seed: int = 3, flip: bool = True, rank: int = 0, world_size: int = 1
) -> Order:
    return Order(count, batch_size=batch_size, seed=seed, flip=flip, rank=rank, world_size=world_size)


def test_an_epoch_visits_every_image_once_and_leaves_out_the_last_that_fill_no_batch() -> None:
    steps = order().passes.steps_per_epoch
    assert steps == 10
    for epoch in range(3):
        visited = np.concatenate([order().indices(epoch * steps + step) for step in range(steps)])
        assert len(set(visited.tolist())) == 100 and set(visited.tolist()) <= set(range(103))


def test_epochs_and_seeds_differ_and_history_does_not_matter() -> None:
    first = order()
    straight = [first.indices(step).tolist() for step in range(30)]
    assert straight[0] != straight[10] != straight[20]
    assert order(seed=4).indices(0).tolist() != straight[0]
    jumping = order()
    for step in (29, 0, 15, 7, 22, 8, 1):
        assert jumping.indices(step).tolist() == straight[step]


def test_the_order_does_not_change_between_versions() -> None:
    """Recorded values: a change would make resumed runs continue with other data."""
    assert order(count=12, batch_size=12, seed=0).indices(0).tolist() == [3, 7, 0, 10, 6, 11, 8, 4, 1, 5, 2, 9]
    flips = order(count=12, batch_size=12, seed=0).epoch(0).flips
    assert flips is not None and flips.astype(int).tolist() == [0, 1, 1, 0, 0, 0, 0, 1, 0, 0, 0, 1]


def test_a_large_seed_is_a_seed() -> None:
    assert order(seed=2**63 - 1).indices(0).tolist() != order(seed=2**63 - 2).indices(0).tolist()


@pytest.mark.parametrize("world_size", [1, 2, 5])
def test_ranks_share_the_global_batch(world_size: int) -> None:
    whole = order(batch_size=10)
    ranks = [order(batch_size=10 // world_size, rank=rank, world_size=world_size) for rank in range(world_size)]
    for step in (0, 9, 10, 25):
        parts = [one.indices(step).tolist() for one in ranks]
        assert [index for part in parts for index in part] == whole.indices(step).tolist()
        places = [one.place(step) for one in ranks]
        assert [place[0] for place in places] == [whole.place(step)[0]] * world_size
        assert places[0][1].start == whole.place(step)[1].start and places[-1][1].stop == whole.place(step)[1].stop


def test_half_of_the_images_are_flipped_and_differently_in_each_epoch() -> None:
    flips = [order(count=10_000).epoch(epoch).flips for epoch in (0, 1)]
    assert flips[0] is not None and flips[1] is not None
    for one in flips:
        # Binomial: standard error ½/√N = 0.005; five of them.
        assert one is not None and abs(one.mean() - 0.5) < 0.025
    assert 0.475 < (flips[0] == flips[1]).mean() < 0.525
    assert order(flip=False).epoch(0).flips is None


def test_flipping_does_not_change_the_order() -> None:
    assert order(flip=False).indices(5).tolist() == order(flip=True).indices(5).tolist()


@pytest.mark.parametrize("sizes", [(4, 4, 4), (5, 1, 2, 7), (2,), (0, 3, 2)])
def test_pairs_are_of_one_class_and_no_image_comes_twice(sizes: tuple[int, ...]) -> None:
    classes = np.repeat(np.arange(len(sizes)), sizes)
    whole = sum(2 * (size // 2) for size in sizes)
    paired = Order(len(classes), batch_size=2, seed=3, flip=False, rank=0, world_size=1, pair_by=classes)
    assert paired.passes.count == whole and paired.passes.steps_per_epoch == whole // 2
    for epoch in range(3):
        visited = paired.epoch(epoch).permutation
        assert len(visited) == len(set(visited.tolist())) == whole
        assert (classes[visited[0::2]] == classes[visited[1::2]]).all()


def test_pairs_change_with_the_epoch_and_leave_out_another_image_of_an_odd_class() -> None:
    classes = np.zeros(9, np.int64)
    paired = Order(9, batch_size=4, seed=0, flip=False, rank=0, world_size=1, pair_by=classes)
    epochs = [paired.epoch(index).permutation for index in range(12)]
    assert len({frozenset(range(9)) - frozenset(epoch.tolist()) for epoch in epochs}) > 3
    partners = {frozenset(pair) for epoch in epochs for pair in epoch.reshape(-1, 2).tolist()}
    assert len(partners) > 20  # of 36


def test_ranks_share_whole_pairs() -> None:
    classes = np.repeat(np.arange(5), 8)
    whole = Order(40, batch_size=8, seed=1, flip=False, rank=0, world_size=1, pair_by=classes)
    ranks = [Order(40, batch_size=4, seed=1, flip=False, rank=rank, world_size=2, pair_by=classes) for rank in (0, 1)]
    parts = [one.indices(2) for one in ranks]
    assert np.concatenate(parts).tolist() == whole.indices(2).tolist()
    assert all((classes[part[0::2]] == classes[part[1::2]]).all() for part in parts)
