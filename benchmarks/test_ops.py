"""The cases of `cases` under pytest-benchmark, for tracking over time: `pytest benchmarks --benchmark-only`.

A group is an op, shape, dtype and mode, whose variants can be compared. They run one after the other here; ratios
come from `sivae bench`, which runs them by turns. SIVAE_BENCH_DEVICE=cuda runs them there.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks import ops_suite
from benchmarks.cases import MODES, Case, Function, Inputs, cases
from benchmarks.measure import Call, synchronize
from sivae import ops

DEVICE = torch.device(os.environ.get("SIVAE_BENCH_DEVICE", "cpu"))
VARIANTS = (ops_suite.EAGER, ops_suite.COMPILED, "triton", "native")


@functools.lru_cache(maxsize=1)  # the tests of a case are neighbours
def compiled(case: Case) -> Function:
    return ops_suite.compiled(case, DEVICE)


@functools.lru_cache(maxsize=1)
def input_sets(case: Case) -> list[Inputs]:
    return ops_suite.input_sets(case, DEVICE)


def finished(call: Call) -> Callable[[], object]:
    """The call and, on CUDA, what it launched."""

    def run() -> object:
        result = call()
        synchronize(DEVICE)
        return result

    return call if DEVICE.type == "cpu" else run


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("case", cases(large=DEVICE.type == "cuda"), ids=lambda case: case.name)
def test_op(benchmark: BenchmarkFixture, case: Case, variant: str, mode: str) -> None:
    functions = ops_suite.functions(case, DEVICE)
    if variant != ops_suite.COMPILED and variant not in functions:
        reason = ops.backend_status()[variant][DEVICE.type] if variant in ops.backend_status() else None
        pytest.skip(f"{variant}: {reason or 'not compared on this device'}")
    function = compiled(case) if variant == ops_suite.COMPILED else functions[variant]
    call = finished(ops_suite.in_turn(ops_suite.timed_calls(function, input_sets(case), mode)))
    benchmark.group = f"{case.name} {mode}, {torch.get_num_threads()} threads"
    benchmark.extra_info |= {"bytes": case.moved_bytes(mode), "device": str(DEVICE), "variant": variant}
    benchmark(call)
