"""Compare the log density of a mixture of the Triton backend, in the interpreter, with float64."""

from __future__ import annotations

import math

import pytest
import torch

from tests.ops.mixture_parity import assert_mixture, mixture
from tests.ops.test_mixture import results

pytestmark = pytest.mark.usefixtures("interpreter")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_dtypes(dtype):
    assert_mixture("triton", *mixture(5, 3, 4, dtype))


def test_many_tiles(small_blocks):
    """Views are read in place."""
    z, weights, mu, logvar = mixture(9, 7, 6)
    assert_mixture("triton", z.t().contiguous().t(), weights, mu, logvar)


def test_no_density():
    """-inf with gradient 0."""
    z, weights, mu, logvar = mixture(3, 2, 2)
    for case in ((z, weights[:0], mu[:0], logvar[:0]), (z, 0 * weights, mu, logvar)):
        log_prob, *grads = results("triton", *case)
        assert (log_prob == -math.inf).all()
        assert all((g == 0).all() for g in grads)
