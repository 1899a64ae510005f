"""Test the native batch norm with leaky ReLU against float64, and its registration. The models' use of it: test_norm.

Bounds are multiples of u, half of the spacing of numbers around 1 in the arithmetic's type. In the type of the images
another rounding of results is added.
"""

from __future__ import annotations

import itertools
import math
import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import gradcheck, gradgradcheck
from torch.nn import functional as F

from sivae import ops
from sivae.ops import batch_norm

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
SLOPE, EPS = 0.2, 1e-5
# A pixel each; channels that fill no register, one, some, and some and a part; rows that fill no block, one, some and
# a part, and more than a segment.
SHAPES = [(2, 3, 1, 1), (3, 1, 4, 4), (4, 16, 4, 4), (2, 37, 5, 7), (2, 130, 8, 9), (3, 64, 20, 20)]

pytestmark = pytest.mark.skipif(
    "native" not in ops.available_backends(), reason="the native backend, which alone has this op, is not built"
)


def images(shape: tuple[int, ...], dtype: torch.dtype = torch.float32, mean: float = 0.0) -> Tensor:
    values = torch.randn(shape, dtype=torch.float64) + mean
    return values.to(dtype).contiguous(memory_format=torch.channels_last)


def operands(shape: tuple[int, ...], dtype: torch.dtype, *, residual: bool, mean: float = 0.0) -> list[Tensor]:
    parameters = torch.float64 if dtype is torch.float64 else torch.float32  # as under autocast
    weight, bias = (torch.randn(shape[1], dtype=parameters) for _ in range(2))
    x = images(shape, dtype, mean)
    return [tensor.requires_grad_() for tensor in (x, weight, bias, *([images(shape, dtype)] if residual else []))]


