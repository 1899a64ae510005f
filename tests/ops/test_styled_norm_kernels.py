"""Test the compiled kernels of the styled instance norm with every way of cutting planes, against float64."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.ops.styled_norm_parity import (
    EPS,
    LAYOUTS,
    SLOPE,
    Case,
    assert_styled_norm,
    backend_op,
    backward,
    forward,
    laid_out,
    make_case,
    needs,
    subsets,
)

MEMORY = ["contiguous", "channels last"]
# From the smallest planes on, in the CUDA kernels: several planes share a warp; one plane has a warp, a block, a larger
# block, a block with more pixels per thread, several blocks; with 16-byte accesses or without. In channels last: one
# block for all pixels, then several; packs of channels or single channels.
SHAPES = [
    (5, 7, 2, 2), (3, 8, 4, 4), (2, 5, 8, 8), (2, 8, 16, 16), (1, 35, 7, 9), (2, 3, 33, 32), (1, 4, 64, 64),
    (1, 33, 72, 64), (1, 32, 128, 64), (1, 2, 128, 132), (1, 16, 40, 40), (1, 3, 131, 127),
]  # fmt: skip


@pytest.fixture(autouse=True)
def the_kernels_are_there(compiled_backend: str) -> None:
    key = torch.zeros(0).device.type.upper()
    name = f"sivae_{compiled_backend}::styled_instance_norm"
    if compiled_backend == "native" and not torch._C._dispatch_has_kernel_for_dispatch_key(name, key):
        pytest.skip(f"{name} has no kernel for {key} in this build")


def results(backend: str, case: Case) -> list[Tensor]:
    y, mean, std = forward(backend, case)
    return [y, mean, std, *backward(backend, case, mean, std).values()]


@pytest.mark.parametrize("layout", MEMORY)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_shapes(compiled_backend, layout, shape):
    assert_styled_norm(compiled_backend, make_case(shape, torch.float32, layout=layout))


@pytest.mark.parametrize("layout", MEMORY)
@pytest.mark.parametrize("shape", [(2, 8, 5, 8), (1, 8, 80, 80), (3, 5, 9, 7)], ids=str)
@pytest.mark.parametrize(
    ("dtype", "parameters"),
    [
        (torch.float64, torch.float64),
        (torch.bfloat16, torch.bfloat16),
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float16),
        (torch.float16, torch.float32),
    ],
    ids=str,
)
def test_dtypes(compiled_backend, layout, shape, dtype, parameters):
    assert_styled_norm(compiled_backend, make_case(shape, dtype, parameters=parameters, layout=layout))


@pytest.mark.parametrize("shape", [(2, 8, 6, 4), (2, 3, 6, 5), (1, 8, 48, 48)], ids=str)
@pytest.mark.parametrize("grad_layout", [None, "contiguous", "expanded"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(compiled_backend, layout, grad_layout, shape):
    """Views are read in place; the gradient in x's or another layout; one map of noise for all samples."""
    case = make_case(shape, torch.bfloat16, layout=layout, grad_layout=grad_layout, shared_noise=True)
    assert_styled_norm(compiled_backend, case)


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 3, 1, 7), (2, 3, 5, 1), (3, 8, 1, 1), (2, 8, 1, 8)], ids=str)
@pytest.mark.parametrize("layout", MEMORY)
def test_dimensions_of_one(compiled_backend, layout, shape):
    assert_styled_norm(compiled_backend, make_case(shape, torch.float32, layout=layout))


@pytest.mark.parametrize("layout", MEMORY)
@pytest.mark.parametrize("shape", [(2, 8, 6, 6), (1, 4, 96, 96)], ids=str)
def test_what_may_be_left_out(compiled_backend, layout, shape):
    for case in subsets(make_case(shape, torch.float32, layout=layout)):
        assert_styled_norm(compiled_backend, case)


@pytest.mark.parametrize("layout", MEMORY)
@pytest.mark.parametrize("shape", [(2, 8, 6, 6), (1, 4, 96, 96)], ids=str)
def test_only_gradients_that_are_needed(compiled_backend, layout, shape):
    """Each has the same bits, whether others are computed or not."""
    case = make_case(shape, torch.float32, layout=layout)
    _, mean, std = forward(compiled_backend, case)
    all_of_them = backward(compiled_backend, case, mean, std)
    for needed in needs():
        for name, gradient in backward(compiled_backend, case, mean, std, needed).items():
            assert torch.equal(gradient, all_of_them[name]), (name, needed)


