"""Order, counts and arithmetic of the measurements. No test depends on a time."""

from __future__ import annotations

import itertools

import pytest
import torch

from benchmarks import timing
from benchmarks.timing import CPU, Effort, Efforts, Measurement, Spread, measure


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

    monkeypatch.setattr(timing.time, "perf_counter", lambda: float(now()))
    effort = Effort(rounds=4, sample_seconds=1e-3, warmup_calls=2, warmup_seconds=0.0)
    measurement = measure({name: contender(name) for name in "ABC"}, effort)
    assert called[-12:] == list("ABC" * 4)
    assert called[:-12] == list("AAABBBCCC")  # two to warm up, one to calibrate
    assert {name: len(samples) for name, samples in measurement.seconds.items()} == {"A": 4, "B": 4, "C": 4}
    assert dict(measurement.calls_per_sample) == {"A": 1, "B": 1, "C": 1}


def test_short_calls_are_repeated_until_a_sample_is_long_enough(monkeypatch):
    clock = [0.0]

    def tick() -> None:
        clock[0] += 1e-4

    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock[0])
    measurement = measure({"tick": tick}, Effort(rounds=2, sample_seconds=5e-3, warmup_seconds=1e-3))
    assert 50 <= measurement.calls_per_sample["tick"] <= 60
    assert measurement.spread("tick").median == pytest.approx(1e-4)


def test_a_call_that_repeats_itself_counts_as_many(monkeypatch):
    monkeypatch.setattr(timing, "_clock_sample", lambda call, count: 8.0)
    measurement = measure({"graph": int, "call": int}, Effort(rounds=3), repeats={"graph": 4})
    assert measurement.spread("graph") == Spread(2.0, 2.0, 2.0)
    assert measurement.ratio("graph", "call") == Spread(0.25, 0.25, 0.25)
    assert dict(measurement.calls_per_sample) == {"graph": 4, "call": 1}


def test_slow_calls_end_at_the_limit_once_there_are_enough_rounds(monkeypatch):
    clock = [0.0]

    def slow() -> None:
        clock[0] += 1.0

    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock[0])
    effort = Effort(rounds=100, warmup_calls=1, warmup_seconds=0.0, limit_seconds=5.5, least_rounds=2)
    assert len(measure({"slow": slow}, effort).seconds["slow"]) == 6
    effort = Effort(rounds=100, warmup_calls=1, warmup_seconds=0.0, limit_seconds=0.0, least_rounds=4)
    assert len(measure({"slow": slow}, effort).seconds["slow"]) == 4


def test_an_effort_is_that_of_the_device_or_of_a_quick_run():
    cuda = torch.device("cuda")
    efforts = Efforts(cpu=Effort(rounds=1), cuda=Effort(rounds=2), quick=Effort(rounds=3))
    assert [efforts.choose(device).rounds for device in (CPU, cuda)] == [1, 2]
    assert [efforts.choose(device, quick=True).rounds for device in (CPU, cuda)] == [3, 3]
    assert efforts.choose(cuda, rounds=9) == Effort(rounds=9)
