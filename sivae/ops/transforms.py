"""Let the compiled ops take part in the transforms of `torch.func`, by way of the reference.

Autograd functions in C++ do not know these transforms. The reference consists of operators that do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sivae.ops import library, reference


def support_transforms(ops: torch.library.Library, namespace: str) -> None:
    """Run the ops of `namespace` as the reference where vmap, grad or another transform is active.

    The backward pass of a graph that was recorded outside may be under vmap too (`is_grads_batched=True`): a backward
    op then runs once for each gradient of the batch.
    """
    for name in library.OP_NAMES:
        # The first key that an op meets inside a transform.
        ops.impl(name, getattr(reference, name), "FuncTorchDynamicLayerFrontMode")
    for name in library.BACKWARD_OP_NAMES:
        op = getattr(getattr(torch.ops, namespace), name).default
        torch.library.register_vmap(f"{namespace}::{name}", one_by_one(op), lib=ops)


def one_by_one(op: Callable[..., tuple[Tensor, ...]]) -> Callable[..., tuple[tuple[Tensor, ...], tuple[int, ...]]]:
    """The rule of `torch.vmap` for a backward op: run it once for each gradient of the batch."""

    def rule(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        results = [
            op(*(arg if dim is None else arg.select(dim, k) for arg, dim in zip(args, in_dims, strict=True)))
            for k in range(info.batch_size)
        ]
        stacked = tuple(torch.stack(parts) for parts in zip(*results, strict=True))
        return stacked, (0,) * len(stacked)

    return rule
