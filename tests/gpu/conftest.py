"""Everything here needs an NVIDIA GPU; each file marks itself `gpu`. `backend`, `compiled_backend` are the GPU's."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

from sivae import ops

DEVICE = "cuda"
COMPILED = ("native", "triton")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """SIVAE_TEST_PART=2/8 leaves the third of eight parts, for as many processes: Triton compiles one kernel at a time.

    Each pair of layouts is a kernel of its own there; it takes those where one of the two is plain, or both are alike.
    """
    items[:] = [item for item in items if not _mixes_layouts_of_triton(item)]
    part, _, parts = os.environ.get("SIVAE_TEST_PART", "").partition("/")
    if parts:
        items[:] = items[int(part) :: int(parts)]


def _mixes_layouts_of_triton(item: pytest.Item) -> bool:
    arguments = getattr(getattr(item, "callspec", None), "params", {})
    first, second = arguments.get("first"), arguments.get("second")
    return arguments.get("compiled_backend") == "triton" and first != second and "contiguous" not in (first, second)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    # Those that must be there, not those that are: a backend that is missing on a GPU is a failure.
    if "backend" in metafunc.fixturenames:
        metafunc.parametrize("backend", [*COMPILED, "reference"])
    if "compiled_backend" in metafunc.fixturenames:
        metafunc.parametrize("compiled_backend", COMPILED)


@pytest.fixture(autouse=True)
def on_the_gpu() -> Iterator[None]:
    """Tensors are made on the GPU, the same ones in every run, whatever ran before."""
    if not torch.cuda.is_available():
        pytest.skip("torch sees no CUDA device")
    with torch.random.fork_rng(), torch.device(DEVICE):
        torch.manual_seed(20240607)
        yield


@pytest.fixture(autouse=True)
def backend_is_there(request: pytest.FixtureRequest, on_the_gpu: None) -> None:
    """A backend that is missing says why, once and for each test."""
    for name in ("backend", "compiled_backend"):
        if name in request.fixturenames:
            backend = request.getfixturevalue(name)
            reason = ops.backend_status()[backend][DEVICE] if backend in ops.backend_status() else "there is none"
            assert reason is None, f"{backend}: {reason}"
