"""Shared parts of the tests of group norm: make a case, evaluate it on a backend, and bound its error.

With u = 2^-24 (2^-53 for float64), s the largest normalised |x - mean| of a group and m its largest |x|: sums of up to
64 terms in a lane, then in pairs and in float64, err by 64 u in the mean (in units of the deviation) and by 34 u in the
inverse deviation; a few more roundings give the normalised value an error of 80 u (1 + s). The mean is rounded before
it is subtracted, which the constant makes up for except for its own rounding: 2 u m / deviation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sivae import ops
from tests.ops.parity import assert_within, roundoff, storage_error

LAYOUTS = ["contiguous", "channels last", "slices", "channels last slices", "transposed", "cropped", "expanded"]
ACTIVATIONS = ["silu", "leaky_relu", "none"]


@dataclass
class Case:
    x: Tensor
    groups: int
    weight: Tensor | None
    bias: Tensor | None
    grad_y: Tensor
    activation: str = "silu"
    eps: float = 1e-5

    def call(self, backend: str | None, x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        return ops.group_norm_silu(
            x, self.groups, weight, bias, eps=self.eps, activation=self.activation, negative_slope=0.2, backend=backend
        )


def laid_out(x: Tensor, layout: str) -> Tensor:
    """The same numbers in another layout of memory."""
    if layout == "channels last":
        return x.contiguous(memory_format=torch.channels_last)
    if layout == "slices":
        return torch.cat([x, x], 1)[:, x.shape[1] :]
    if layout == "channels last slices":
        return torch.cat([x, x], 1).contiguous(memory_format=torch.channels_last)[:, x.shape[1] :]
    if layout == "transposed":
        return x.transpose(2, 3).contiguous().transpose(2, 3)
    if layout == "cropped":
        return torch.cat([x, x], 3)[..., x.shape[3] :]
    if layout == "expanded":
        return x[:1].expand(x.shape)
    return x.contiguous()


def make_case(
    shape: tuple[int, ...],
    groups: int,
    dtype: torch.dtype = torch.float32,
    *,
    layout: str = "contiguous",
    grad_layout: str | None = None,
    activation: str = "silu",
    affine: bool = True,
    level: float = 0.5,
    parameters: torch.dtype | None = None,
) -> Case:
    """Normals about `level`, with parameters in x's dtype unless another is given."""
    x, grad_y = (laid_out(torch.randn(shape) + at, name).to(dtype) for at, name in (
        (level, layout), (0.0, grad_layout or layout),
    ))  # fmt: skip
    weight, bias = (torch.randn(2, shape[1]) + torch.tensor([[1.0], [0.0]])).to(parameters or dtype)
    return Case(x, groups, weight if affine else None, bias if affine else None, grad_y, activation)


def results(backend: str | None, case: Case) -> list[Tensor]:
    """y and the gradients by x and, where they are given, by weight and bias."""
    leaves = [None if t is None else t.detach().requires_grad_() for t in (case.x, case.weight, case.bias)]
    y = case.call(backend, *leaves)
    wanted = [leaf for leaf in leaves if leaf is not None]
    return [y.detach(), *torch.autograd.grad(y, wanted, case.grad_y)]


def assert_group_norm(backend: str, case: Case) -> None:
    """Within the bound of the reference in float64."""
    x, grad = case.x.double(), case.grad_y.double()
    batch, channels = x.shape[:2]
    exact = Case(x, case.groups, *(None if t is None else t.double() for t in (case.weight, case.bias)), grad,
                 case.activation, case.eps)  # fmt: skip
    expected, actual = results("reference", exact), results(backend, case)
    u = roundoff(case.x.dtype)

    def grouped(t: Tensor) -> Tensor:
        return t.reshape(batch, case.groups, channels // case.groups, math.prod(x.shape[2:]))

    def of_channels(t: Tensor | None, absent: float) -> Tensor:
        values = torch.full((channels,), absent, dtype=torch.float64) if t is None else t.double()
        return values.view(1, case.groups, -1, 1)

    values, g = grouped(x), grouped(grad).abs()
    centred = values - values.mean((2, 3), keepdim=True)
    inverse = (centred.square().mean((2, 3), keepdim=True) + case.eps).rsqrt()
    normal = (centred * inverse).abs()
    weight, bias = of_channels(case.weight, 1.0), of_channels(case.bias, 0.0)
    v = centred * inverse * weight + bias
    largest = normal.amax((2, 3), keepdim=True), values.abs().amax((2, 3), keepdim=True)
    normal_error = 80 * u * (1 + largest[0]) + 2 * u * largest[1] * inverse
    v_error = normal_error * weight.abs() + 10 * u * (v.abs() + bias.abs())
    # The slope of SiLU is at most 1.1, and its own error, of the exponential and the quotient, 8 u |v|.
    y_error = 1.1 * v_error + 8 * u * v.abs()
    # |silu''| is at most 0.5; in s (1 + v (1 - s)) the rounding of 1 - s counts v times, up to where it is 0.
    g_error = g * (0.5 * v_error + 24 * u)
    if case.activation == "leaky_relu":
        g_error = torch.where(v.abs() <= v_error, g, g_error)  # next to the kink either slope may be taken

    def mean(t: Tensor) -> Tensor:
        return t.mean((2, 3), keepdim=True)

    through, w = 1.1 * g, weight.abs()
    size = w * through + mean(w * through) + normal * mean(w * through * normal)
    x_error = inverse * (
        w * g_error + mean(w * g_error) + normal * mean(w * g_error * normal) + size * 80 * u * (1 + largest[0])
        + normal_error * mean(w * through * normal) + normal * mean(w * through * normal_error)
    )  # fmt: skip
    weight_error = through * normal_error + g_error * normal + 64 * u * through * normal
    bounds = {"y": y_error.reshape(x.shape), "x": x_error.reshape(x.shape)}
    if case.weight is not None:
        bounds["weight"] = weight_error.sum((0, 3)).flatten()
        bounds["bias"] = (g_error + 64 * u * through).sum((0, 3)).flatten()
    for (name, bound), a, e in zip(bounds.items(), actual, expected, strict=True):
        assert a.dtype == (
            case.weight.dtype if case.weight is not None and name in ("weight", "bias") else case.x.dtype
        )
        if name in ("y", "x"):
            assert a.stride() == torch.empty_like(case.x).stride()
        assert_within(a, e.to(a.dtype), bound + storage_error(e, a.dtype), name)
