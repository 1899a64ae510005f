"""Test the styled instance norm on every backend of the CPU: values, gradients, layouts and bits.

`styled_norm_parity` derives the bounds of errors against float64; other tests are exact or state their bound.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.nn import functional as F

from sivae import ops
from sivae.ops import library
from tests.ops.styled_norm_parity import LAYOUTS, assert_styled_norm, backward, forward, make_case, needs, subsets
from tests.ops.test_gradients import needs_of

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
U = 2.0**-24
# One pixel; fewer pixels than lanes of a sum; small planes that are grouped, and the smallest that are not; a block and
# one pixel more; groups of channels that are not full. The last ones matter in channels last: more pixels than are kept
# for a second read, and rows of several cache lines.
SHAPES = [
    *((3, 20, 1, 1), (2, 3, 5, 3), (2, 17, 4, 4), (2, 33, 8, 8), (2, 3, 5, 13), (1, 18, 16, 32), (2, 3, 27, 19)),
    *((1, 35, 25, 24), (1, 18, 36, 32), (2, 64, 33, 32)),
]


class TestParity:
    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    @pytest.mark.parametrize("layout", LAYOUTS)
    @pytest.mark.parametrize("shape", SHAPES, ids=str)
    def test_everything_given(self, compiled_backend, shape, layout, dtype):
        assert_styled_norm(compiled_backend, make_case(shape, dtype, layout=layout))

    @pytest.mark.parametrize("layout", ["contiguous", "channels last"])
    @pytest.mark.parametrize("shape", [(2, 3, 4, 4), (2, 3, 27, 19)], ids=str)
    def test_some_things_left_out(self, compiled_backend, shape, layout):
        for case in subsets(make_case(shape, torch.float32, layout=layout)):
            assert_styled_norm(compiled_backend, case)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
    def test_parameters_in_float32(self, compiled_backend, dtype):
        """As under autocast."""
        assert_styled_norm(compiled_backend, make_case((2, 5, 9, 9), dtype, parameters=torch.float32))

    @pytest.mark.parametrize("layout", LAYOUTS)
    @pytest.mark.parametrize("grad_layout", LAYOUTS)
    def test_gradients_in_another_layout(self, compiled_backend, layout, grad_layout):
        shape = (2, 3, 9, 9)
        assert_styled_norm(compiled_backend, make_case(shape, torch.float32, layout=layout, grad_layout=grad_layout))

    def test_one_map_of_noise_for_the_batch(self, compiled_backend):
        assert_styled_norm(compiled_backend, make_case((3, 5, 9, 9), torch.float32, shared_noise=True))

    def test_only_the_gradients_asked_for(self, compiled_backend):
        case = make_case((2, 3, 9, 9), torch.float32)
        _, mean, std = forward(compiled_backend, case)
        whole = backward(compiled_backend, case, mean, std)
        for needed in needs():
            for name, gradient in backward(compiled_backend, case, mean, std, needed).items():
                assert torch.equal(gradient, whole[name]), name


def test_is_what_torch_composes(backend):
    """float64; 1e-12 is a few thousand roundings of numbers of order 1."""
    case = make_case((2, 5, 8, 9), torch.float64)
    x, noise, weight, bias, scale, shift = case.operands()
    u = F.leaky_relu(x + noise * weight[:, None, None] + bias[:, None, None], 0.2)
    expected = F.instance_norm(u, eps=1e-8) * (1 + scale[:, :, None, None]) + shift[:, :, None, None]
    y, mean, std = ops.styled_instance_norm(
        x, noise=noise, noise_weight=weight, bias=bias, scale=scale, shift=shift, statistics=True, backend=backend
    )
    assert (y - expected).abs().max() <= 1e-12
    assert (mean - u.mean((2, 3))).abs().max() <= 1e-12
    assert (std - u.std((2, 3), correction=0)).abs().max() <= 1e-12


class TestConstantPlanes:
    """They occur at the first step of a network: no result is infinite, and rounding errors are not amplified."""

    @pytest.mark.parametrize("layout", ["contiguous", "channels last"])
    @pytest.mark.parametrize("value", [0.0, 0.1, -3.3, 1e4 / 3])
    @pytest.mark.parametrize("shape", [(2, 3, 1, 1), (2, 3, 4, 4), (2, 3, 37, 29)], ids=str)
    def test_give_their_shift(self, backend, shape, value, layout):
        x = torch.full(shape, value)
        if layout == "channels last":
            x = x.contiguous(memory_format=torch.channels_last)
        x.requires_grad_()
        bias = torch.tensor([0.1, -0.7, 0.3], requires_grad=True)
        scale, shift = (torch.randn(2, 3, requires_grad=True) for _ in range(2))
        y, mean, std = ops.styled_instance_norm(
            x, bias=bias, scale=scale, shift=shift, statistics=True, backend=backend
        )
        assert torch.equal(y, shift[:, :, None, None].expand_as(y))
        assert not std.any()
        u = F.leaky_relu(x.detach() + bias.detach()[:, None, None], 0.2)
        assert torch.equal(mean, u[:, :, 0, 0])
        gradients = torch.autograd.grad(
            (y, mean, std), (x, bias, scale, shift), (torch.randn(shape), torch.randn(2, 3), torch.randn(2, 3))
        )
        assert all(gradient.isfinite().all() for gradient in gradients)
        assert not gradients[2].any()

    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    @pytest.mark.parametrize("eps", [1e-45, 1e-60, 5e-324])
    @pytest.mark.parametrize("shape", [(1, 2, 5, 5), (1, 2, 37, 29)], ids=str)
    def test_an_eps_that_the_dtype_cannot_hold(self, backend, shape, eps, dtype):
        """1 / sqrt(eps) would be infinite, and 0 times it NaN: the smallest normal number takes eps's place."""
        x = torch.full(shape, 0.3, dtype=dtype, requires_grad=True)
        y = ops.styled_instance_norm(x, eps=eps, backend=backend)
        assert not y.any()
        assert not torch.autograd.grad(y.sum(), x)[0].isnan().any()

    def test_the_deviation_passes_nothing_on(self, backend):
        x = torch.full((1, 2, 5, 5), 0.3, requires_grad=True)
        std = ops.styled_instance_norm(x, statistics=True, backend=backend)[2]
        assert not torch.autograd.grad(std.sum(), x)[0].any()


