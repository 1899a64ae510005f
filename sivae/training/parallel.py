"""Several processes that train one model, as `torchrun` starts them: who is who, and what they exchange."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import Tensor
from torch import distributed as dist
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from sivae.errors import ConfigError

_PATIENCE = timedelta(hours=2)  # the others wait while the first one measures and draws
_meetings = itertools.count()  # of this process with the others


@dataclass(frozen=True)
class Processes:
    """This process among those that train together.

    Attributes:
        rank: its number, from 0.
        count: how many there are.
        local_rank: its number on this machine.
    """

    rank: int = 0
    count: int = 1
    local_rank: int = 0

    @property
    def first(self) -> bool:
        """True for the one that writes and prints."""
        return self.rank == 0

    def average(self, tensors: list[Tensor]) -> None:
        """Replace tensors, in place, by their means over all processes, in one exchange."""
        if self.count == 1 or not tensors:
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        dist.all_reduce(flat)
        flat /= self.count
        for tensor, values in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(values.view_as(tensor))

    def average_losses(self, losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Scalars as means over all processes."""
        if self.count == 1:
            return dict(losses)
        values = torch.stack([value.detach().float() for value in losses.values()])
        self.average([values])
        return dict(zip(losses, values.unbind(), strict=True))

    def any(self, value: bool, device: torch.device) -> bool:
        """Whether any process says so. Every process has to ask."""
        if self.count == 1:
            return value
        flag = torch.tensor([float(value)], device=device)
        dist.all_reduce(flag)
        return bool(flag.item() > 0)

    def wait(self) -> None:
        """Return when every process has come here."""
        if self.count > 1:
            dist.barrier()

    def text_of_first(self, text: str) -> str:
        """The first process's text, for all of them."""
        if self.count == 1:
            return text
        box: list[str] = [text]
        dist.broadcast_object_list(box, src=0)
        return box[0]


def claim_gpu() -> None:
    """Make this process's GPU its current one, before anything lands on the first."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))


@contextlib.contextmanager
def joined(device: str) -> Iterator[Processes]:
    """Join the other processes where `torchrun` started this one, else stand alone.

    Args:
        device: "cuda…" talks by NCCL, anything else by gloo.

    Raises:
        ConfigError: torchrun's variables are incomplete.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield Processes()
        return
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise ConfigError(f"WORLD_SIZE is {count}, but {', '.join(missing)} is not set; start with torchrun")
    processes = Processes(int(os.environ["RANK"]), count, int(os.environ.get("LOCAL_RANK", "0")))
    ours = not dist.is_initialized()
    if ours:
        # A key space for each meeting: torchrun's store keeps the addresses of the last one, and who finds those waits
        # for connections that are gone.
        store, rank, size = next(rendezvous("env://", timeout=_PATIENCE))
        store.set_timeout(_PATIENCE)
        dist.init_process_group(
            "nccl" if device.startswith("cuda") else "gloo",
            store=PrefixStore(f"sivae {next(_meetings)}", store),
            rank=rank,
            world_size=size,
            timeout=_PATIENCE,
        )
    try:
        yield processes
    finally:
        if ours:
            dist.destroy_process_group()
