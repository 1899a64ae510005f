"""The case of `step_suite` under pytest-benchmark, for tracking over time: `pytest benchmarks --benchmark-only`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks import step_suite
from sivae import ops

THREADS = 2


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("contender", ["eager", "reference", "native", "products"])
def test_iteration(benchmark: BenchmarkFixture, contender: str) -> None:
    if contender in ("reference", "native") and contender not in ops.available_backends():
        pytest.skip(str(ops.backend_status()[contender]["cpu"]))
    name = {"eager": step_suite.PLAIN, "products": step_suite.PRODUCTS}.get(contender, f"SoftIntroStep, {contender}")
    benchmark.group = f"{step_suite.CASE.name}, float32, {THREADS} threads"
    benchmark(step_suite.calls(step_suite.CASE)[name])