def call(x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    return batch_norm.batch_norm_leaky_relu(x, weight, bias, residual=residual, negative_slope=SLOPE, eps=EPS)


def exact(x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    return batch_norm.reference(x, residual, weight, bias, SLOPE, EPS)


def assert_within(result: Tensor, expected: Tensor, bound: Tensor | float, dtype: torch.dtype) -> None:
    """`bound` is for the arithmetic; the result is also rounded to the dtype."""
    rounding = torch.finfo(dtype).eps / 2 * expected.abs() + torch.finfo(dtype).smallest_normal
    excess = (result.double() - expected).abs() - (bound + rounding)
    assert excess.max() <= 0, f"{excess.max()} beyond the bound"


@pytest.mark.parametrize("residual", [False, True], ids=["alone", "with a residual"])
@pytest.mark.parametrize(
    ("dtype", "mean"),
    # Farther from 0 the numbers themselves are too coarse, and in float64 the exact values are no more exact.
    [*((dtype, 0.0) for dtype in DTYPES), (torch.float32, 1e4), (torch.bfloat16, 4.0), (torch.float16, 4.0)],
    ids=str,
)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_within_bounds_of_float64(shape, dtype, mean, residual):
    given = operands(shape, dtype, residual=residual, mean=mean)
    y, of_mean, variance = call(*given)
    exactly = [tensor.detach().double().requires_grad_() for tensor in given]
    expected, expected_mean, expected_variance = exact(*exactly)
    u = torch.finfo(torch.promote_types(dtype, torch.float32)).eps / 2
    count = math.prod(shape) / shape[1]

    # Sums of at most 64 deviations in u, about a value within the spread of x: the largest of n normal numbers is
    # below 6 deviations from their mean. Two roundings of each deviation and one of each addition.
    spread = 6 * expected_variance.sqrt()
    assert_within(of_mean, expected_mean, 66 * u * spread + 2.0**-50 * abs(mean), torch.float64)
    assert_within(variance, expected_variance, 2 * 66 * u * spread**2, torch.float64)
    inverse = (expected_variance + EPS).rsqrt()
    # x - mean is exact to u of x's distance from the rounded mean, which is u of the mean away: the constant makes up
    # for that to a rounding. The factor has half the relative error of the variance.
    per_channel = (given[1].detach().double().abs() * inverse).view(1, -1, 1, 1)
    size = per_channel * spread.view(1, -1, 1, 1) + given[2].detach().double().abs().view(1, -1, 1, 1)
    size = size + (given[3].detach().double().abs() if residual else 0.0)
    size = size + per_channel * u * abs(mean)
    relative = 66 * u * (spread**2 * inverse**2).view(1, -1, 1, 1) + 8 * u
    assert_within(y, expected, relative * size, dtype)

    # Where v is closer to 0 than its error, the leaky ReLU's slope may be the other one: those pixels are left out by
    # a gradient of 0 there.
    unclear = expected.abs() <= 4 * relative * size + torch.finfo(dtype).smallest_normal
    grad = images(shape, dtype).masked_fill(unclear, 0.0)
    got = torch.autograd.grad(y, given, grad)
    wanted = torch.autograd.grad(expected, exactly, grad.double())
    sums = grad.double().abs().sum((0, 2, 3)) / count
    of_sums = (70 * u + 66 * u * spread**2 * inverse**2) * sums * (1 + spread * inverse) ** 2
    bound = (given[1].detach().double().abs() * inverse * (of_sums + u * abs(mean) * inverse * sums)).view(1, -1, 1, 1)
    bound = bound + relative * per_channel * grad.double().abs() * 2
    assert_within(got[0], wanted[0], bound, dtype)
    assert_within(got[1], wanted[1], count * (of_sums + u * abs(mean) * inverse * sums), got[1].dtype)
    assert_within(got[2], wanted[2], count * 70 * u * sums, got[2].dtype)
    if residual:
        assert_within(got[3], wanted[3], 2 * u * grad.double().abs(), dtype)


@pytest.mark.parametrize("residual", [False, True])
def test_the_reference_is_what_torch_composes(residual):
    """float64; 1e-12 is a few thousand roundings of numbers of order 1."""
    x, weight, bias, *rest = operands((4, 5, 6, 7), torch.float64, residual=residual)
    y, mean, variance = exact(x, weight, bias, *rest)
    v = F.batch_norm(x, None, None, weight, bias, training=True, eps=EPS) + (rest[0] if rest else 0.0)
    assert (y - F.leaky_relu(v, SLOPE)).abs().max() <= 1e-12
    assert (mean - x.mean((0, 2, 3))).abs().max() <= 1e-12
    assert (variance - x.var((0, 2, 3), correction=0)).abs().max() <= 1e-12


@pytest.mark.parametrize("residual", [False, True])
def test_gradients_are_those_of_finite_differences(residual):
    given = operands((3, 5, 2, 3), torch.float64, residual=residual)
    assert gradcheck(lambda *tensors: call(*tensors)[0], given)
    assert gradgradcheck(lambda *tensors: exact(*tensors)[0], given)
    assert gradgradcheck(lambda *tensors: call(*tensors)[0], given)


@pytest.mark.parametrize("residual", [False, True])
def test_only_the_gradients_asked_for(residual):
    """The same bits, whichever of them are needed."""
    given = [tensor.detach() for tensor in operands((2, 37, 5, 7), torch.float32, residual=residual)]
    grad = images((2, 37, 5, 7))

    def gradients(needed: tuple[bool, ...]) -> list[Tensor | None]:
        tensors = [tensor.clone().requires_grad_(needs) for tensor, needs in zip(given, needed, strict=True)]
        call(*tensors)[0].backward(grad)
        return [tensor.grad for tensor in tensors]

    whole = gradients((True,) * len(given))
    for needed in itertools.product([False, True], repeat=len(given)):
        if any(needed):
            for needs, gradient, expected in zip(needed, gradients(needed), whole, strict=True):
                assert torch.equal(gradient, expected) if needs else gradient is None


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gradients_that_record_a_graph(dtype, residual):
    """They are the same to the roundings of sums of 60 numbers of order 10, in the same dtypes."""
    given = operands((3, 5, 4, 5), dtype, residual=residual, mean=4.0)
    y = call(*given)[0]
    grad = images((3, 5, 4, 5), dtype).requires_grad_()
    plain = torch.autograd.grad(y, given, grad, retain_graph=True)
    recorded = torch.autograd.grad(y, given, grad, create_graph=True)
    u = torch.finfo(torch.promote_types(dtype, torch.float32)).eps
    for one, other in zip(plain, recorded, strict=True):
        assert one.dtype == other.dtype and other.requires_grad and not one.requires_grad
        bound = 600 * u + torch.finfo(one.dtype).eps * one.abs()
        assert ((one.double() - other.double()).abs() <= bound).all()


class TestUnusualValues:
    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_a_constant_channel_is_the_bias(self, dtype):
        x = torch.full((4, 3, 5, 5), 3.0).to(dtype).contiguous(memory_format=torch.channels_last).requires_grad_()
        weight, bias = torch.ones(3), torch.tensor([1.0, -1.0, 0.0])
        y, mean, variance = call(x, weight, bias)
        expected = F.leaky_relu(bias.to(torch.promote_types(dtype, torch.float32)), SLOPE).to(dtype)
        assert torch.equal(y, expected.view(1, 3, 1, 1).expand_as(y))
        assert torch.equal(mean, torch.full((3,), 3.0).double()) and not variance.any()
        (gradient,) = torch.autograd.grad(y.sum(), x)
        # Factors of 1 / sqrt(eps) = 316, times what is left of a sum of 100 ones divided by 100.
        assert gradient.abs().max() <= 317 * torch.finfo(torch.float32).eps

    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_what_is_not_finite_reaches_its_channel_alone(self, dtype, value):
        x, weight, bias = operands((2, 20, 5, 5), dtype, residual=False)
        with torch.no_grad():
            clean = call(x, weight, bias)[0]
            x[1, 7, 2, 3] = value
        y, _, variance = call(x, weight, bias)
        gradient = torch.autograd.grad(y.sum(), x)[0]
        others = [channel for channel in range(20) if channel != 7]
        assert y[:, 7].isnan().all() and gradient[:, 7].isnan().all() and variance[7].isnan()
        assert torch.equal(y[:, others], clean[:, others]) and gradient[:, others].isfinite().all()

    def test_a_nan_of_the_residual_reaches_its_pixel_alone(self):
        x, weight, bias, residual = (t.detach() for t in operands((2, 5, 4, 4), torch.bfloat16, residual=True))
        residual[0, 2, 1, 1] = math.nan
        y = call(x, weight, bias, residual)[0]
        assert y.isnan().sum() == 1 and y[0, 2, 1, 1].isnan()

    @pytest.mark.parametrize("slope", [0.0, 1.0])
    def test_other_slopes(self, slope):
        given = operands((2, 5, 4, 4), torch.float64, residual=True)
        results = [
            batch_norm.batch_norm_leaky_relu(*given[:3], residual=given[3], negative_slope=slope, eps=EPS)[0],
            batch_norm.reference(given[0], given[3], *given[1:3], slope, EPS)[0],
        ]
        grad = images((2, 5, 4, 4), torch.float64)
        one, other = ([result, *torch.autograd.grad(result, given, grad)] for result in results)
        for a, b in zip(one, other, strict=True):
            assert (a - b).abs().max() <= 1e-12  # thousands of roundings of numbers of order 1


def test_a_gradient_in_any_layout():
    x, weight, bias = operands((2, 5, 4, 6), torch.float32, residual=False)
    grad = images((2, 5, 4, 6))
    expected = torch.autograd.grad(call(x, weight, bias)[0], (x, weight, bias), grad)
    for same in (grad.contiguous(), torch.stack([grad, grad], -1)[..., 0]):
        for one, other in zip(
            torch.autograd.grad(call(x, weight, bias)[0], (x, weight, bias), same), expected, strict=True
        ):
            assert torch.equal(one, other)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_same_bits_with_any_number_of_threads(dtype, restore_threads):
    given = operands((40, 64, 16, 16), dtype, residual=True)
    grad = images((40, 64, 16, 16), dtype)

    def results(threads: int) -> list[Tensor]:
        torch.set_num_threads(threads)
        y, mean, variance = call(*given)
        return [y, mean, variance, *torch.autograd.grad(y, given, grad)]

    alone = results(1)
    for threads in (2, 3, 4):
        assert all(torch.equal(one, other) for one, other in zip(results(threads), alone, strict=True))


_ON_AN_ISA = """
import sys
import torch
from sivae import _C
from sivae.ops import batch_norm

assert _C.cpu_isa() == sys.argv[1], _C.cpu_isa()
torch.manual_seed(0)
for dtype, bound in ((torch.float32, 1e-5), (torch.bfloat16, 2**-7), (torch.float16, 2**-10)):
    x, residual, grad = (
        torch.randn(2, 37, 5, 7).to(dtype).contiguous(memory_format=torch.channels_last) for _ in range(3)
    )
    weight, bias = torch.randn(37).requires_grad_(), torch.randn(37).requires_grad_()
    for added in (None, residual):
        of_isa = batch_norm.batch_norm_leaky_relu(x, weight, bias, residual=added, negative_slope=0.2, eps=1e-5)
        exact = batch_norm.reference(x.double(), None if added is None else added.double(), weight, bias, 0.2, 1e-5)
        grad = torch.where(exact[0].abs() < 1e-4, 0.0, grad).to(dtype)
        results = [*of_isa, *torch.autograd.grad(of_isa[0], (weight, bias), grad)]
        expected = [*exact, *torch.autograd.grad(exact[0], (weight, bias), grad.double())]
        for result, value in zip(results, expected):
            worst = ((result.double() - value).abs() / (1 + value.abs())).max()
            assert worst <= bound, (dtype, worst)
"""


@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
def test_every_instruction_set(isa):
    """Bounds: 1e-5 is 168 roundings of float32, more than a sum of 70 has; 2^-7 and 2^-10 two of the halves'."""
    try:
        subprocess.run(
            [sys.executable, "-c", _ON_AN_ISA, isa],
            env={**os.environ, "SIVAE_CPU_ISA": isa},
            check=True,
            capture_output=True,
            text=True,
        )
    except subprocess.CalledProcessError as error:
        if "on a processor that has them" in error.stderr:
            pytest.skip(f"this processor has no {isa}")
        pytest.fail(error.stderr)


class TestRegistration:
    @pytest.mark.parametrize("residual", [False, True])
    def test_opcheck(self, residual):
        x, weight, bias, *rest = operands((2, 5, 4, 4), torch.float32, residual=residual)
        op = torch.ops.sivae_native.batch_norm_leaky_relu.default
        results = torch.library.opcheck(op, (x, rest[0] if rest else None, weight, bias, SLOPE, EPS))
        assert set(results.values()) == {"SUCCESS"}

    @pytest.mark.parametrize("needed", list(itertools.product([False, True], repeat=4)), ids=str)
    def test_fake_kernels_of_the_gradients(self, needed):
        x, weight, bias, residual = (t.detach() for t in operands((2, 5, 4, 4), torch.bfloat16, residual=True))
        y, mean, variance = call(x, weight, bias, residual)
        op = torch.ops.sivae_native.batch_norm_leaky_relu_backward.default
        arguments = (y, x, y, weight, bias, mean, variance, SLOPE, EPS, *needed)
        real = op(*arguments)
        with FakeTensorMode() as mode:
            fake = op(*(mode.from_tensor(value) if isinstance(value, Tensor) else value for value in arguments))
        for one, other in zip(real, fake, strict=True):
            assert (one.shape, one.dtype, one.stride()) == (other.shape, other.dtype, other.stride())

    @pytest.mark.parametrize("change", ["x", "residual", "weight", "dtype", "empty"])
    def test_direct_calls_never_read_outside_an_operand(self, change):
        x, weight, bias, residual = (t.detach() for t in operands((2, 5, 4, 4), torch.float32, residual=True))
        wrong = {
            "x": (x[0], None, weight, bias),
            "residual": (x, residual[:1], weight, bias),
            "weight": (x, None, weight[:4], bias),
            "dtype": (x, residual.double(), weight, bias),
            "empty": (x[:0], None, weight, bias),
        }[change]
        with pytest.raises((TypeError, ValueError), match="sivae: "):
            torch.ops.sivae_native.batch_norm_leaky_relu.default(*wrong, SLOPE, EPS)

    def test_transforms_of_torch_func(self):
        """float64; 1e-12 is a few thousand roundings of numbers of order 1."""
        given = operands((2, 3, 4, 4), torch.float64, residual=False)
        expected = torch.autograd.grad(call(*given)[0].square().sum(), given)
        detached = [tensor.detach() for tensor in given]
        got = torch.func.grad(lambda *tensors: call(*tensors)[0].square().sum(), argnums=(0, 1, 2))(*detached)
        for one, other in zip(got, expected, strict=True):
            assert (one - other).abs().max() <= 1e-12

    def test_several_gradients_at_once(self):
        given = operands((2, 3, 4, 4), torch.float32, residual=True)
        y = call(*given)[0]
        grads = torch.stack([images(tuple(y.shape)) for _ in range(3)])
        at_once = torch.autograd.grad(y, given, grads, is_grads_batched=True, retain_graph=True)
        for k, grad in enumerate(grads):
            for one, other in zip(at_once, torch.autograd.grad(y, given, grad, retain_graph=True), strict=True):
                assert torch.equal(one[k], other)
