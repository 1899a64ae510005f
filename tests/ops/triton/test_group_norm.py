"""Compare group norm of the Triton backend, in the interpreter, with the reference in float64."""

from __future__ import annotations

import pytest
import torch

from tests.ops.group_norm_parity import assert_group_norm, make_case

pytestmark = pytest.mark.usefixtures("interpreter")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_dtypes(dtype):
    assert_group_norm("triton", make_case((2, 6, 5, 3), 3, dtype))


@pytest.mark.parametrize(("layout", "grad_layout"), [
    ("contiguous", "channels last"), ("channels last", "channels last"), ("transposed", "contiguous"),
    ("channels last slices", "slices"), ("cropped", "expanded"),
])  # fmt: skip
def test_many_tiles(small_blocks, layout, grad_layout):
    assert_group_norm("triton", make_case((2, 6, 5, 9), 3, layout=layout, grad_layout=grad_layout))


@pytest.mark.parametrize("activation", ["silu", "leaky_relu", "none"])
@pytest.mark.parametrize("affine", [True, False])
def test_activations(activation, affine):
    """A group far from zero keeps its digits."""
    assert_group_norm("triton", make_case((1, 4, 7), 1, activation=activation, affine=affine, level=1e3))


def test_second_derivatives():
    """Those of the reference."""
    case = make_case((2, 4, 3, 3), 2)

    def gradients(backend: str) -> list[torch.Tensor]:
        leaves = [t.detach().requires_grad_() for t in (case.x, case.weight, case.bias)]
        first = torch.autograd.grad(case.call(backend, *leaves).square().sum(), leaves, create_graph=True)
        return list(torch.autograd.grad(sum(gradient.square().sum() for gradient in first), leaves))

    for ours, expected in zip(gradients("triton"), gradients("reference"), strict=True):
        # The first forward pass differs by a few units, which two derivatives enlarge by some hundreds at most.
        assert ((ours - expected).abs() <= 2.0**-14 * expected.abs().max()).all()
