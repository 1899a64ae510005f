"""Elementary functions on blocks of float32 and float64, most as in csrc/scalar_math.h; the same code on every target.

Triton's own float32 exp, log, sin, cos, sqrt and division are approximations on NVIDIA GPUs, and libdevice does not run
in the interpreter. In float64 Triton's exp and log are libdevice's accurate ones. Nothing here needs a product and a
sum to be rounded apart, so contraction into fma is harmless.

A NaN fails every comparison below and passes through.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from triton import knobs

INTERPRETED = tl.constexpr(bool(knobs.runtime.interpret))


def compute_type(dtype: torch.dtype) -> tl.dtype:
    """The arithmetic type of a kernel for tensors of `dtype`."""
    return tl.float64 if dtype is torch.float64 else tl.float32


@triton.jit
def widen(x):
    """Half types as float32, exactly; other types unchanged."""
    if x.dtype == tl.bfloat16 and INTERPRETED:  # its own conversion loses subnormal numbers
        wide = (x.to(tl.uint16, bitcast=True).to(tl.uint32) << 16).to(tl.float32, bitcast=True)
    elif x.dtype == tl.float64:
        wide = x
    else:
        wide = x.to(tl.float32)
    return wide


@triton.jit
def narrow(x, dtype: tl.constexpr):
    """`dtype`, rounded to nearest even."""
    if dtype == tl.bfloat16 and INTERPRETED:  # its own conversion truncates
        bits = x.to(tl.uint32, bitcast=True)
        rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        quiet = (bits >> 16) | 0x40
        result = tl.where(x == x, rounded, quiet).to(tl.uint16).to(tl.bfloat16, bitcast=True)
    else:
        result = x.to(dtype)
    return result


@triton.jit
def scalar(x, dtype: tl.constexpr):
    """A float argument of a kernel as a block [1, 1]; in the interpreter it is a Python float."""
    return tl.full((1, 1), x, dtype)


@triton.jit
def divide(x, y):
    return x / y if x.dtype == tl.float64 else tl.div_rn(x, y)


@triton.jit
def square_root(x):
    return tl.sqrt(x) if x.dtype == tl.float64 else tl.sqrt_rn(x)


@triton.jit
def exp(x):
    if x.dtype == tl.float64:
        result = tl.exp(x)
    else:
        x = tl.where(x > 89.0, 89.0, x)  # above, the result is infinite anyway
        x = tl.where(x < -104.0, -104.0, x)  # below, it is 0 anyway
        # x = 2 m ln 2 + r with an integer m: adding 1.5 * 2^23, and the bias of float's exponent, rounds to m and
        # puts it, biased, into the low bits. 2^(2m) is the square of a normal float.
        shifted = x * 0.721347520 + 12583039.0
        m = shifted - 12583039.0
        r = (x - m * 1.38671875) - m * -4.24388880e-4  # 2 ln 2 in two parts, the product by the first exact
        power = (shifted.to(tl.uint32, bitcast=True) << 23).to(tl.float32, bitcast=True)  # 2^m
        p = 0.0013893711 + r * (0.00020110063 + r * 2.4439814e-05)
        p = 0.5 + r * (0.16666675 + r * (0.041666526 + r * (0.0083325263 + r * p)))
        result = (1.0 + (r + r * r * p)) * power * power
    return result


@triton.jit
def log_of_normal(x):
    """ln x of a positive normal x."""
    if x.dtype == tl.float64:
        result = tl.log(x)
    else:
        # x = 2^e (1 + f) with 1 + f in [sqrt(1/2), sqrt(2)): relative accuracy also next to x = 1.
        shifted = x.to(tl.uint32, bitcast=True) - 0x3F3504F3
        e = (shifted.to(tl.int32, bitcast=True) >> 23).to(tl.float32)
        f = ((shifted & 0x007FFFFF) + 0x3F3504F3).to(tl.float32, bitcast=True) - 1.0
        f2 = f * f
        p = 0.14201759 + f * (-0.13160183 + f * (0.12761575 + f * -0.07634493))
        p = 0.33333331 + f * (-0.2500082 + f * (0.20001227 + f * (-0.16623357 + f * p)))
        tail = f2 * f * p - 0.5 * f2 + e * -2.12194440e-4  # ln 2 in two parts, the product by the first exact
        result = e * 0.693359375 + (f + tail)
    return result


@triton.jit
def log(x):
    if x.dtype == tl.float64:
        result = tl.log(x)
    else:
        subnormal = x < 1.17549435e-38
        # A subnormal number is scaled by 2^23, so 23 ln 2 is subtracted.
        value = log_of_normal(tl.where(subnormal, x * 8388608.0, x)) - tl.where(subnormal, 15.9423847, 0.0)
        edge = tl.where(x == 0.0, float("-inf"), tl.where(x > 3.4028235e38, float("inf"), float("nan")))
        result = tl.where((x > 0.0) & (x <= 3.4028235e38), value, edge)
    return result


@triton.jit
def log1p(x):
    """ln(1 + x) from x >= -1."""
    u = 1.0 + x
    lost = x - (u - 1.0)  # the rounding error of 1 + x
    # An infinite u has no rounding error, and ln 0 is infinite in any case.
    finite = (u > 0.0) & (u <= 3.4028235e38)
    return log(u) + tl.where(finite, divide(lost, tl.where(finite, u, 1.0)), 0.0)


@triton.jit
def log1p_of_unit(x):
    """ln(1 + x) for x in [0, 1]; NaN stays NaN."""
    u = 1.0 + x
    return log_of_normal(u) + divide(x - (u - 1.0), u)


@triton.jit
def cos_sin_turn(u):
    """cos and sin of 2 pi u for u in [0, 1]."""
    quarters = 4.0 * u
    if u.dtype == tl.float64:
        quadrant = (quarters + 0.5).to(tl.int32)
        r = quarters - quadrant.to(tl.float64)  # exact, |r| <= 1/2 of a quarter turn
        a = r * 1.5707963267948966
        x = a * a
        # Nested Taylor terms; on |a| <= pi/4 the next is below 1e-17 of the sum.
        c = 1.0 - x * (1.0 / 90.0) * (1.0 - x * (1.0 / 132.0) * (1.0 - x * (1.0 / 182.0) * (1.0 - x * (1.0 / 240.0))))
        c = 1.0 - x * 0.5 * (1.0 - x * (1.0 / 12.0) * (1.0 - x * (1.0 / 30.0) * (1.0 - x * (1.0 / 56.0) * c)))
        s = 1.0 - x * (1.0 / 110.0) * (1.0 - x * (1.0 / 156.0) * (1.0 - x * (1.0 / 210.0) * (1.0 - x * (1.0 / 272.0))))
        s = a * (
            1.0 - x * (1.0 / 6.0) * (1.0 - x * (1.0 / 20.0) * (1.0 - x * (1.0 / 42.0) * (1.0 - x * (1.0 / 72.0) * s)))
        )
    else:
        shifted = quarters + 12582912.0  # 1.5 * 2^23: its low bits are the nearest integer, 0 to 4
        quadrant = shifted.to(tl.int32, bitcast=True)
        r = quarters - (shifted - 12582912.0)  # exact, |r| <= 1/2 of a quarter turn
        x = r * r
        c = 1.0 + x * (-1.2337005 + x * (0.25366917 + x * (-0.020859936 + x * 0.00090336299)))
        s = r * (1.57079637 + x * (-0.64596349 + x * (0.079680033 + x * -0.0046016579)))
    swap = (quadrant & 1) != 0
    cosine = tl.where(swap, s, c)
    sine = tl.where(swap, c, s)
    return tl.where(((quadrant + 1) & 2) != 0, -cosine, cosine), tl.where((quadrant & 2) != 0, -sine, sine)
