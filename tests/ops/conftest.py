"""Run a test with the argument `backend` on each available backend, with `compiled_backend` on all but the reference.

Triton's interpreter is left out, because a call takes a tenth of a second: tests/ops/triton/ has fewer cases.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from sivae import ops


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    names = [name for name in ops.available_backends() if name != "triton"]
    if "backend" in metafunc.fixturenames:
        metafunc.parametrize("backend", names)
    if "compiled_backend" in metafunc.fixturenames:
        metafunc.parametrize("compiled_backend", [name for name in names if name != "reference"])


@pytest.fixture(autouse=True)
def fixed_seed() -> Iterator[None]:
    """The same inputs in every run, also after other tests."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(20240607)
        yield


@pytest.fixture
def restore_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
