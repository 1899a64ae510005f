"""Sums over samples and batches, shared by the reference ops."""

from __future__ import annotations

import math

from torch import Tensor

from sivae.ops.library import REDUCTIONS


def sum_per_sample(terms: Tensor) -> Tensor:
    """[B, ...] -> [B]."""
    return terms.reshape(terms.shape[0], math.prod(terms.shape[1:])).sum(1)


def reduce_batch(per_sample: Tensor, reduction: int) -> Tensor:
    """[B] -> [B] or a scalar, by position in REDUCTIONS."""
    name = REDUCTIONS[reduction]
    if name == "mean":
        return per_sample.mean()
    return per_sample.sum() if name == "sum" else per_sample
