"""A shortage of memory is recognized from the errors of all who allocate it."""

from __future__ import annotations

import errno

import numpy as np
import pytest
import torch

from sivae.errors import CheckpointError
from sivae.machine import memory_shortage


def test_a_shortage_on_the_cpu_is_recognized_from_the_libraries_own_errors() -> None:
    with pytest.raises(RuntimeError) as by_torch:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert memory_shortage(by_torch.value) == "the main memory has no room for 1152921504606846976 bytes more"
    with pytest.raises(MemoryError) as by_numpy:
        np.empty(1 << 60, np.uint8)
    assert memory_shortage(by_numpy.value) == "the main memory has no room for 1.00 EiB more"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            torch.OutOfMemoryError(
                "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 1 GiB"
            ),
            "the GPU has no room for 20.00 MiB more",
        ),
        (
            RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"),
            "the GPU has no room left",
        ),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "the main memory has no room left"),
        (MemoryError(), "the main memory has no room left"),
    ],
)
def test_a_shortage_is_described(error: Exception, words: str) -> None:
    assert memory_shortage(error) == words


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        OSError(errno.ENOSPC, "No space left on device"),
        CheckpointError("the checkpoint was saved out of memory"),
        ValueError("out of memory"),
    ],
)
def test_other_errors_are_no_shortage(error: Exception) -> None:
    assert memory_shortage(error) == ""
