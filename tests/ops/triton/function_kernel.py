"""Kernels that only call one function of sivae.ops.triton.scalar_math."""

from __future__ import annotations

import triton
import triton.language as tl

from sivae.ops.triton.scalar_math import cos_sin_turn, exp, log, log1p, log1p_of_unit, log_of_normal, narrow, widen


@triton.jit
def function_kernel(x, out, NAME: tl.constexpr, COUNT: tl.constexpr):
    index = tl.arange(0, COUNT)
    value = tl.load(x + index)
    second = value * 0.0
    if NAME == "exp":
        first = exp(value)
    elif NAME == "log":
        first = log(value)
    elif NAME == "log_of_normal":
        first = log_of_normal(value)
    elif NAME == "log1p":
        first = log1p(value)
    elif NAME == "log1p_of_unit":
        first = log1p_of_unit(value)
    else:
        first, second = cos_sin_turn(value)
    tl.store(out + index, first)
    tl.store(out + COUNT + index, second)


@triton.jit
def round_trip_kernel(x, narrowed, widened, COUNT: tl.constexpr):
    index = tl.arange(0, COUNT)
    value = narrow(tl.load(x + index), narrowed.dtype.element_ty)
    tl.store(narrowed + index, value)
    tl.store(widened + index, widen(value))
