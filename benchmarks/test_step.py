"""The iteration of `step_suite` under pytest-benchmark: `pytest benchmarks --benchmark-only`."""

from __future__ import annotations

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks import ops_suite, step_suite
from benchmarks.test_ops import DEVICE, finished
from sivae import ops


@pytest.mark.parametrize("variant", [ops_suite.EAGER, "reference", "triton", "native", step_suite.PRODUCTS])
def test_iteration(benchmark: BenchmarkFixture, variant: str) -> None:
    calls = step_suite.calls(step_suite.CASE, DEVICE)
    if variant not in calls:
        reason = ops.backend_status()[variant][DEVICE.type] if variant in ops.backend_status() else None
        pytest.skip(f"{variant}: {reason or 'not compared on this device'}")
    benchmark.group = f"{step_suite.CASE.name}, {torch.get_num_threads()} threads"
    benchmark(finished(calls[variant]))
