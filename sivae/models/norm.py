"""Make and apply the norms of convolutional networks; control when batch norm updates its running statistics."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Literal, TypeGuard, get_args
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules import module as hooks
from torch.nn.modules.batchnorm import _BatchNorm

from sivae.ops import batch_norm, group_norm
from sivae.ops.group_norm import Activation

Norm = Literal["batch", "group", "none"]
NORMS: tuple[Norm, ...] = get_args(Norm)

_GROUP_WIDTH = 16


def make_norm(norm: Norm, width: int) -> nn.Module:
    """Make a norm over `width` channels, with a scale and a shift for each; "none" is the identity.

    "group" makes groups of at least 16 channels, and as many as divide the width evenly; fewer than 16 channels are one
    group: 64 -> 4 of 16, 40 -> 2 of 20, 24 -> 1 of 24. Wu & He, "Group Normalization" (ECCV 2018) find 16 channels per
    group as good as 32 groups, which would leave narrow layers one channel per group.
    """
    if norm == "batch":
        return nn.BatchNorm2d(width)
    if norm == "group":
        return nn.GroupNorm(group_count(width), width)
    return nn.Identity()


def group_count(width: int) -> int:
    """Compute the number of groups that "group" makes of `width` channels."""
    return next((count for count in range(width // _GROUP_WIDTH, 1, -1) if width % count == 0), 1)


def activated(norm: nn.Module, x: Tensor, negative_slope: float, *, residual: Tensor | None = None) -> Tensor:
    """Compute leaky_relu(norm(x) + residual), [B, C, H, W].

    Batch norm that normalizes by the batch's statistics runs as one op where the native backend has it, and group norm
    without a residual, too. Everything else runs as modules of torch, in place where no backward pass or hook needs the
    values: x may be overwritten.

    Args:
        norm: a norm that :func:`make_norm` made, or one that replaced it.
        x: [B, C, H, W].
        negative_slope: of the leaky ReLU, 0 or more; 1 leaves it out.
        residual: added before the leaky ReLU, [B, C, H, W]; None: 0.
    """
    if _fuses(norm) and batch_norm.serves(x) and (residual is None or residual.dtype == x.dtype):
        return _fused(norm, x, negative_slope, residual)
    if residual is None and is_one_op(norm, x):
        activation: Activation = "none" if negative_slope == 1.0 else "leaky_relu"
        return group_norm_activated(norm, x, activation, negative_slope)
    result: Tensor = norm(x)
    if residual is None and negative_slope == 1.0:
        return result
    if has_hooks(norm):  # a hook may keep the result, or may have made it a view that cannot change
        return F.leaky_relu(result if residual is None else result + residual, negative_slope)
    if residual is not None:
        result += residual
    return F.leaky_relu_(result, negative_slope)


def _fuses(norm: nn.Module) -> TypeGuard[nn.BatchNorm2d]:
    """Whether the op does all that a call of the module does."""
    # Not a subclass: SyncBatchNorm is one, and a parametrized module is.
    return (
        type(norm) is nn.BatchNorm2d
        and norm.training
        and norm.affine
        and (norm.momentum is not None or not norm.track_running_stats)
        and not has_hooks(norm)
    )


def is_one_op(norm: nn.Module, x: Tensor) -> TypeGuard[nn.GroupNorm]:
    """Whether group norm and an activation of x run as one op, which does all that a call of the module does."""
    # One value in each group of a single sample is refused by the module, and an eps of 0 by the op.
    return (
        type(norm) is nn.GroupNorm
        and norm.eps > 0.0
        and isinstance(x, Tensor)  # else a symbol that torch.fx traces
        and not torch.jit.is_tracing()  # type: ignore[attr-defined]  # the trace has to run without this package
        and x.numel() > norm.num_groups
        and group_norm.serves(x)
        and not has_hooks(norm)
    )


def group_norm_activated(norm: nn.GroupNorm, x: Tensor, activation: Activation, negative_slope: float = 0.2) -> Tensor:
    """Compute activation(norm(x)), [B, C, ...], as one op; see :func:`is_one_op`."""
    return group_norm.group_norm_silu(
        x, norm.num_groups, norm.weight, norm.bias, eps=norm.eps, activation=activation, negative_slope=negative_slope
    )


def has_hooks(module: nn.Module) -> bool:
    """Whether a call of the module calls hooks: its own, or those of all modules, such as a profiler's."""
    own = module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    return bool(own or hooks._has_any_global_hook())


def _fused(norm: nn.BatchNorm2d, x: Tensor, negative_slope: float, residual: Tensor | None) -> Tensor:
    y, mean, variance = batch_norm.batch_norm_leaky_relu(
        x, norm.weight, norm.bias, residual=residual, negative_slope=negative_slope, eps=norm.eps
    )
    if norm.track_running_stats:
        assert norm.momentum is not None and norm.running_mean is not None and norm.running_var is not None
        count = x.numel() // x.shape[1]
        with torch.no_grad():
            if norm.num_batches_tracked is not None:
                norm.num_batches_tracked.add_(1)
            norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), norm.momentum)
            norm.running_var.lerp_((variance * (count / (count - 1))).to(norm.running_var.dtype), norm.momentum)
    return y


_found: WeakKeyDictionary[nn.Module, tuple[_BatchNorm, ...]] = WeakKeyDictionary()


def batch_norms(network: nn.Module) -> tuple[_BatchNorm, ...]:
    """Find the batch norms in `network`, and cache the result: convert to SyncBatchNorm before the first pass."""
    if isinstance(network, _BatchNorm):
        return (network,)
    found = _found.get(network)
    if found is None:
        found = tuple(module for module in network.modules() if isinstance(module, _BatchNorm))
        _found[network] = found
    return found


@contextlib.contextmanager
def batch_statistics(network: nn.Module, *, update: bool) -> Iterator[None]:
    """Choose whether passes of `network` in training mode update batch norm's running statistics.

    With `update=False` they still normalize by the batch's statistics, but leave running_mean, running_var and
    num_batches_tracked as they are. With `update=True`, as outside this context, each pass updates them once. Passes in
    eval mode use the running statistics and never update them. This works for all batch norms of torch, SyncBatchNorm
    included. A compiled network is compiled once for each value; with torch 2.11, run it inside
    :func:`switches_seen_by_compiler`.
    """
    norms = batch_norms(network)
    before = [norm.track_running_stats for norm in norms]
    # Not by setattr: nn.Module's checks there cost more than the rest of this function.
    for norm in norms:
        norm.__dict__["track_running_stats"] = update and norm.running_mean is not None
    try:
        yield
    finally:
        for norm, value in zip(norms, before, strict=True):
            norm.__dict__["track_running_stats"] = value


@contextlib.contextmanager
def running_statistics(network: nn.Module) -> Iterator[None]:
    """Make all batch norms of `network` normalize by their running statistics inside, as in eval mode."""
    norms = batch_norms(network)
    before = [norm.training for norm in norms]
    for norm in norms:
        norm.training = False
    try:
        yield
    finally:
        for norm, training in zip(norms, before, strict=True):
            norm.training = training


@contextlib.contextmanager
def switches_seen_by_compiler() -> Iterator[None]:
    """Make compiled networks respond to :func:`batch_statistics` inside, in every version of torch.

    torch 2.11 checks the submodules of a compiled module for changes by a shortcut that misses this one.
    """
    if torch.__version__ >= "2.12":
        yield
        return
    from torch._dynamo import config

    with config.patch(use_recursive_dict_tags_for_guards=False):
        yield
