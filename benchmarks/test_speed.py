"""Time the ops and the 2D iteration with pytest-benchmark: `pytest benchmarks --benchmark-only`.

A group has the variants of an op in a shape, dtype and mode. They run one after the other, so for ratios use `sivae
bench`, which runs them by turns. `SIVAE_BENCH_DEVICE=cuda` runs them on a GPU.
"""

from __future__ import annotations

import functools
import os

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks import op_timing
from benchmarks.iterations import points
from benchmarks.names import COMPILED, EAGER, MODES
from benchmarks.op_cases import Case, Function, Inputs, cases
from benchmarks.timing import Call, synchronize
from sivae import ops

DEVICE = torch.device(os.environ.get("SIVAE_BENCH_DEVICE", "cpu"))


@functools.lru_cache(maxsize=1)  # the tests of a case follow one another
def compiled(case: Case) -> Function:
    return op_timing.compiled(case, DEVICE)


@functools.lru_cache(maxsize=1)
def input_sets(case: Case) -> list[Inputs]:
    return op_timing.input_sets(case, DEVICE)


def finished(call: Call) -> Call:
    """The call, which on CUDA also waits for what it launched."""

    def run() -> object:
        result = call()
        synchronize(DEVICE)
        return result

    return run


def skip(variant: str) -> None:
    reason = ops.backend_status()[variant][DEVICE.type] if variant in ops.backend_status() else None
    pytest.skip(f"{variant}: {reason or 'not measured on this device'}")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("variant", [EAGER, COMPILED, "triton", "native"])
@pytest.mark.parametrize("case", cases(large=DEVICE.type == "cuda"), ids=lambda case: case.name)
def test_op(benchmark: BenchmarkFixture, case: Case, variant: str, mode: str) -> None:
    functions = op_timing.functions(case, DEVICE)
    if variant != COMPILED and variant not in functions:
        skip(variant)
    function = compiled(case) if variant == COMPILED else functions[variant]
    call = finished(op_timing.in_turn(op_timing.timed_calls(function, input_sets(case), mode), DEVICE))
    benchmark.group = f"{case.name} {mode}, {torch.get_num_threads()} threads"
    benchmark.extra_info |= {"bytes": case.moved_bytes(mode), "device": str(DEVICE), "variant": variant}
    benchmark(call)


@pytest.mark.parametrize("variant", [EAGER, "reference", "triton", "native", points.PRODUCTS])
def test_iteration(benchmark: BenchmarkFixture, variant: str) -> None:
    calls = points.calls(points.CASE, DEVICE)
    if variant not in calls:
        skip(variant)
    benchmark.group = f"{points.CASE.name}, {torch.get_num_threads()} threads"
    benchmark(finished(calls[variant]))
