"""The convolution of a doubled image, computed by summed weights."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from sivae.models.doubling import DoublingConv2d


@pytest.mark.parametrize(("count", "side"), [(1, 22), (1, 23), (2, 16), (3, 16), (600, 1)])
def test_summed_weights_equal_the_convolution_of_the_doubled_image(count: int, side: int) -> None:
    generator = torch.Generator().manual_seed(0)
    layer = DoublingConv2d(3, 2, 3, padding=1).double()
    x = torch.randn(count, 3, side, side, generator=generator, dtype=torch.float64, requires_grad=True)
    expected = F.conv2d(x.repeat_interleave(2, 2).repeat_interleave(2, 3), layer.weight, layer.bias, padding=1)
    actual = layer(x)
    assert actual.shape == (count, 2, 2 * side, 2 * side)
    assert _relative(actual, expected.detach()) < 1e-14  # float64: the same sums but for their order
    direction = torch.randn(expected.shape, generator=generator, dtype=torch.float64)
    wanted = (x, layer.weight, layer.bias)
    for mine, theirs in zip(
        torch.autograd.grad(actual, wanted, direction), torch.autograd.grad(expected, wanted, direction), strict=True
    ):
        assert _relative(mine, theirs) < 1e-13


def _relative(actual: Tensor, expected: Tensor) -> float:
    return float((actual.detach() - expected.detach()).norm() / expected.detach().norm())
