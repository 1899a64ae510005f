"""Compare the styled instance norm of any backend with float64, within bounds that are derived here."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sivae.ops import library
from sivae.ops.reference.styled_norm import styled_instance_norm as reference_norm
from tests.ops.parity import assert_within, roundoff, storage_error

SLOPE, EPS = 0.2, 1e-8
# Roundings that one element of a sum takes part in: those of a thread's own terms, and of the tree above them.
DEPTH = 192
GRADIENTS = ("x", "noise_weight", "bias", "scale", "shift")


@dataclass(frozen=True)
class Case:
    """Arguments of the forward op, and the gradients of its results."""

    x: Tensor
    noise: Tensor | None = None
    noise_weight: Tensor | None = None
    bias: Tensor | None = None
    scale: Tensor | None = None
    shift: Tensor | None = None
    grad_y: Tensor | None = None
    grad_mean: Tensor | None = None
    grad_std: Tensor | None = None

    def operands(self) -> tuple[Tensor | None, ...]:
        return self.x, self.noise, self.noise_weight, self.bias, self.scale, self.shift

    def grads(self) -> tuple[Tensor | None, ...]:
        return self.grad_y, self.grad_mean, self.grad_std


def laid_out(layout: str, tensor: Tensor) -> Tensor:
    """The values of [B, C, H, W] in another memory layout."""
    if layout == "channels last":
        return tensor.contiguous(memory_format=torch.channels_last)
    if layout == "slices":  # of a larger image, of more channels and of every second sample
        b, c, h, w = tensor.shape
        wide = tensor.new_zeros(2 * b, c + 1, h + 2, w + 3)
        wide[::2, 1:, 1:-1, :w] = tensor
        return wide[::2, 1:, 1:-1, :w]
    if layout == "every second channel":
        b, c, h, w = tensor.shape
        wide = tensor.new_zeros(b, 2 * c, h, w)
        wide[:, ::2] = tensor
        return wide[:, ::2]
    if layout == "channels last slices":
        b, c, h, w = tensor.shape
        wide = tensor.new_zeros(b, c, h + 1, w + 2).contiguous(memory_format=torch.channels_last)
        wide[:, :, 1:, :w] = tensor
        return wide[:, :, 1:, :w]
    if layout == "transposed":
        return tensor.transpose(2, 3).contiguous().transpose(2, 3)
    if layout == "expanded":
        return tensor[:1, :, :, :1].expand(tensor.shape)
    assert layout == "contiguous"
    return tensor.contiguous()


LAYOUTS = [
    "contiguous", "channels last", "slices", "every second channel", "channels last slices", "transposed", "expanded",
]  # fmt: skip


def make_case(
    shape: tuple[int, int, int, int],
    dtype: torch.dtype,
    *,
    parameters: torch.dtype | None = None,
    layout: str = "contiguous",
    grad_layout: str | None = None,
    shared_noise: bool = False,
) -> Case:
    """All operands: images around a mean that is not 0, and styles laid out like `linear(...).chunk(2, 1)`."""
    b, c, h, w = shape
    kept, sums = parameters or dtype, library.sum_dtype(dtype)
    scale, shift = torch.randn(b, 2 * c).to(kept).chunk(2, dim=1)
    return Case(
        x=laid_out(layout, (torch.randn(shape) + 1).to(dtype)),
        noise=torch.randn(1 if shared_noise else b, 1, h, w).to(kept),
        noise_weight=torch.randn(c).to(kept),
        bias=torch.randn(c).to(kept),
        scale=scale,
        shift=shift,
        grad_y=laid_out(grad_layout or layout, torch.randn(shape).to(dtype)),
        grad_mean=torch.randn(b, c).to(sums),
        grad_std=torch.randn(c, b).to(sums).t(),
    )


def subsets(case: Case) -> list[Case]:
    """The case without some of its optional operands."""
    plain = replace(case, noise=None, noise_weight=None)
    return [
        plain,
        replace(case, bias=None),
        replace(case, scale=None, shift=None, grad_y=None),
        replace(plain, bias=None, scale=None, shift=None, grad_mean=None, grad_std=None),
        replace(case, grad_y=None, grad_mean=None),
        replace(case, grad_std=None),
    ]


def backend_op(backend: str, name: str):
    return getattr(getattr(torch.ops, f"sivae_{backend}"), name).default


def forward(backend: str, case: Case) -> tuple[Tensor, Tensor, Tensor]:
    return backend_op(backend, "styled_instance_norm")(*case.operands(), SLOPE, EPS)


def backward(
    backend: str, case: Case, mean: Tensor, std: Tensor, needed: tuple[bool, ...] | None = None
) -> dict[str, Tensor]:
    """Gradients by name: of all given operands, or those in `needed`."""
    *saved, shift = case.operands()
    given = [saved[0], saved[2], saved[3], saved[4], shift]
    flags = needed or tuple(tensor is not None for tensor in given)
    found = backend_op(backend, "styled_instance_norm_backward")(*case.grads(), *saved, mean, std, SLOPE, EPS, *flags)
    for gradient, flag in zip(found, flags, strict=True):
        assert flag or gradient.shape == (0,)
    return {name: g for name, g, flag in zip(GRADIENTS, found, flags, strict=True) if flag}


def _double(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.detach().double()


def _per_plane(values: Tensor) -> Tensor:
    return values[:, :, None, None]


def assert_styled_norm(backend: str, case: Case) -> None:
    """Outputs and all gradients, in the layouts and dtypes that the schema promises, within their bounds of float64.

    One element of u errs by 3 roundings of its summands, a mean by the largest of these errors and DEPTH roundings of
    the largest element, a deviation from it by both: `d`. The standard deviation errs by d, and by DEPTH roundings
    of its own. The gradients are products of these, and sums over planes, and then over the batch.
    """
    x = case.x
    u = roundoff(x.dtype)
    y, mean, std = forward(backend, case)
    exact = Case(**{name: _double(value) for name, value in vars(case).items()})
    leaves = {name: value for name in GRADIENTS if (value := getattr(exact, name)) is not None}
    for leaf in leaves.values():
        leaf.requires_grad_()
    outputs = reference_norm(*exact.operands(), SLOPE, EPS)
    y_, mean_, std_ = (output.detach() for output in outputs)

    zero, one = x.new_zeros((), dtype=torch.float64), x.new_ones((), dtype=torch.float64)
    xd = exact.x.detach()
    noise_part = zero if exact.noise is None else exact.noise * _per_plane(exact.noise_weight.detach()[None])
    bias = zero if exact.bias is None else _per_plane(exact.bias.detach()[None])
    v = xd + noise_part + bias
    size = xd.abs() + abs(noise_part) + abs(bias)
    largest = size.amax((2, 3), keepdim=True)
    d = (4 + DEPTH) * u * largest  # of a deviation, d as above
    s = _per_plane(std_)
    inverse = 1 / torch.sqrt(s**2 + EPS)
    relative = 2 * d * inverse + (DEPTH + 8) * u  # of the inverse standard deviation
    amplitude = (one if exact.scale is None else 1 + _per_plane(exact.scale.detach())).abs() * inverse
    deviation = (torch.where(v > 0, v, SLOPE * v) - _per_plane(mean_)).abs()
    normalised = deviation * inverse
    y_error = amplitude * d + amplitude * deviation * relative + 4 * u * (y_.abs() + 2 * amplitude * deviation)

    assert y.stride() == torch.empty_like(x).stride()
    assert mean.dtype == std.dtype == library.sum_dtype(x.dtype)
    statistics = mean_.to(mean.dtype), std_.to(std.dtype)
    assert_within(y, y_.to(x.dtype), y_error + storage_error(y_, x.dtype), "y")
    assert_within(mean, statistics[0], d.flatten(1), "mean")
    # A standard deviation that is 0 is found to be at most that of its elements' errors.
    assert_within(std, statistics[1], (d + s * (DEPTH + 8) * u).flatten(1), "std")

    pairs = [(o, g) for o, g in zip(outputs, exact.grads(), strict=True) if g is not None]
    gradients = torch.autograd.grad(
        [o for o, _ in pairs], list(leaves.values()), [g for _, g in pairs], allow_unused=True
    )
    expected = dict(zip(leaves, gradients, strict=True))
    actual = backward(backend, case, mean, std)
    assert set(actual) == set(expected)

    n = x.shape[2] * x.shape[3]
    g = zero if exact.grad_y is None else exact.grad_y
    g = g.abs().expand(x.shape)
    by_mean = zero if exact.grad_mean is None else _per_plane(exact.grad_mean).abs() / n
    by_std = zero if exact.grad_std is None else _per_plane(exact.grad_std).abs() / n
    inverse_std = torch.where(s > 0, 1 / torch.where(s > 0, s, one), zero)
    total, total_normalised = g.sum((2, 3), keepdim=True), (g * normalised).sum((2, 3), keepdim=True)
    total_error = DEPTH * u * total
    normalised_error = total * d * inverse + total_normalised * (relative + DEPTH * u)
    x_size = (
        amplitude * (g + total / n + normalised * total_normalised / n) + by_mean + by_std * deviation * inverse_std
    )
    x_error = (
        x_size * (2 * relative + 16 * u)
        + amplitude * (total_error + normalised * normalised_error + d * inverse * total_normalised) / n
        + by_std * (d + deviation * relative) * inverse_std
    )
    noise_size = zero if exact.noise is None else exact.noise.abs()
    bounds = {
        "x": x_error,
        "noise_weight": (((x_error + DEPTH * u * x_size) * noise_size).sum((0, 2, 3))),
        "bias": (x_error + DEPTH * u * x_size).sum((0, 2, 3)),
        "scale": normalised_error.flatten(1),
        "shift": total_error.flatten(1),
    }
    for name, gradient in actual.items():
        operand = getattr(case, name)
        assert gradient.dtype == operand.dtype, name
        value = expected[name]
        value = torch.zeros_like(leaves[name]) if value is None else value.detach()
        bound = bounds[name] + storage_error(value, gradient.dtype)
        if name == "x":
            assert gradient.stride() == torch.empty_like(x).stride()
            # Next to the kink either slope may be taken.
            bound = torch.where(v.abs() <= 3 * u * size, torch.inf, bound)
        assert_within(gradient, value.to(gradient.dtype), bound, f"gradient of {name}")


def needs() -> list[tuple[bool, ...]]:
    return list(itertools.product([False, True], repeat=len(GRADIENTS)))
