"""Test group norm with an activation on every backend of the CPU: values, gradients, layouts, bits and errors.

`group_norm_parity` derives the bounds of errors against float64; other tests are exact or state their bound.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.nn import functional as F

from sivae import ops
from tests.ops.group_norm_parity import ACTIVATIONS, LAYOUTS, Case, assert_group_norm, make_case, results
from tests.ops.test_gradients import needs_of

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
# One pixel; rows that are shorter than a register, or no multiple of it; a group of one channel and of all; planes of
# one block and of several, with a rest.
SHAPES = [
    *(((3, 20, 1, 1), 5), ((2, 6, 5, 3), 3), ((2, 32, 4, 4), 32), ((2, 33, 8, 8), 1), ((1, 40, 37, 29), 2)),
    ((1, 2, 200, 200), 1),
]


class TestParity:
    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    @pytest.mark.parametrize("layout", ["contiguous", "channels last"])
    @pytest.mark.parametrize(("shape", "groups"), SHAPES, ids=str)
    def test_shapes(self, compiled_backend, shape, groups, layout, dtype):
        assert_group_norm(compiled_backend, make_case(shape, groups, dtype, layout=layout))

    @pytest.mark.parametrize("layout", LAYOUTS)
    @pytest.mark.parametrize("grad_layout", LAYOUTS)
    def test_layouts(self, compiled_backend, layout, grad_layout):
        """Views too; the gradient may come in another layout."""
        case = make_case((2, 12, 5, 7), 3, layout=layout, grad_layout=grad_layout)
        assert_group_norm(compiled_backend, case)

    @pytest.mark.parametrize("activation", ACTIVATIONS)
    @pytest.mark.parametrize("affine", [True, False])
    @pytest.mark.parametrize("layout", ["contiguous", "channels last"])
    def test_activations(self, compiled_backend, layout, affine, activation):
        assert_group_norm(
            compiled_backend, make_case((2, 8, 5, 7), 2, layout=layout, activation=activation, affine=affine)
        )

    @pytest.mark.parametrize("shape", [(5, 12), (2, 12, 7), (2, 12, 2, 3, 5), (2, 12, 1, 3, 1)], ids=str)
    def test_any_dimensions_after_the_channels(self, compiled_backend, shape):
        assert_group_norm(compiled_backend, make_case(shape, 4))

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
    def test_parameters_in_float32(self, compiled_backend, dtype):
        """As under autocast."""
        assert_group_norm(compiled_backend, make_case((2, 8, 9, 9), 2, dtype, parameters=torch.float32))

    @pytest.mark.parametrize("layout", ["contiguous", "channels last"])
    @pytest.mark.parametrize("level", [1e4, -300.0])
    def test_groups_far_from_zero(self, compiled_backend, level, layout):
        assert_group_norm(compiled_backend, make_case((2, 8, 33, 35), 2, layout=layout, level=level))


def test_is_what_torch_composes(backend):
    """float64; 1e-12 is a few thousand roundings of numbers of order 1."""
    case = make_case((2, 6, 8, 9), 3, torch.float64)
    normal = F.group_norm(case.x, 3, case.weight, case.bias)
    for activation, function in (
        ("silu", F.silu),
        ("leaky_relu", lambda v: F.leaky_relu(v, 0.1)),
        ("none", Tensor.clone),
    ):
        y = ops.group_norm_silu(
            case.x, 3, case.weight, case.bias, activation=activation, negative_slope=0.1, backend=backend
        )
        assert (y - function(normal)).abs().max() <= 1e-12


def test_one_parameter_alone(backend):
    """The other is 1 or 0."""
    case = make_case((2, 6, 4, 4), 3, torch.float64)
    one, zero = torch.ones(6, dtype=torch.float64), torch.zeros(6, dtype=torch.float64)
    for weight, bias in ((case.weight, None), (None, case.bias)):
        y = ops.group_norm_silu(case.x, 3, weight, bias, backend=backend)
        full = (one if weight is None else weight, zero if bias is None else bias)
        assert torch.equal(y, ops.group_norm_silu(case.x, 3, *full, backend=backend))


class TestSpecialValues:
    @pytest.mark.parametrize("layout", ["contiguous", "channels last"])
    @pytest.mark.parametrize("value", [0.0, 0.1, -3.3, 1e4 / 3])
    def test_a_constant_group_gives_its_bias(self, backend, value, layout):
        case = make_case((2, 8, 5, 7), 2, layout=layout, activation="none")
        x = torch.full_like(case.x, value).requires_grad_()
        y = case.call(backend, x, case.weight, case.bias)
        assert torch.equal(y, case.bias[:, None, None].expand_as(y))
        assert torch.autograd.grad(y, x, case.grad_y)[0].isfinite().all()

    @pytest.mark.parametrize("eps", [1e-45, 1e-60, 5e-324])
    def test_an_eps_that_the_dtype_cannot_hold(self, backend, eps):
        """1 / sqrt(eps) would be infinite, and 0 times it NaN."""
        x = torch.full((1, 4, 5, 5), 0.3, requires_grad=True)
        y = ops.group_norm_silu(x, 2, eps=eps, backend=backend)
        assert not y.any()
        assert not torch.autograd.grad(y.sum(), x)[0].isnan().any()

    @pytest.mark.parametrize("layout", ["contiguous", "channels last"])
    @pytest.mark.parametrize("special", [math.nan, math.inf])
    def test_what_is_not_finite_stays_in_its_group(self, backend, special, layout):
        case = make_case((2, 6, 5, 3), 3, layout=layout)
        clean = results(backend, case)
        case.x[1, 3, 1, 1] = special
        for got, before in zip(results(backend, case)[:2], clean[:2], strict=True):
            assert got[1, 2:4].isnan().all()
            got[1, 2:4] = before[1, 2:4]
            assert torch.equal(got, before)

    @pytest.mark.parametrize("layout", ["contiguous", "channels last"])
    def test_a_variance_that_overflows_is_no_constant_group(self, backend, layout):
        case = make_case((2, 8, 6, 6), 2, layout=layout, activation="none")
        x = (case.x * torch.tensor([1.0, 1e20]).view(2, 1, 1, 1)).requires_grad_()
        y = case.call(backend, x, case.weight, case.bias)
        right = case.call("reference", *(given.detach().double() for given in (x, case.weight, case.bias)))
        # Where sums are merged in float64 before they overflow, the result is right; 1e-4 is beyond any rounding of it.
        assert y[0].isfinite().all() and (y[1].isnan().all() or (y[1] - right[1]).abs().max() < 1e-4)
        assert torch.autograd.grad(y[0].sum(), x)[0][0].isfinite().all()

    def test_silu_far_from_zero(self, backend):
        """No product of 0 and infinity: y is v where v is large, and 0 where -v is."""
        bias = torch.tensor([200.0, -200.0, 3e38, -3e38])
        x = torch.randn(1, 4, 3, 3).requires_grad_()
        y = ops.group_norm_silu(x, 4, torch.full((4,), 0.0), bias, backend=backend)
        assert torch.equal(y[0, :, 0, 0], bias.clamp(min=0.0))
        assert torch.autograd.grad(y.sum(), x)[0].isfinite().all()

    @pytest.mark.parametrize("shape", [(0, 4, 3, 3), (2, 4, 0, 3), (0, 4)], ids=str)
    def test_nothing(self, backend, shape):
        x, weight, bias = torch.randn(shape).requires_grad_(), *torch.ones(2, 4, requires_grad=True)
        y = ops.group_norm_silu(x, 2, weight, bias, backend=backend)
        gradients = torch.autograd.grad(y.sum(), (x, weight, bias))
        assert y.shape == gradients[0].shape == shape
        assert not any(gradient.any() for gradient in gradients[1:])


def leaf(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, requires_grad=True)


class TestGradients:
    """gradcheck's own bounds, as in test_gradients.py."""

    @pytest.mark.parametrize("channels_last", [False, True])
    def test_of_everything(self, backend, channels_last):
        def call(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
            x = x.contiguous(memory_format=torch.channels_last) if channels_last else x
            return ops.group_norm_silu(x, 2, weight, bias, backend=backend)

        assert gradcheck(call, (leaf(2, 4, 3, 3), leaf(4), leaf(4)))

    @pytest.mark.parametrize("activation", ["silu", "none"])
    def test_twice(self, backend, activation):
        def call(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
            return ops.group_norm_silu(x, 2, weight, bias, eps=1e-3, activation=activation, backend=backend)

        assert gradgradcheck(call, (leaf(2, 4, 2, 2), leaf(4), leaf(4)))

    @pytest.mark.parametrize("wanted", ["x", "weight", "bias"])
    def test_only_what_is_needed(self, compiled_backend, wanted):
        case = make_case((2, 6, 4, 4), 3)
        operands = {"x": case.x.clone(), "weight": case.weight.clone(), "bias": case.bias.clone()}
        target = operands[wanted].requires_grad_()
        loss = case.call(compiled_backend, **operands).square().sum()
        assert needs_of(loss) == [{name: name == wanted for name in operands}]
        assert target.grad.shape == target.shape


class TestBits:
    @pytest.mark.usefixtures("restore_threads")
    @pytest.mark.parametrize("layout", ["contiguous", "channels last"])
    @pytest.mark.parametrize(("shape", "groups"), [((1, 8, 200, 210), 1), ((3, 64, 16, 16), 4)], ids=str)
    def test_any_number_of_threads(self, compiled_backend, shape, groups, layout):
        case = make_case(shape, groups, layout=layout)
        found = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(results(compiled_backend, case))
        for other in found[1:]:
            assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))

    def test_every_time(self, compiled_backend):
        case = make_case((2, 8, 16, 16), 2)
        first, second = results(compiled_backend, case), results(compiled_backend, case)
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


