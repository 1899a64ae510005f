"""Test the elementary functions of the Triton kernels: they err by the few roundings that the ops' bounds assume."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

pytestmark = pytest.mark.usefixtures("interpreter")
COUNT = 1 << 16


def apply(name: str, x: Tensor) -> list[Tensor]:
    """Two results; the second is 0 for functions with one."""
    from sivae.ops.triton.launch import launch
    from tests.ops.triton.function_kernel import function_kernel

    out = torch.zeros(2, x.numel(), dtype=x.dtype)
    launch(function_kernel, 1, x, out, NAME=name, COUNT=x.numel())
    return list(out)


def units(actual: Tensor, exact: Tensor) -> float:
    """The largest error, in units of 2^-24 of the exact value."""
    return float(((actual.double() - exact) / exact).abs().nan_to_num(0.0).max() * 2**24)


CASES: dict[str, tuple[Callable[[Tensor], Tensor], float, float]] = {
    "exp": (torch.exp, -87.0, 88.0),
    "log": (torch.log, 1e-6, 100.0),
    "log_of_normal": (torch.log, 2.0**-24, 1.0),
    "log1p": (torch.log1p, -1.0 + 2.0**-24, 4.0),
    "log1p_of_unit": (torch.log1p, 0.0, 1.0),
}


@pytest.mark.parametrize("name", list(CASES))
def test_float32(name):
    """At most 4 units of roundoff, also next to the zeros of the logarithms."""
    function, low, high = CASES[name]
    x = torch.cat([torch.linspace(low, high, COUNT // 2), (torch.rand(COUNT // 2) ** 8) * (high - low) + low])
    if name.startswith("log1p"):
        x = torch.where(torch.arange(COUNT) % 2 == 0, x, 10 ** -(torch.rand(COUNT) * 30))
    assert units(apply(name, x)[0], function(x.double())) <= 4


@pytest.mark.parametrize("name", ["exp", "log", "log1p"])
def test_edges(name):
    """Infinities, NaN, zeros, subnormal numbers, overflow and underflow: torch's results in float64, rounded."""
    x = torch.tensor(
        [math.nan, math.inf, -math.inf, 0.0, -0.0, 1e-40, 2.0**-149, 3e38, -1.0, -2.0, 89.5, -104.0, -90.0, 1.0]
    )
    x = torch.cat([x, torch.zeros(16 - len(x))])
    exact = CASES[name][0](x.double())
    actual = apply(name, x)[0]
    rounded = exact.float()
    assert torch.equal(actual.isnan(), rounded.isnan())
    assert torch.equal(actual.isinf(), rounded.isinf())
    finite = rounded.isfinite()
    error = (actual.double() - exact)[finite].abs()
    assert (error <= 4 * 2.0**-24 * exact[finite].abs() + 2.0**-149).all()


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 2.0**-22), (torch.float64, 2.0**-51)], ids=str)
def test_cos_sin_turn(dtype, bound):
    """Absolute errors within four units of roundoff, and the signs of every quarter turn."""
    u = ((torch.arange(COUNT) * 128).to(dtype) + 0.5) * 2.0**-23
    cosine, sine = apply("cos_sin_turn", u)
    # In float64 the exact angle of u is reduced before it is rounded: turns to the nearest quarter.
    turns = u.double() - (4 * u.double()).round() / 4
    quarter = (4 * u.double()).round().long() % 4
    c, s = torch.cos(2 * math.pi * turns), torch.sin(2 * math.pi * turns)
    exact_cosine = torch.stack([c, -s, -c, s]).gather(0, quarter[None])[0]
    exact_sine = torch.stack([s, c, -s, -c]).gather(0, quarter[None])[0]
    assert (cosine.double() - exact_cosine).abs().max() <= bound
    assert (sine.double() - exact_sine).abs().max() <= bound


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_narrow_and_widen(dtype):
    """Rounded to nearest even, as torch rounds; ties, subnormal numbers, overflow and NaN too; and back exactly."""
    edges = torch.tensor([math.nan, math.inf, -math.inf, 0.0, -0.0, 1.00390625, 1.01171875, 3e38, 65519.0, 1e-40, 3e-8])
    x = torch.cat([edges, torch.randn(1024 - len(edges)) * 10.0 ** torch.randint(-8, 5, (1024 - len(edges),))])
    from sivae.ops.triton.launch import launch
    from tests.ops.triton.function_kernel import round_trip_kernel

    narrowed, widened = torch.empty(1024, dtype=dtype), torch.empty(1024)
    launch(round_trip_kernel, 1, x, narrowed, widened, COUNT=1024)
    expected = x.to(dtype)
    assert torch.equal(narrowed.isnan(), expected.isnan())
    assert torch.equal(narrowed.nan_to_num(), expected.nan_to_num())
    assert torch.equal(widened.nan_to_num(), expected.float().nan_to_num())
