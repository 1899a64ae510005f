"""Order, counts and arithmetic of the measurements. No time decides."""

from __future__ import annotations

import itertools

import pytest
import torch

from benchmarks import measure
from benchmarks.measure import CopyProbe, Effort, Measurement, Spread


def test_spread_interpolates_quartiles():
    assert Spread.of([3.0, 1.0, 2.0]) == Spread(2.0, 1.5, 2.5)
    assert Spread.of([5.0]) == Spread(5.0, 5.0, 5.0)
    assert Spread.of(list(range(9))) == Spread(4, 2, 6)
    assert Spread(1.0, 0.5, 2.0).times(4) == Spread(4.0, 2.0, 8.0)


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


def test_copy_bandwidth_counts_what_is_read_and_written(monkeypatch):
    monkeypatch.setattr(measure, "_clock_sample", lambda call, count: 0.5)
    probe = CopyProbe(1 << 10)
    assert measure.copy_bandwidth(probe) == Spread(4096.0, 4096.0, 4096.0)


def test_probes_outgrow_the_cache():
    assert measure.last_level_cache_bytes() > 0
    assert measure.probe_bytes() >= 64 << 20


def test_a_call_that_repeats_itself_counts_as_many(monkeypatch):
    monkeypatch.setattr(measure, "_clock_sample", lambda call, count: 8.0)
    measurement = measure.measure({"graph": int, "call": int}, Effort(rounds=3), repeats={"graph": 4})
    assert measurement.spread("graph") == Spread(2.0, 2.0, 2.0)
    assert measurement.ratio("graph", "call") == Spread(0.25, 0.25, 0.25)
    assert dict(measurement.calls_per_sample) == {"graph": 4, "call": 1}


def test_slow_calls_end_at_the_limit_once_there_are_enough_rounds(monkeypatch):
    clock = [0.0]

    def slow() -> None:
        clock[0] += 1.0

    monkeypatch.setattr(measure.time, "perf_counter", lambda: clock[0])
    effort = Effort(rounds=100, warmup_calls=1, warmup_seconds=0.0, limit_seconds=5.5, least_rounds=2)
    assert len(measure.measure({"slow": slow}, effort).seconds["slow"]) == 6
    effort = Effort(rounds=100, warmup_calls=1, warmup_seconds=0.0, limit_seconds=0.0, least_rounds=4)
    assert len(measure.measure({"slow": slow}, effort).seconds["slow"]) == 4


class TestPeakExtraBytes:
    """Of the CPU, by the allocations that torch's profiler sees."""

    def test_results_and_temporaries_count_while_they_are_held(self):
        x = torch.rand(1000)

        def call() -> torch.Tensor:
            first = x + x  # 4000 bytes, until the end
            return first * x  # 4000 more, held together with the first

        assert measure.peak_extra_bytes(call) == 8000

    def test_what_is_freed_first_does_not_add_up(self):
        x = torch.rand(1000)

        def call() -> None:
            for _ in range(5):
                x.add(x)

        assert measure.peak_extra_bytes(call) == 4000

    def test_inputs_do_not_count(self):
        x = torch.rand(100_000)
        assert measure.peak_extra_bytes(lambda: x[:10].clone()) == 40
        assert measure.peak_extra_bytes(lambda: x.add_(x)) is None  # nothing was allocated, nothing was seen
