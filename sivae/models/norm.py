"""The norms of convolutional networks, and when batch norm's running statistics move."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Literal, get_args
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

Norm = Literal["batch", "group", "none"]
NORMS: tuple[Norm, ...] = get_args(Norm)

_GROUP_WIDTH = 16


def make_norm(norm: Norm, width: int) -> nn.Module:
    """A norm over `width` channels, with a scale and a shift for each; "none" is the identity.

    "group" takes groups of at least 16 channels (of all where there are fewer), as many as divide the width evenly:
    64 -> 4 of 16, 40 -> 2 of 20, 24 -> 1 of 24. Wu & He, "Group Normalization" (ECCV 2018) find 16 channels to a group
    as good as 32 groups, and narrow layers keep more than one channel to a group, unlike by 32 groups.
    """
    if norm == "batch":
        return nn.BatchNorm2d(width)
    if norm == "group":
        return nn.GroupNorm(group_count(width), width)
    return nn.Identity()


def group_count(width: int) -> int:
    """How many groups "group" makes of `width` channels."""
    return next((count for count in range(width // _GROUP_WIDTH, 1, -1) if width % count == 0), 1)


_found: WeakKeyDictionary[nn.Module, tuple[_BatchNorm, ...]] = WeakKeyDictionary()


def batch_norms(network: nn.Module) -> tuple[_BatchNorm, ...]:
    """The batch norms in `network`, looked up once: convert them (to synchronised ones) before its first pass."""
    if isinstance(network, _BatchNorm):
        return (network,)
    found = _found.get(network)
    if found is None:
        found = tuple(module for module in network.modules() if isinstance(module, _BatchNorm))
        _found[network] = found
    return found


@contextlib.contextmanager
def batch_statistics(network: nn.Module, *, update: bool) -> Iterator[None]:
    """Whether passes of `network` in training mode, made inside, move batch norm's running statistics.

    With `update=False` they normalise by the batch's statistics all the same, but leave running_mean, running_var and
    num_batches_tracked alone. With `update=True`, as outside, each pass moves them once. The eval mode's passes use the
    running statistics and never move them, inside or out. Any of torch's batch norms will do, synchronised ones
    included. A compiled network is compiled once for each of the two; with torch 2.11, run it inside
    :func:`switches_seen_by_compiler`.
    """
    norms = batch_norms(network)
    before = [norm.track_running_stats for norm in norms]
    # Past nn.Module's check of attributes, which costs more than all else here.
    for norm in norms:
        norm.__dict__["track_running_stats"] = update and norm.running_mean is not None  # nothing to move without
    try:
        yield
    finally:
        for norm, value in zip(norms, before, strict=True):
            norm.__dict__["track_running_stats"] = value


@contextlib.contextmanager
def switches_seen_by_compiler() -> Iterator[None]:
    """Inside, networks that are compiled notice :func:`batch_statistics`, in every version of torch.

    torch 2.11 looks for changes in the modules below a compiled one by a shortcut that misses them.
    """
    if torch.__version__ >= "2.12":
        yield
        return
    from torch._dynamo import config

    with config.patch(use_recursive_dict_tags_for_guards=False):
        yield
