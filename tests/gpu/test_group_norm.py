"""Group norm with an activation on the GPU: the tests of the CPU with tensors there, and sizes of trainings."""

from __future__ import annotations

import pytest
import torch

from tests.ops.group_norm_parity import assert_group_norm, make_case
from tests.ops.test_group_norm import TestParity, TestSpecialValues  # noqa: F401  (with the GPU's fixtures)

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "channels last"])
@pytest.mark.parametrize("shape", [(2, 128, 64, 64), (2, 256, 32, 32), (8, 512, 16, 16)], ids=str)
def test_sizes_that_people_train_with(compiled_backend, shape, layout, dtype):
    assert_group_norm(compiled_backend, make_case(shape, 32, dtype, layout=layout))
