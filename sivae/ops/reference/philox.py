"""Philox4x32-10 and Box-Muller on int64 and float64 tensors."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

_LOW = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10


def philox4x32(counter: tuple[Tensor, ...], key: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Four 32-bit words from a 4-word counter and a 2-word key, all held in int64 tensors that broadcast."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        # int64 products wrap modulo 2^64, so the mask after the (arithmetic) shift gives the true high word.
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        high0, low0 = (p0 >> 32) & _LOW, p0 & _LOW
        high1, low1 = (p1 >> 32) & _LOW, p1 & _LOW
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + _WEYL[0]) & _LOW, (k1 + _WEYL[1]) & _LOW
    return c0, c1, c2, c3


def philox_normal(seed: Tensor, offset: int, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    count = math.prod(shape)
    # A block of four for each four values; of a size that stays open in an export, one for each value.
    known = isinstance(count, int)
    number = torch.arange((count + 3) // 4 if known else count, dtype=torch.int64, device=seed.device)
    index = number if known else number >> 2
    seed = seed.reshape(())
    counter = (
        index & _LOW,
        index >> 32,
        torch.full_like(index, offset & _LOW),
        torch.full_like(index, offset >> 32),
    )
    lanes = philox4x32(counter, (seed & _LOW, (seed >> 32) & _LOW))
    u0, u1, u2, u3 = (((lane >> 9).double() + 0.5) * 2.0**-23 for lane in lanes)
    radius0, radius1 = torch.sqrt(-2.0 * torch.log(u0)), torch.sqrt(-2.0 * torch.log(u2))
    angle0, angle1 = 2.0 * math.pi * u1, 2.0 * math.pi * u3
    normals = torch.stack(
        (
            radius0 * torch.cos(angle0),
            radius0 * torch.sin(angle0),
            radius1 * torch.cos(angle1),
            radius1 * torch.sin(angle1),
        ),
        dim=1,
    )  # [count / 4, 4], or [count, 4]
    normals = normals.reshape(-1)[:count] if known else normals.gather(1, (number & 3)[:, None])
    normals = normals.reshape(shape)
    return normals.to(torch.float64 if dtype is torch.float64 else torch.float32).to(dtype)