X = torch.zeros(2, 6, 4, 5)
FLOATING = "expected float64, float32, bfloat16 or float16"


def refusals() -> dict[str, tuple[type[Exception], str, Callable[[], object]]]:
    op = ops.group_norm_silu
    return {
        "x's type": (TypeError, "x is list, expected a torch.Tensor", lambda: op([1.0], 1)),
        "x's dtype": (TypeError, f"x has dtype torch.int64, {FLOATING}", lambda: op(X.long(), 1)),
        "x's dimensions": (
            ValueError, "x has shape [2], expected [B, C, ...] with channels", lambda: op(X[:, 0, 0, 0], 1)
        ),
        "no channels": (
            ValueError, "x has shape [2, 0, 4, 5], expected [B, C, ...] with channels", lambda: op(X[:, :0], 1)
        ),
        "groups": (ValueError, "num_groups is 4, expected a divisor of the 6 channels of x", lambda: op(X, 4)),
        "no groups": (ValueError, "num_groups is 0, expected a divisor of the 6 channels of x", lambda: op(X, 0)),
        "groups' type": (TypeError, "num_groups is float, expected an int", lambda: op(X, 2.0)),
        "weight's shape": (ValueError, "weight has shape [3], expected [6]", lambda: op(X, 2, X[0, :3, 0, 0])),
        "bias's type": (TypeError, "bias is float, expected a torch.Tensor or None", lambda: op(X, 2, None, 1.0)),
        "bias's dtype": (TypeError, f"bias has dtype torch.int64, {FLOATING}", lambda: op(X, 2, None, torch.arange(6))),
        "bias's device": (
            ValueError, "bias is on meta, expected cpu as x", lambda: op(X, 2, None, torch.zeros(6, device="meta"))
        ),
        "eps": (ValueError, "eps is 0.0, expected a finite number above 0", lambda: op(X, 2, eps=0.0)),
        "slope": (
            ValueError, "negative_slope is inf, expected a finite number", lambda: op(X, 2, negative_slope=math.inf)
        ),
        "activation": (
            ValueError,
            "activation is 'relu', expected one of 'none', 'leaky_relu', 'silu'",
            lambda: op(X, 2, activation="relu"),
        ),
    }  # fmt: skip


@pytest.mark.parametrize("what", refusals())
def test_refuses(what):
    error, message, call = refusals()[what]
    with pytest.raises(error) as caught:
        call()
    assert caught.type is error
    assert str(caught.value) == f"group_norm_silu: {message}"


def test_the_default_is_silu_with_the_eps_of_torch(backend):
    case = make_case((2, 6, 4, 4), 3, torch.float64)
    assert case == Case(case.x, 3, case.weight, case.bias, case.grad_y, "silu", 1e-5)
    default = ops.group_norm_silu(case.x, 3, case.weight, case.bias, backend=backend)
    assert torch.equal(default, case.call(backend, case.x, case.weight, case.bias))