@pytest.mark.parametrize("shape", [(2, 3, 7, 9), (2, 3, 128, 130)], ids=str)
@pytest.mark.parametrize("level", [1e4, -1e4])
def test_planes_far_from_zero_keep_their_digits(backend, shape, level):
    """Pixels differ from their mean by amounts that are exact in float32 except for the rounding of the mean, which has
    to be corrected: else each errs by 2^-11 of the deviation. With the correction a sum in lanes of 32 terms and a tree
    of them, halved by the root, errs by 20 u, and the rest by 4 u; doubled."""
    x = level + torch.randn(shape)
    y, mean, std = ops.styled_instance_norm(x, negative_slope=0.25, statistics=True, backend=backend)
    u = torch.where(x > 0, x.double(), x.double() * 0.25)
    deviation, exact = torch.std_mean(u, (2, 3), correction=0)
    normalised = (u - exact[:, :, None, None]) / deviation[:, :, None, None]
    assert ((std - deviation).abs() <= 48 * U * deviation).all()
    assert ((mean - exact).abs() <= U * exact.abs() + 48 * U * deviation).all()
    assert ((y - normalised).abs() <= 48 * U * (1 + normalised.abs())).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("special", [math.nan, math.inf])
@pytest.mark.parametrize("shape", [(2, 3, 4, 4), (2, 3, 9, 9)], ids=str)
def test_what_is_not_finite_stays_in_its_plane(backend, shape, special, dtype):
    x = torch.randn(shape).to(dtype)
    clean = ops.styled_instance_norm(x, statistics=True, backend=backend)
    x[1, 2, 1, 1] = special
    for got, before in zip(ops.styled_instance_norm(x, statistics=True, backend=backend), clean, strict=True):
        assert not got[1, 2].isfinite().any() or got.dim() == 2
        got[1, 2] = before[1, 2]
        assert torch.equal(got, before)
    assert ops.styled_instance_norm(x, statistics=True, backend=backend)[2][1, 2].isnan()


def leaf(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, requires_grad=True)


