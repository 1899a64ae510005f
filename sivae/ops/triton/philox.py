"""Philox4x32-10 and its standard normals, with the formulas of csrc/philox.h."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from sivae.ops.triton import blocks
from sivae.ops.triton.launch import launch
from sivae.ops.triton.operands import check_seed
from sivae.ops.triton.scalar_math import compute_type, cos_sin_turn, log_of_normal, narrow, square_root


@triton.jit
def philox4x32(c0, c1, c2, c3, k0, k1):
    """Four random words from a counter of four and a key of two, all uint32."""
    for _ in tl.static_range(10):
        high0, low0 = tl.umulhi(c0, 0xD2511F53), c0 * 0xD2511F53
        high1, low1 = tl.umulhi(c2, 0xCD9E8D57), c2 * 0xCD9E8D57
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0 = k0 + 0x9E3779B9
        k1 = k1 + 0xBB67AE85
    return c0, c1, c2, c3


@triton.jit
def box_muller(word_a, word_b, dtype: tl.constexpr):
    # (x >> 9) + 1/2 over 2^23: in (0, 1), exact in float32; through int32, which converts in one instruction.
    u_a = ((word_a >> 9).to(tl.int32, bitcast=True).to(dtype) + 0.5) * 1.1920928955078125e-07
    u_b = ((word_b >> 9).to(tl.int32, bitcast=True).to(dtype) + 0.5) * 1.1920928955078125e-07
    radius = square_root(-2.0 * log_of_normal(u_a))
    cosine, sine = cos_sin_turn(u_b)
    return radius * cosine, radius * sine


@triton.jit
def normals_of(seed, offset_low, offset_high, group, dtype: tl.constexpr):
    """The normals of the logical indices 4 group to 4 group + 3, interleaved: [R, G] int64 -> [R, 4 G]."""
    key = tl.load(seed)
    w0, w1, w2, w3 = philox4x32(
        group.to(tl.uint32),
        (group >> 32).to(tl.uint32),
        offset_low.to(tl.uint32),
        offset_high.to(tl.uint32),
        key.to(tl.uint32),
        (key >> 32).to(tl.uint32),
    )
    n0, n1 = box_muller(w0, w1, dtype)
    n2, n3 = box_muller(w2, w3, dtype)
    return tl.interleave(tl.interleave(n0, n2), tl.interleave(n1, n3))


@triton.jit(do_not_specialize=["offset_low", "offset_high"])
def normal_kernel(
    out, seed, offset_low: tl.int64, offset_high: tl.int64, count, DTYPE: tl.constexpr, GROUPS: tl.constexpr
):
    """Each program writes 4 GROUPS normals."""
    first = tl.program_id(0).to(tl.int64) * GROUPS
    group = first + tl.arange(0, GROUPS)[None, :]  # [1, GROUPS]
    index = first * 4 + tl.arange(0, 4 * GROUPS)[None, :]  # [1, 4 GROUPS]
    values = normals_of(seed, offset_low, offset_high, group, DTYPE)
    tl.store(out + index, narrow(values, out.dtype.element_ty), mask=index < count)


def words_of(offset: int) -> tuple[int, int]:
    """The low and high 32 bits; the interpreter would use only 32 bits for an offset from 2^31 to 2^32."""
    return offset & 0xFFFFFFFF, offset >> 32


def philox_normal(seed: Tensor, offset: int, shape: list[int], dtype: torch.dtype) -> Tensor:
    check_seed(seed, seed.device)
    out = torch.empty(shape, dtype=dtype, device=seed.device)
    count = out.numel()
    if count > 0:
        programs = triton.cdiv(count, blocks.NORMALS.elements)
        launch(
            normal_kernel, programs,
            out, seed, *words_of(offset), count,
            DTYPE=compute_type(dtype), GROUPS=blocks.NORMALS.elements // 4, num_warps=blocks.NORMALS.warps,
        )  # fmt: skip
    return out
