"""Takes the optimizers' steps and leaves out those that would do harm, without making the device wait for the host."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

# A norm this many times the recent average is no gradient to follow: one such step fills Adam's second moment and
# freezes the weights for thousands of iterations. Healthy runs stay within a factor of a few tens.
EXPLOSION = 1_000.0
_SETTLED = 100  # updates before the average can be relied on
_MEMORY = 0.99  # share of the average that one more update leaves

# Iterations in a row with an update left out that make a divergence; fewer are an accident.
SEVERAL = 5


@dataclass(frozen=True)
class Trouble:
    """What was left out since the last check.

    Attributes:
        step: the first iteration with an update left out, counted from 1.
        iterations: how many there were.
        in_a_row: the longest unbroken series of them.
        losses: of the last such iteration, as they are, finite or not.
    """

    step: int
    iterations: int
    in_a_row: int
    losses: Mapping[str, float]

    @property
    def diverged(self) -> bool:
        """True where this is more than an accident."""
        return self.in_a_row >= SEVERAL

    def __str__(self) -> str:
        seen = ", ".join(f"{name} {value:.4g}" for name, value in self.losses.items())
        what = "an update was" if self.iterations == 1 else f"updates of {self.iterations} iterations were"
        return f"{what} not finite or exploding, and left out, from step {self.step:,} on ({seen})"


class UpdateGuard:
    """Decides, on the device, whether an update is applied.

    It is not where the Euclidean norm over all of an optimizer's gradients is not finite, or more than
    :data:`EXPLOSION` times the average of those before. An update that is left out changes neither weights nor the
    optimizer's state.

    Args:
        optimizers: whose parameters to watch; all on one device.
        buffers: what forward passes change, batch norm's running statistics: put back with the update left out.
        reduce: brings the gradients of several processes together, in place, before they are looked at.

    Attributes:
        in_series: whether, at the last check, the iteration before had an update left out.
    """

    def __init__(
        self,
        optimizers: Iterable[Optimizer],
        buffers: Iterable[Tensor] = (),
        reduce: Callable[[list[Tensor]], None] | None = None,
    ) -> None:
        self._optimizers = list(optimizers)
        self._buffers = list(buffers)
        self._good_buffers = [buffer.clone() for buffer in self._buffers]
        self._reduce = reduce
        self._device = self._optimizers[0].param_groups[0]["params"][0].device
        # Of each optimizer: the running mean of its norms, and how many there were.
        self._mean = torch.zeros(len(self._optimizers), device=self._device)
        self._count = torch.zeros(len(self._optimizers), device=self._device)
        # Everything below is changed in place, as a captured CUDA graph knows only the memory it was captured with.
        self._left_out = torch.zeros((), dtype=torch.bool, device=self._device)
        self._now = torch.zeros((), dtype=torch.int64, device=self._device)
        self._row, self._first, self._iterations, self._longest = torch.zeros(
            4, dtype=torch.int64, device=self._device
        ).unbind()
        self._losses: dict[tuple[str, ...], Tensor] = {}  # one vector for the names of each phase
        self._names: tuple[str, ...] = ()
        self.in_series = False
        self._forget()

    def _forget(self) -> None:
        # A series that goes on keeps its beginning.
        self._first.copy_(torch.where(self._row > 0, self._now - self._row + 1, -1))
        self._iterations.zero_()
        self._longest.zero_()

    def apply(self, optimizer: Optimizer) -> None:
        """Let the optimizer take its step, unless that would do harm. Stays on the device."""
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if self._reduce is not None:
            self._reduce(gradients)
        index = self._optimizers.index(optimizer)
        norm = get_total_norm(gradients).float()
        mean, count = self._mean[index], self._count[index]
        harmful = ~(norm * 0.0 == 0.0) | ((count >= _SETTLED) & (norm > EXPLOSION * mean))
        if getattr(optimizer, "_step_supports_amp_scaling", False):
            optimizer.found_inf = harmful.float()  # type: ignore[attr-defined]
            optimizer.step()
        elif not bool(harmful):  # an optimizer that cannot be told on the device
            optimizer.step()
        # The plain mean of the first updates, then one that forgets.
        weight = (1.0 / (count + 1.0)).clamp_min(1.0 - _MEMORY)
        mean.add_(torch.where(harmful, 0.0, (norm - mean) * weight))
        count.add_(~harmful)
        self._left_out.logical_or_(harmful)

    def watch(self, losses: Mapping[str, Tensor]) -> None:
        """Take note of the iteration just done, whose losses these are. Stays on the device."""
        values = torch.stack([value.detach().float() for value in losses.values()])
        self._names = tuple(losses)
        if self._names not in self._losses:
            self._losses[self._names] = values.clone()
        kept = self._losses[self._names]
        out = self._left_out
        kept.copy_(torch.where(out, values, kept))
        self._now.add_(1)
        self._row.add_(1).mul_(out)
        self._longest.copy_(torch.maximum(self._longest, self._row))
        self._iterations.add_(out)
        self._first.copy_(torch.where(out & (self._first < 0), self._now, self._first))
        for buffer, good in zip(self._buffers, self._good_buffers, strict=True):
            good.copy_(torch.where(out, good, buffer))
            buffer.copy_(good)
        out.zero_()

    def check(self) -> Trouble | None:
        """Wait for the device, and tell what was left out since the last check, if anything."""
        if not self._names:
            return None
        facts = torch.stack([self._first, self._iterations, self._longest, self._row]).double()
        step, iterations, in_a_row, row, *losses = torch.cat([facts, self._losses[self._names].double()]).tolist()
        self.in_series = row > 0
        self._forget()
        if iterations == 0:
            return None
        return Trouble(int(step), int(iterations), int(in_a_row), dict(zip(self._names, losses, strict=True)))

    def start_over(self) -> None:
        """Forget how large updates used to be: another loss, of another scale, takes over."""
        self._mean.zero_()
        self._count.zero_()

    def state(self) -> dict[str, Any]:
        """What a resumed run needs."""
        return {"mean": self._mean.cpu(), "count": self._count.cpu(), "row": int(self._row)}

    def load_state(self, state: Mapping[str, Any], step: int) -> None:
        """The inverse of :meth:`state`, with `step` iterations done."""
        self._now.fill_(step)
        self._mean.copy_(state["mean"])
        self._count.copy_(state["count"])
        self._row.fill_(state["row"])
        self._forget()
        for buffer, good in zip(self._buffers, self._good_buffers, strict=True):
            good.copy_(buffer)  # which the checkpoint's are by now
