"""The cases of `ops_suite` under pytest-benchmark, for tracking over time: `pytest benchmarks --benchmark-only`.

Contenders run one after the other here; ratios come from `python -m benchmarks`, which runs them by turns.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks import ops_suite
from sivae import ops

THREADS = 2


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("contender", ["eager", "reference", "native"])
@pytest.mark.parametrize("case", ops_suite.CASES, ids=lambda case: case.name)
def test_forward_and_backward(benchmark: BenchmarkFixture, case: ops_suite.OpCase, contender: str) -> None:
    if contender != ops_suite.EAGER and contender not in ops.available_backends():
        pytest.skip(str(ops.backend_status()[contender]["cpu"]))
    benchmark.group = f"{case.name}, float32, {THREADS} threads"
    benchmark(ops_suite.timed_call(ops_suite.functions(case)[contender], ops_suite.input_sets(case)))