def clear_of_the_kink(*shape: int) -> Tensor:
    """|x| >= 0.5, so that a bias and noise of a tenth do not change the sign."""
    x = torch.randn(shape, dtype=torch.float64)
    return (x + 0.5 * torch.sign(x)).requires_grad_()


class TestGradients:
    """gradcheck's own bounds, as in test_gradients.py."""

    @pytest.mark.parametrize("shape", [(2, 3, 2, 2), (2, 2, 9, 8)], ids=str)
    @pytest.mark.parametrize("channels_last", [False, True])
    def test_of_everything(self, backend, shape, channels_last):
        noise = torch.randn(shape[0], 1, *shape[2:], dtype=torch.float64).clamp(-1, 1)

        def call(x: Tensor, weight: Tensor, bias: Tensor, style: Tensor) -> tuple[Tensor, ...]:
            if channels_last:
                x = x.contiguous(memory_format=torch.channels_last)
            scale, shift = style.chunk(2, 1)
            return ops.styled_instance_norm(
                x, noise=noise, noise_weight=0.1 * weight.tanh(), bias=0.1 * bias.tanh(), scale=scale, shift=shift,
                statistics=True, backend=backend,
            )  # fmt: skip

        channels = shape[1]
        inputs = clear_of_the_kink(*shape), leaf(channels), leaf(channels), leaf(shape[0], 2 * channels)
        assert gradcheck(call, inputs)

    @pytest.mark.parametrize("output", [0, 1, 2], ids=["y", "mean", "std"])
    @pytest.mark.parametrize("slope", [0.2, 1.0, -0.5])
    def test_of_each_output(self, backend, output, slope):
        def call(x: Tensor) -> Tensor:
            return ops.styled_instance_norm(x, negative_slope=slope, eps=1e-5, statistics=True, backend=backend)[output]

        assert gradcheck(call, (clear_of_the_kink(2, 2, 3, 3),))

    def test_twice_of_the_reference(self):
        def call(x: Tensor, bias: Tensor, style: Tensor) -> tuple[Tensor, ...]:
            scale, shift = style.chunk(2, 1)
            return ops.styled_instance_norm(
                x, bias=0.1 * bias.tanh(), scale=scale, shift=shift, eps=1e-3, statistics=True, backend="reference"
            )

        assert gradgradcheck(call, (clear_of_the_kink(2, 2, 3, 2), leaf(2), leaf(2, 4)))

    @pytest.mark.parametrize("wanted", ["x", "noise_weight", "bias", "scale", "shift"])
    @pytest.mark.parametrize("without", [(), ("noise", "noise_weight"), ("bias",)], ids=str)
    def test_only_what_is_needed(self, compiled_backend, wanted, without):
        """With any other operands, so that no gradient is confused with another."""
        if wanted in without:
            return
        case = make_case((2, 3, 4, 4), torch.float32)
        given = {name: getattr(case, name) for name in ("noise", "noise_weight", "bias", "scale", "shift")}
        given = {name: tensor.clone() for name, tensor in given.items() if name not in without}
        x = case.x.clone()
        target = (given | {"x": x})[wanted].requires_grad_()
        loss = ops.styled_instance_norm(x, **given, backend=compiled_backend).square().sum()
        names = ("x", "noise_weight", "bias", "scale", "shift")
        assert needs_of(loss) == [{name: name == wanted for name in names}]
        assert target.grad.shape == target.shape

    def test_an_output_that_is_not_used_sends_none(self, compiled_backend):
        x = torch.randn(2, 3, 4, 4, requires_grad=True)
        y, mean, _ = ops.styled_instance_norm(x, statistics=True, backend=compiled_backend)
        (alone,) = torch.autograd.grad(y.square().sum(), x, retain_graph=True)
        (both,) = torch.autograd.grad(y.square().sum() + 0.0 * mean.sum(), x)
        assert torch.equal(alone, both)


