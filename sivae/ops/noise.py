"""Counter-based Gaussian noise: the same (seed, offset, element index) gives the same normal everywhere.

Philox4x32-10 (Salmon, Moraes, Dror & Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011) and the
Box-Muller transform. Nothing is stored for the backward pass: the noise is computed again from its seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sivae.ops import backends
from sivae.ops.checks import check_dense, check_like
from sivae.ops.ranges import annotated
from sivae.ops.seeds import SEED_LIMIT, fresh_seed

_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class PhiloxNoise:
    """Noise given by (seed, offset) instead of by its values; pass it as `noise=`.

    A training step draws one seed and gives each of its calls another offset.

    Args:
        seed: int in [0, 2^63), or an int64 tensor of one element on the device of the op (never read by the host).
        offset: int in [0, 2^63). Streams with the same seed and different offsets are independent.
    """

    seed: int | Tensor
    offset: int = 0


@annotated
def philox_normal(
    seed: int | Tensor,
    shape: Sequence[int],
    *,
    offset: int = 0,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    backend: str | None = None,
) -> Tensor:
    """Standard normals of `shape`, a pure function of (seed, offset, row-major element index).

    Philox4x32-10 with key (low, high) of the seed and counter (low, high) of index // 4, (low, high) of the offset;
    u = ((x >> 9) + 1/2) / 2^23; Box-Muller on lanes (0, 1) and (2, 3). The integers agree bit for bit on every backend
    and device, the float32 normals to about 1e-6. float64 runs Box-Muller on the same u in float64; bfloat16 and
    float16 round the float32 normals.

    Args:
        seed: int in [0, 2^63), or an int64 tensor of one element, whose device is then the result's.
        shape: sizes of the result.
        offset: int in [0, 2^63).

    Raises:
        TypeError, ValueError: an argument of the wrong type, dtype or range, by name.
    """
    if dtype not in _DTYPES:
        raise TypeError(f"philox_normal: dtype is {dtype}, expected float64, float32, bfloat16 or float16")
    if not isinstance(shape, Sequence):
        raise TypeError(f"philox_normal: shape is {type(shape).__name__}, expected a sequence of sizes")
    sizes = list(shape)
    for size in sizes:
        if isinstance(size, bool) or not isinstance(size, (int, torch.SymInt)):
            raise TypeError(f"philox_normal: shape is {sizes}, expected ints")
        if size < 0:
            raise ValueError(f"philox_normal: shape is {sizes}, expected sizes of at least 0")
    _check_offset("philox_normal", offset)
    seed_tensor = _seed_tensor("philox_normal", seed, seed.device if isinstance(seed, Tensor) else torch.device(device))
    ops = backends.select("philox_normal", backend, seed_tensor.device)
    return ops.philox_normal(seed_tensor, offset, sizes, dtype)


def resolve_noise(
    op: str, mu: Tensor, noise: Tensor | PhiloxNoise | None, generator: torch.Generator | None
) -> tuple[Tensor, int]:
    """The noise for a low-level op: (eps of mu's shape, 0) or (seed of one int64 element, offset)."""
    if noise is None:
        if generator is not None:
            if not isinstance(generator, torch.Generator):
                raise TypeError(f"{op}: generator is {type(generator).__name__}, expected a torch.Generator or None")
            if generator.device.type != mu.device.type:
                raise ValueError(f"{op}: generator is on {generator.device}, expected {mu.device} as mu")
        return fresh_seed(op, mu.device, generator), 0
    if generator is not None:
        raise ValueError(f"{op}: both noise and generator are given, expected at most one of them")
    if isinstance(noise, PhiloxNoise):
        _check_offset(op, noise.offset)
        return _seed_tensor(op, noise.seed, mu.device), noise.offset
    if not isinstance(noise, Tensor):
        raise TypeError(f"{op}: noise is {type(noise).__name__}, expected a torch.Tensor, a PhiloxNoise or None")
    check_like(op, "noise", noise, "mu", mu)
    return noise, 0


def _check_offset(op: str, offset: int) -> None:
    if isinstance(offset, bool) or not isinstance(offset, int):
        raise TypeError(f"{op}: offset is {type(offset).__name__}, expected an int")
    if not 0 <= offset < SEED_LIMIT:
        raise ValueError(f"{op}: offset is {offset}, expected a number in [0, 2^63)")


def _seed_tensor(op: str, seed: int | Tensor, device: torch.device) -> Tensor:
    if isinstance(seed, Tensor):
        check_dense(op, "seed", seed)
        if seed.dtype != torch.int64 or seed.numel() != 1:
            raise TypeError(
                f"{op}: seed has dtype {seed.dtype} and shape {list(seed.shape)}, expected int64 of one element"
            )
        if seed.device != device:
            raise ValueError(f"{op}: seed is on {seed.device}, expected {device}")
        return seed
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise TypeError(f"{op}: seed is {type(seed).__name__}, expected an int or an int64 tensor of one element")
    if not 0 <= seed < SEED_LIMIT:
        raise ValueError(f"{op}: seed is {seed}, expected a number in [0, 2^63)")
    return torch.full((1,), seed, dtype=torch.int64, device=device)
