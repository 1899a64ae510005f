"""Order, counts and arithmetic of the measurements. No time decides."""

from __future__ import annotations

import itertools

import pytest
import torch

from benchmarks import measure
from benchmarks.measure import QUICK, CopyProbe, Effort, Measurement, ReadProbe, Spread
from benchmarks.results import CaseResult, Probe


def test_spread_interpolates_quantiles():
    assert Spread.of([3.0, 1.0, 2.0]) == Spread(2.0, pytest.approx(1.2), pytest.approx(2.8))
    assert Spread.of([5.0]) == Spread(5.0, 5.0, 5.0)
    assert Spread.of(list(range(11))) == Spread(5, 1, 9)


def test_ratio_is_taken_within_each_round():
    measurement = Measurement({"a": [1.0, 10.0, 100.0], "b": [2.0, 20.0, 200.0]}, {"a": 1, "b": 1})
    assert measurement.ratio("a", "b") == Spread(0.5, 0.5, 0.5)


def test_contenders_take_turns(monkeypatch):
    # A clock on which every call lasts a second, so that calibration settles at one call.
    now = itertools.count().__next__
    called: list[str] = []

    def contender(name: str):
        def call() -> None:
            called.append(name)
            now()

        return call

    monkeypatch.setattr(measure.time, "perf_counter", lambda: float(now()))
    effort = Effort(rounds=4, sample_seconds=1e-3, warmup_calls=2, warmup_seconds=0.0)
    measurement = measure.measure({name: contender(name) for name in "ABC"}, effort)
    assert called[-12:] == list("ABC" * 4)
    assert called[:-12] == list("AAABBBCCC")  # two to warm up, one to calibrate
    assert {name: len(samples) for name, samples in measurement.seconds.items()} == {"A": 4, "B": 4, "C": 4}
    assert dict(measurement.calls_per_sample) == {"A": 1, "B": 1, "C": 1}


def test_short_calls_are_repeated_until_a_sample_is_long_enough(monkeypatch):
    clock = [0.0]

    def tick() -> None:
        clock[0] += 1e-4

    monkeypatch.setattr(measure.time, "perf_counter", lambda: clock[0])
    measurement = measure.measure({"tick": tick}, Effort(rounds=2, sample_seconds=5e-3, warmup_seconds=1e-3))
    assert 50 <= measurement.calls_per_sample["tick"] <= 60
    assert measurement.spread("tick").median == pytest.approx(1e-4)


def test_copy_probe_copies_and_goes_round():
    probe = CopyProbe(1 << 10)
    assert probe.moved == 2 << 10
    results = [probe() for _ in range(4)]
    assert len({result.data_ptr() for result in results}) == 2
    for target, source in probe._pairs:
        assert torch.equal(target, source) and target.count_nonzero() > 0


def test_read_probe_goes_round_different_random_buffers():
    probe = ReadProbe(1 << 10)
    assert probe.moved == 1 << 10
    assert len({probe().item() for _ in range(4)}) == 4


@pytest.mark.parametrize("bandwidth", [measure.copy_bandwidth, measure.read_bandwidth])
def test_bandwidth_restores_the_threads(bandwidth):
    before = torch.get_num_threads()
    spread = bandwidth(1, effort=QUICK, buffer_bytes=1 << 12)
    assert 0 < spread.q10 <= spread.median <= spread.q90
    assert torch.get_num_threads() == before


def test_probes_outgrow_the_cache():
    assert measure.last_level_cache_bytes() > 0
    assert measure.probe_bytes() >= 64 << 20


def test_share_of_memory_speed():
    # 10 bytes in 2 s beside a copy of 20 bytes in 1 s: 5 of 20 bytes per second.
    result = CaseResult(
        suite="ops",
        name="case",
        dtype="float32",
        shapes={},
        baseline="op",
        contenders=("op",),
        measurement=Measurement({"op": [2.0], "(copy)": [1.0]}, {"op": 1, "(copy)": 1}),
        minimum_bytes=10,
        probes={"copy": Probe("(copy)", 20)},
    )
    assert result.share_of_memory_speed("op") == Spread(0.25, 0.25, 0.25)
    assert result.to_dict()["bytes_per_second"]["copy"]["median"] == 20.0
