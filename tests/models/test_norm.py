"""Running statistics are updated only by the passes that `batch_statistics` allows."""

from __future__ import annotations

import time

import pytest
import torch
from torch import Tensor, nn

from sivae.models.norm import batch_norms, batch_statistics
from tests.models.samples import small_conv


def _statistics(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in network.named_buffers()}


def _same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def test_without_an_update_the_batch_still_normalizes_and_statistics_stay() -> None:
    model = small_conv()
    x = torch.rand(4, 3, 8, 8)
    before = _statistics(model)
    with batch_statistics(model.encoder, update=False):
        silent = model.encoder(x)
    assert _same(_statistics(model), before)
    usual = model.encoder(x)
    assert torch.equal(silent, usual)  # both by the batch's statistics
    after = _statistics(model.encoder)
    assert all(int(value) == 1 for name, value in after.items() if name.endswith("tracked"))
    assert not any(torch.equal(value, before[f"encoder.{name}"]) for name, value in after.items())
    assert _same(_statistics(model.decoder), {name[8:]: value for name, value in before.items() if name[0] == "d"})


def test_with_an_update_statistics_change_as_outside() -> None:
    inside, outside = small_conv(), small_conv()
    x = torch.rand(4, 3, 8, 8)
    with batch_statistics(inside, update=True):
        inside(x)
    outside(x)
    assert _same(_statistics(inside), _statistics(outside))


def test_contexts_nest_and_end_after_an_error() -> None:
    model = small_conv()
    x = torch.rand(4, 3, 8, 8)
    start = _statistics(model)
    with pytest.raises(RuntimeError, match="stop"), batch_statistics(model, update=False):
        with batch_statistics(model.encoder, update=True):
            model(x)
        moved = _statistics(model.encoder)
        model(x)
        assert _same(_statistics(model.encoder), moved)
        raise RuntimeError("stop")
    assert int(moved["entry.norm.num_batches_tracked"]) == 1
    assert _same(_statistics(model.decoder), {name[8:]: value for name, value in start.items() if name[0] == "d"})
    model(x)
    assert all(int(value) == 2 for name, value in model.encoder.named_buffers() if name.endswith("tracked"))


def test_eval_mode_uses_the_running_statistics_inside_too() -> None:
    model = small_conv().eval()
    x = torch.rand(4, 3, 8, 8)
    expected = model(x)
    for update in (False, True):
        before = _statistics(model)
        with batch_statistics(model, update=update):
            assert torch.equal(model(x), expected)
        assert _same(_statistics(model), before)


def test_all_batch_norms_of_torch_work_and_one_without_statistics_gets_none() -> None:
    network = nn.Sequential(nn.BatchNorm1d(3), nn.BatchNorm1d(3, track_running_stats=False))
    x = torch.rand(5, 3)
    for update in (True, False):
        with batch_statistics(network, update=update):
            network(x)
    assert int(network[0].num_batches_tracked) == 1
    assert not network[1].track_running_stats
    with batch_statistics(network[0], update=False):
        network(x)
    assert int(network[0].num_batches_tracked) == 1
    with batch_statistics(nn.Linear(3, 3), update=False) as nothing:
        assert nothing is None


def test_a_context_does_not_search_the_modules_again() -> None:
    network = nn.Sequential(*(nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1)) for _ in range(100)))
    assert batch_norms(network) is batch_norms(network)

    def seconds(count: int) -> float:
        start = time.perf_counter()
        for _ in range(count):
            with batch_statistics(network, update=False):
                pass
        return (time.perf_counter() - start) / count

    start = time.perf_counter()
    for _ in range(20):
        list(network.modules())
    walk = (time.perf_counter() - start) / 20
    seconds(1)
    assert min(seconds(20) for _ in range(5)) < walk
