"""Derive independent random streams from one seed."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator

import torch


def derived_seed(seed: int, purpose: str) -> int:
    """Derive a seed in [0, 2^63) for one purpose.

    It is a hash, so streams for two purposes, or from neighbouring seeds, are independent.
    """
    digest = hashlib.blake2b(f"{seed}/{purpose}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1


@contextlib.contextmanager
def global_seed(seed: int) -> Iterator[None]:
    """Seed the CPU's global generator inside, and restore the caller's state afterwards."""
    before = torch.get_rng_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(before)
