"""Independent streams of randomness from one seed."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator

import torch


def derived_seed(seed: int, purpose: str) -> int:
    """A seed in [0, 2^63) for one purpose.

    Streams of one seed must not be each other's continuation, nor those of the seed beside it.
    """
    digest = hashlib.blake2b(f"{seed}/{purpose}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1


@contextlib.contextmanager
def global_seed(seed: int) -> Iterator[None]:
    """Seed the CPU's global generator inside, and give the caller's back."""
    before = torch.get_rng_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(before)