@pytest.mark.parametrize("layout", MEMORY)
@pytest.mark.parametrize("size", [(4, 4), (9, 7), (16, 16), (50, 49)], ids=str)
def test_constant_planes(compiled_backend, layout, size):
    """Exactly 0 before the style for any constant and number of pixels, with finite gradients."""
    values = torch.arange(1, 17).reshape(2, 8, 1, 1) * 0.1
    case = replace(make_case((2, 8, *size), torch.float32), noise=None, noise_weight=None)
    case = replace(case, x=laid_out(layout, values.expand(2, 8, *size)))
    y, _, std = forward(compiled_backend, case)
    assert not std.any()
    assert torch.equal(y, case.shift[:, :, None, None].expand(y.shape))
    assert_styled_norm(compiled_backend, case)


@pytest.mark.parametrize("layout", MEMORY)
@pytest.mark.parametrize("size", [(4, 4), (9, 7), (50, 49)], ids=str)
def test_far_from_zero(compiled_backend, layout, size):
    """No cancellation: the variance stays accurate with a large mean or an outlier."""
    case = make_case((1, 8, *size), torch.float32, layout=layout)
    assert_styled_norm(compiled_backend, replace(case, x=case.x + 1000))
    for at in (0, 13):
        x = case.x.clone()
        x[0, 1, at // size[1], at % size[1]] = 1e6
        assert_styled_norm(compiled_backend, replace(case, x=x))


@pytest.mark.parametrize("layout", MEMORY)
@pytest.mark.parametrize("size", [(4, 5), (8, 8), (50, 50)], ids=str)
@pytest.mark.parametrize("special", [math.nan, math.inf, -math.inf, 1e30])
def test_special_values_stay_in_their_plane(compiled_backend, layout, size, special):
    """A plane with a NaN or an infinity is NaN; the deviation of one whose squares overflow is infinite."""
    case = make_case((1, 8, *size), torch.float32, layout=layout)
    plain = forward(compiled_backend, case)
    for at in (0, size[0] * size[1] - 1):
        x = case.x.clone()
        x[0, 1, at // size[1], at % size[1]] = special
        y, mean, std = forward(compiled_backend, replace(case, x=x))
        others = [0, *range(2, 8)]
        for found, expected in zip((y, mean, std), plain, strict=True):
            assert torch.equal(found[:, others], expected[:, others])
        if special == 1e30:
            assert std[0, 1] == math.inf
            assert torch.equal(y[0, 1], case.shift[0, 1].expand(size))
        else:
            assert y[0, 1].isnan().all()
            assert std[0, 1].isnan()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(2, 8, 16, 16), (1, 8, 96, 96)], ids=str)
def test_repeats_have_the_same_bits(compiled_backend, layout, shape):
    case = make_case(shape, torch.float32, layout=layout)
    first = results(compiled_backend, case)
    for again, expected in zip(results(compiled_backend, case), first, strict=True):
        assert torch.equal(again, expected)


@pytest.mark.parametrize("shape", [(0, 3, 4, 5), (2, 0, 4, 5), (2, 3, 0, 5)], ids=str)
def test_empty(compiled_backend, shape):
    """Gradients of parameters are 0; statistics of no pixels are NaN."""
    b, c, h, w = shape
    x, styles = torch.zeros(shape), torch.zeros(b, c)
    operands = x, torch.zeros(b, 1, h, w), torch.zeros(c), torch.zeros(c), styles
    y, mean, std = backend_op(compiled_backend, "styled_instance_norm")(*operands, styles, SLOPE, EPS)
    assert y.shape == shape
    assert mean.shape == std.shape == (b, c)
    assert mean.isnan().all()
    gradients = backend_op(compiled_backend, "styled_instance_norm_backward")(
        x, mean, std, *operands, mean, std, SLOPE, EPS, True, True, True, True, True
    )
    for gradient, operand in zip(gradients, (x, *operands[2:], styles), strict=True):
        assert torch.equal(gradient, torch.zeros_like(operand))
