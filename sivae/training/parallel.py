"""Train one model with several processes, started by `torchrun`: their ranks, and the exchange between them."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import Tensor
from torch import distributed as dist
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from sivae.errors import ConfigError, ExchangeError
from sivae.machine import memory_shortage

_PATIENCE = timedelta(hours=2)  # the others wait while the first process computes metrics and draws
_START = timedelta(minutes=15)  # between the starts of two processes
_meetings = itertools.count()  # how often this process has joined others


@dataclass(frozen=True)
class Processes:
    """The position of this process among the processes that train together, and their communication.

    Attributes:
        rank: number of this process, from 0.
        count: number of processes.
        local_rank: number of this process on its machine.
    """

    rank: int = 0
    count: int = 1
    local_rank: int = 0

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.rank == 0

    def device(self, name: str) -> torch.device:
        """Return this process's device: `name`, but several processes on "cuda" each have their own GPU."""
        device = torch.device(name)
        if device.type == "cuda" and self.count > 1:
            device = torch.device("cuda", self.local_rank)
        return device

    def average(self, tensors: list[Tensor]) -> None:
        """Replace tensors, in place, by their means over all processes, in one exchange."""
        if self.count == 1 or not tensors:
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        dist.all_reduce(flat)
        flat /= self.count
        for tensor, values in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(values.view_as(tensor))

    def copy_from_first(self, tensors: list[Tensor]) -> None:
        """Replace tensors, in place, by those of the first process."""
        if self.count > 1:
            for tensor in tensors:
                dist.broadcast(tensor, src=0)

    def average_losses(self, losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Average scalars over all processes."""
        if self.count == 1:
            return dict(losses)
        values = torch.stack([value.detach().float() for value in losses.values()])
        self.average([values])
        return dict(zip(losses, values.unbind(), strict=True))

    def any(self, value: bool, device: torch.device) -> bool:
        """Return whether `value` is true in any process. All processes must call this."""
        if self.count == 1:
            return value
        flag = torch.tensor([float(value)], device=device)
        dist.all_reduce(flag)
        return bool(flag.item() > 0)

    def wait(self) -> None:
        """Wait until all processes have called this."""
        if self.count > 1:
            dist.barrier()

    def text_of_first(self, text: str) -> str:
        """Return the text of the first process, in all processes."""
        if self.count == 1:
            return text
        box: list[str] = [text]
        dist.broadcast_object_list(box, src=0)
        return box[0]


def claim_gpu() -> None:
    """Make this process's GPU the current one, before anything is allocated on the first GPU."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))


@contextlib.contextmanager
def joined(device: str) -> Iterator[Processes]:
    """Join the other processes if `torchrun` started this one.

    Args:
        device: processes communicate by NCCL for "cuda…", by gloo for other devices.

    Raises:
        ConfigError: torchrun's variables are incomplete.
        ExchangeError: the processes cannot reach each other, here or inside.
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
    try:
        if ours:
            _join(device)
        yield processes
    except RuntimeError as error:
        if not _is_of_exchange(error):
            raise
        raise ExchangeError(
            f"the exchange between the training's processes failed in process {processes.rank}: "
            f"{_reason(error)}; if another process has ended, its own message says why; start all of "
            "them again with --resume and the run's folder"
        ) from error
    finally:
        if ours and dist.is_initialized():
            dist.destroy_process_group()


def _join(device: str) -> None:
    # A new prefix each time, also after torchrun has started the processes again: its store still has the addresses of
    # the last group, and a process that reads them waits for connections that are closed.
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    base, rank, size = next(rendezvous("env://", timeout=_START))
    store = PrefixStore(f"sivae {attempt} {next(_meetings)}", base)
    store.set(f"process {rank}", "")
    store.wait([f"process {other}" for other in range(size)], _START)  # its error names those that are missing
    base.set_timeout(_PATIENCE)
    dist.init_process_group(
        "nccl" if device.startswith("cuda") else "gloo",
        store=store,
        rank=rank,
        world_size=size,
        timeout=_PATIENCE,
    )


def _reason(error: RuntimeError) -> str:
    """The first words of an error, without places in torch's source and advice to its developers."""
    text = " ".join(re.sub(r"\[/\S+\] ", "", str(error)).split())
    return text.split(". This is typically", 1)[0].removesuffix(".")[:400]


def _is_of_exchange(error: RuntimeError) -> bool:
    """Whether an error comes from NCCL, from torchrun's store, or from gloo, whose errors have no type of their own."""
    return not memory_shortage(error) and (isinstance(error, dist.DistError) or "/gloo/" in str(error))
