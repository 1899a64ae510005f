"""What a run sets in torch, and that the caller's settings are back afterwards."""

from __future__ import annotations

import pytest
import torch

from sivae import ops
from sivae.training.torch_settings import denormals_flushed

TINY = torch.finfo(torch.float32).tiny


def _halves_of_tiny(threads: int) -> torch.Tensor:
    """Denormals, computed by as many threads as torch's pool has."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return torch.full((1 << 20,), TINY) * 0.5
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("threads", [1, 2])
def test_denormals_are_zero_in_every_thread_and_come_back(threads: int) -> None:
    if threads > 1 and "native" not in ops.available_backends():
        pytest.skip(str(ops.backend_status()["native"]["cpu"]))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert (_halves_of_tiny(threads) > 0.0).all()
        with denormals_flushed():
            assert (_halves_of_tiny(threads) == 0.0).all()
            with denormals_flushed():
                pass
            assert (_halves_of_tiny(threads) == 0.0).all()
        assert (_halves_of_tiny(threads) > 0.0).all()
    finally:
        torch.set_num_threads(before)
