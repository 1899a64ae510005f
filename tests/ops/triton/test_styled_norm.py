"""Compare the styled instance norm of the Triton backend, in the interpreter, with float64."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from tests.ops.styled_norm_parity import (
    EPS,
    LAYOUTS,
    SLOPE,
    assert_styled_norm,
    backend_op,
    backward,
    forward,
    laid_out,
    make_case,
    needs,
    subsets,
)
from tests.ops.test_styled_norm import test_planes_far_from_zero_keep_their_digits as keeps_its_digits

pytestmark = pytest.mark.usefixtures("interpreter")
MEMORY = ["contiguous", "channels last"]


@pytest.mark.parametrize("layout", MEMORY)
@pytest.mark.parametrize(
    ("dtype", "parameters"),
    [
        (torch.float64, torch.float64),
        (torch.float32, torch.float32),
        (torch.bfloat16, torch.bfloat16),
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
    ],
    ids=str,
)
def test_dtypes(layout, dtype, parameters):
    assert_styled_norm("triton", make_case((2, 8, 5, 8), dtype, parameters=parameters, layout=layout))


@pytest.mark.parametrize("blocks", ["interpreter", "small_blocks"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(request, layout, blocks):
    """Views are read in place, in one tile or in many; the gradient in x's or another layout."""
    request.getfixturevalue(blocks)
    assert_styled_norm("triton", make_case((2, 3, 6, 5), torch.float32, layout=layout))
    assert_styled_norm("triton", make_case((1, 4, 4, 3), torch.float32, layout=layout, grad_layout="contiguous"))


@pytest.mark.parametrize("layout", MEMORY)
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 3, 1, 7), (2, 3, 5, 1), (3, 5, 1, 1)], ids=str)
def test_shapes(layout, shape):
    assert_styled_norm("triton", make_case(shape, torch.float32, layout=layout, shared_noise=True))


@pytest.mark.parametrize("layout", MEMORY)
def test_planes_that_no_program_holds(layout):
    assert_styled_norm("triton", make_case((1, 2, 131, 127), torch.float32, layout=layout))


@pytest.mark.parametrize("blocks", ["interpreter", "small_blocks"])
@pytest.mark.parametrize("layout", MEMORY)
def test_what_may_be_left_out(request, layout, blocks):
    request.getfixturevalue(blocks)
    for case in subsets(make_case((1, 2, 6, 5), torch.float32, layout=layout)):
        assert_styled_norm("triton", case)


@pytest.mark.parametrize("blocks", ["interpreter", "small_blocks"])
def test_only_gradients_that_are_needed(request, blocks):
    """Each has the same bits, whether others are computed or not."""
    request.getfixturevalue(blocks)
    case = make_case((1, 2, 4, 3), torch.float32)
    _, mean, std = forward("triton", case)
    all_of_them = backward("triton", case, mean, std)
    for needed in needs():
        for name, gradient in backward("triton", case, mean, std, needed).items():
            assert torch.equal(gradient, all_of_them[name]), (name, needed)


@pytest.mark.parametrize("blocks", ["interpreter", "small_blocks"])
@pytest.mark.parametrize("layout", MEMORY)
def test_constant_planes(request, layout, blocks):
    """Exactly 0 before the style for any constant and number of pixels, with finite gradients."""
    request.getfixturevalue(blocks)
    values = torch.arange(1, 7).reshape(2, 3, 1, 1) * 0.1
    case = replace(make_case((2, 3, 3, 7), torch.float32), noise=None, noise_weight=None)
    case = replace(case, x=laid_out(layout, values.expand(2, 3, 3, 7)))
    y, _, std = forward("triton", case)
    assert not std.any()
    assert torch.equal(y, case.shift[:, :, None, None].expand(y.shape))
    assert_styled_norm("triton", case)


@pytest.mark.parametrize("blocks", ["interpreter", "small_blocks"])
@pytest.mark.parametrize("layout", MEMORY)
def test_far_from_zero(request, layout, blocks):
    """No cancellation: the variance stays accurate with a large mean or an outlier."""
    request.getfixturevalue(blocks)
    case = make_case((1, 2, 6, 5), torch.float32, layout=layout)
    assert_styled_norm("triton", replace(case, x=case.x + 1000))
    for at in (0, 17):
        x = case.x.clone()
        x[0, 1, at // 5, at % 5] = 1e6
        assert_styled_norm("triton", replace(case, x=x))


@pytest.mark.parametrize("blocks", ["interpreter", "small_blocks"])
def test_far_from_zero_the_deviations_keep_their_digits(request, blocks):
    request.getfixturevalue(blocks)
    keeps_its_digits("triton", (2, 3, 7, 9), 1e4)


@pytest.mark.parametrize("blocks", ["interpreter", "small_blocks"])
@pytest.mark.parametrize("special", [math.nan, math.inf, -math.inf, 1e30])
def test_special_values_stay_in_their_plane(request, special, blocks):
    """A plane with a NaN or an infinity is NaN; the deviation of one whose squares overflow is infinite."""
    request.getfixturevalue(blocks)
    case = make_case((1, 3, 4, 5), torch.float32)
    x = case.x.clone()
    x[0, 1, 2, 3] = special
    y, mean, std = forward("triton", replace(case, x=x))
    plain, plain_mean, plain_std = forward("triton", case)
    for plane in (0, 2):
        assert torch.equal(y[0, plane], plain[0, plane])
        assert mean[0, plane] == plain_mean[0, plane]
        assert std[0, plane] == plain_std[0, plane]
    if special == 1e30:
        assert std[0, 1] == math.inf
        assert torch.equal(y[0, 1], case.shift[0, 1].expand(4, 5))
    else:
        assert y[0, 1].isnan().all()
        assert std[0, 1].isnan()


def test_offsets_in_64_bits(small_blocks, monkeypatch):
    """The code for samples of more than 2^31 elements, run on small ones, gives the same bits."""
    case = make_case((1, 2, 6, 5), torch.float32, layout="slices")

    def results() -> list[torch.Tensor]:
        y, mean, std = forward("triton", case)
        return [y, mean, std, *backward("triton", case, mean, std).values()]

    narrow = results()
    monkeypatch.setattr("sivae.ops.triton.image_tiles._INT32_LIMIT", 0)
    assert all(torch.equal(w, n) for w, n in zip(results(), narrow, strict=True))


@pytest.mark.parametrize("shape", [(0, 3, 4, 5), (2, 0, 4, 5), (2, 3, 0, 5)], ids=str)
def test_empty(shape):
    """Gradients of parameters are 0; statistics of no pixels are NaN."""
    b, c, h, w = shape
    x, styles = torch.zeros(shape), torch.zeros(b, c)
    operands = x, torch.zeros(b, 1, h, w), torch.zeros(c), torch.zeros(c), styles
    y, mean, std = backend_op("triton", "styled_instance_norm")(*operands, styles, SLOPE, EPS)
    assert y.shape == shape
    assert mean.shape == std.shape == (b, c)
    assert mean.isnan().all()
    gradients = backend_op("triton", "styled_instance_norm_backward")(
        x, mean, std, *operands, mean, std, SLOPE, EPS, True, True, True, True, True
    )
    for gradient, operand in zip(gradients, (x, *operands[2:], styles), strict=True):
        assert torch.equal(gradient, torch.zeros_like(operand))
