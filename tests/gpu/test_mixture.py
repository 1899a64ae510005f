"""The log density of a mixture on the GPU: the tests of the CPU with tensors there, and sizes of trainings."""

from __future__ import annotations

import pytest

from tests.ops.mixture_parity import assert_mixture, mixture
from tests.ops.test_mixture import (  # noqa: F401  (collected here, with the GPU's fixtures)
    TestCorners,
    test_far_from_the_origin,
    test_mixed_dtypes,
    test_values_and_gradients,
)

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("shape", [(12800, 100, 128), (512, 10, 2), (3000, 513, 33)], ids=str)
def test_mixtures_that_people_train_with(compiled_backend, shape):
    assert_mixture(compiled_backend, *mixture(*shape))