class TestBits:
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
    @pytest.mark.parametrize("shape", SHAPES, ids=str)
    def test_any_layout(self, shape, dtype):
        """The loops for planes and for groups of channels add the same sums in the same order."""
        if "native" not in ops.available_backends():
            pytest.skip(f"no native backend: {ops.backend_status()['native']['cpu']}")
        results = []
        for layout in ("contiguous", "channels last", "slices", "channels last slices", "transposed"):
            torch.manual_seed(3)
            case = make_case(shape, dtype, layout=layout)
            y, mean, std = forward("native", case)
            results.append([y, mean, std, *backward("native", case, mean, std).values()])
        for other in results[1:]:
            assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))

    @pytest.mark.usefixtures("restore_threads")
    @pytest.mark.parametrize("layout", ["contiguous", "channels last"])
    @pytest.mark.parametrize(
        ("shape", "dtype"),
        [
            *(((5, 37, 32, 33), torch.float32), ((64, 48, 4, 4), torch.float32)),
            # On one thread in wide groups of channels, on more in narrow ones.
            *(((2, 64, 33, 32), dtype) for dtype in (torch.float32, torch.bfloat16)),
            ((2, 32, 33, 32), torch.float64),
        ],
        ids=str,
    )
    def test_any_number_of_threads(self, compiled_backend, shape, dtype, layout):
        case = make_case(shape, dtype, layout=layout)
        results = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            y, mean, std = forward(compiled_backend, case)
            results.append([y, mean, std, *backward(compiled_backend, case, mean, std).values()])
        for other in results[1:]:
            assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))

    @pytest.mark.parametrize("layout", ["contiguous", "channels last"])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
    def test_results_past_the_caches(self, compiled_backend, dtype, layout):
        """Results above 8 MiB are written in another way, with the same bits as for each sample alone."""
        case = make_case((5, 16, 258, 257), dtype, layout=layout)
        x = case.x.requires_grad_()
        whole = ops.styled_instance_norm(x, backend=compiled_backend)
        (gradient,) = torch.autograd.grad(whole, x, case.grad_y)
        for b in range(5):
            one = x[b : b + 1].detach().clone(memory_format=torch.preserve_format).requires_grad_()
            y = ops.styled_instance_norm(one, backend=compiled_backend)
            assert torch.equal(y[0], whole[b])
            assert torch.equal(torch.autograd.grad(y, one, case.grad_y[b : b + 1])[0][0], gradient[b])


@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (0, 3, 64, 64), (2, 0, 4, 4)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_no_planes(backend, shape, dtype):
    x = torch.zeros(shape, dtype=dtype, requires_grad=True)
    bias = torch.zeros(shape[1], requires_grad=True) if dtype != torch.float64 else None
    y, mean, std = ops.styled_instance_norm(x, bias=bias, statistics=True, backend=backend)
    assert y.shape == shape
    assert y.dtype == dtype
    assert mean.shape == std.shape == shape[:2]
    assert mean.dtype == library.sum_dtype(dtype)
    (y.float().sum() + mean.sum() + std.sum()).backward()
    assert x.grad.shape == shape
    assert bias is None or not bias.grad.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("fmt", [torch.contiguous_format, torch.channels_last], ids=str)
def test_memory_formats_and_dtypes_are_kept(backend, fmt, dtype):
    x = torch.randn(2, 3, 8, 9).to(dtype).contiguous(memory_format=fmt).requires_grad_()
    bias, scale, shift = torch.randn(3, requires_grad=True), *torch.randn(2, 6, requires_grad=True).chunk(2, 1)
    y = ops.styled_instance_norm(x, bias=bias, scale=scale, shift=shift, backend=backend)
    assert y.dtype == dtype
    assert y.is_contiguous(memory_format=fmt)
    gradients = torch.autograd.grad(y, (x, bias, scale), torch.ones_like(y))
    assert gradients[0].is_contiguous(memory_format=fmt)
    assert [gradient.dtype for gradient in gradients] == [dtype, torch.float32, torch.float32]


def test_a_learned_constant_for_the_whole_batch(backend):
    """Expanded over the batch: its gradient is the sum over the samples'."""
    constant = torch.randn(1, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    scale, shift = torch.randn(5, 3, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64)

    def call(c: Tensor) -> Tensor:
        return ops.styled_instance_norm(
            c.expand(5, -1, -1, -1), scale=scale, shift=shift, negative_slope=1.0, backend=backend
        )

    assert gradcheck(call, (constant,))
