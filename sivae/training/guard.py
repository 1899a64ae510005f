"""Apply the optimizers' steps and skip harmful ones, without making the device wait for the host."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypedDict

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from sivae.fields import SEED, table

# A gradient whose norm is this many times the recent average is skipped: one such step fills Adam's second moment and
# freezes the weights for thousands of iterations. Healthy runs stay within a factor of a few tens.
EXPLOSION = 1_000.0
_SETTLED = 100  # number of updates after which the average is reliable
_MEMORY = 0.99  # share of the old average after one more update

# This many iterations in a row with a skipped update are a divergence; fewer are an accident.
SEVERAL = 5


@dataclass(frozen=True)
class Trouble:
    """The skipped updates since the last check.

    Attributes:
        step: the first iteration with a skipped update, counted from 1.
        iterations: number of such iterations.
        in_a_row: length of the longest unbroken series of them.
        losses: losses of the last of them, finite or not.
    """

    step: int
    iterations: int
    in_a_row: int
    losses: Mapping[str, float]

    @property
    def diverged(self) -> bool:
        """Whether the series is long enough for a divergence."""
        return self.in_a_row >= SEVERAL

    def __str__(self) -> str:
        seen = ", ".join(f"{name} {value:.4g}" for name, value in self.losses.items())
        what = "an update was" if self.iterations == 1 else f"updates of {self.iterations} iterations were"
        return f"{what} not finite or exploding, and left out, from step {self.step:,} on ({seen})"


class _State(TypedDict):
    mean: Tensor
    count: Tensor
    row: Annotated[int, SEED]


class UpdateGuard:
    """Decides on the device whether to apply an update.

    An update is skipped if the Euclidean norm over all of an optimizer's gradients is not finite, or is more than
    :data:`EXPLOSION` times the average of the norms before. A skipped update changes neither weights nor the
    optimizer's state.

    Args:
        optimizers: the optimizers to watch; all parameters are on one device.
        buffers: buffers that forward passes change (batch norm's running statistics); they are restored when an update
            is skipped.
        reduce: averages the gradients over several processes, in place, before they are examined.

    Attributes:
        in_series: whether, at the last check, the last iteration had a skipped update.
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
        # For each optimizer: the running mean of its norms, and their number.
        self._mean = torch.zeros(len(self._optimizers), device=self._device)
        self._count = torch.zeros(len(self._optimizers), device=self._device)
        # Everything below is changed in place, because a captured CUDA graph uses fixed memory.
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
        # A series that has not ended keeps its first step.
        self._first.copy_(torch.where(self._row > 0, self._now - self._row + 1, -1))
        self._iterations.zero_()
        self._longest.zero_()

    def apply(self, optimizer: Optimizer) -> None:
        """Apply the optimizer's step, unless it is harmful. The host does not wait for the device."""
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if not gradients:  # its network is frozen
            return
        if self._reduce is not None:
            self._reduce(gradients)
        index = self._optimizers.index(optimizer)
        norm = get_total_norm(gradients).float()
        mean, count = self._mean[index], self._count[index]
        harmful = ~(norm * 0.0 == 0.0) | ((count >= _SETTLED) & (norm > EXPLOSION * mean))
        if getattr(optimizer, "_step_supports_amp_scaling", False):
            optimizer.found_inf = harmful.float()  # type: ignore[attr-defined]
            optimizer.step()
        elif not bool(harmful):  # this optimizer can only be controlled by the host
            optimizer.step()
        # The plain mean of the first updates, later an exponential average.
        weight = (1.0 / (count + 1.0)).clamp_min(1.0 - _MEMORY)
        mean.add_(torch.where(harmful, 0.0, (norm - mean) * weight))
        count.add_(~harmful)
        self._left_out.logical_or_(harmful)

    def watch(self, losses: Mapping[str, Tensor]) -> None:
        """Register a completed iteration with its losses. The host does not wait for the device."""
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
        """Wait for the device, and return the skipped updates since the last check; None if there are none."""
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
        """Forget the usual size of updates, because the loss changes its scale."""
        self._mean.zero_()
        self._count.zero_()

    def state(self) -> dict[str, Any]:
        """Return the state that a resumed run needs."""
        return {"mean": self._mean.cpu(), "count": self._count.cpu(), "row": int(self._row)}

    def load_state(self, state: Mapping[str, Any], step: int) -> None:
        """Restore a state of :meth:`state`, after `step` completed iterations.

        Raises:
            ValueError: the state has other keys or types.
        """
        state = table(state, _State)
        self._now.fill_(step)
        self._mean.copy_(state["mean"])
        self._count.copy_(state["count"])
        self._row.fill_(state["row"])
        self._forget()
        for buffer, good in zip(self._buffers, self._good_buffers, strict=True):
            good.copy_(buffer)  # the buffers already have the checkpoint's values
