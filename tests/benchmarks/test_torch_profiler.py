"""The memory that a call takes, as torch's profiler sees it on the CPU."""

from __future__ import annotations

import torch

from benchmarks.torch_profiler import peak_extra_bytes


def test_results_and_temporaries_count_while_they_are_held():
    x = torch.rand(1000)

    def call() -> torch.Tensor:
        first = x + x  # 4000 bytes, until the end
        return first * x  # 4000 more, held together with the first

    assert peak_extra_bytes(call) == 8000


def test_freed_memory_does_not_add_up():
    x = torch.rand(1000)

    def call() -> None:
        for _ in range(5):
            x.add(x)

    assert peak_extra_bytes(call) == 4000


def test_inputs_do_not_count():
    x = torch.rand(100_000)
    assert peak_extra_bytes(lambda: x[:10].clone()) == 40
    assert peak_extra_bytes(lambda: x.add_(x)) is None  # nothing was allocated, nothing was seen
