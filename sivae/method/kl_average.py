"""Keep running means over the iterations: the kl that an automatic beta_neg follows, the decoder's squared error."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, TypedDict

import torch
from torch import Tensor

from sivae.fields import table

_MEMORY = 0.98  # share of the old mean after one more iteration
_JUMP = 10.0  # a kl counts at most as this many times the mean: one bad batch moves a settled mean by less than a fifth
_LEAST = 0.1  # nats; a smaller mean is that of a posterior that holds nothing, and would make beta_neg endless
_LEAST_VARIANCE = 1e-6  # of values with a range of about 1; rounding them to 8 bits has (1/255)^2 / 12, more than that
_FIRST_VARIANCE = 0.05  # of the first iteration; images whose values are in [0, 1] have about as much


class _State(TypedDict):
    sums: Tensor


class KLAverage:
    """The running mean of kl(real) over the iterations, computed on the device without waiting for it.

    Args:
        reduce: averages tensors over several processes, in place.
    """

    least: ClassVar[float] = _LEAST

    def __init__(self, reduce: Callable[[list[Tensor]], None] | None = None) -> None:
        self._reduce = reduce
        # The weighted sum of the kl, and the sum of the weights. Changed in place: a captured CUDA graph uses fixed
        # memory.
        self._sums = torch.zeros(2)

    def observe(self, kl_real: Tensor) -> None:
        """Add an iteration's mean kl, a scalar."""
        sums = self._like(kl_real)
        kl = kl_real.detach().to(sums.dtype, copy=True).reshape(1)
        if self._reduce is not None:
            self._reduce([kl])
        total, weight = sums.split(1)
        mean = (total / weight).clamp_min(self.least)  # NaN before the first iteration
        counted = torch.where(weight > 0, torch.minimum(kl, _JUMP * mean), kl)
        change = (1.0 - _MEMORY) * torch.cat([counted, torch.ones_like(kl)])
        sums.copy_(torch.where(kl.isfinite(), _MEMORY * sums + change, sums))

    def start_over(self) -> None:
        """Forget all observations."""
        self._sums.zero_()

    def mean(self, kl: Tensor) -> Tensor:
        """Compute the mean in nats, a scalar; NaN before the first observation, and 0.1 if it is less.

        The result is on the device of `kl`, and in its dtype, but float32 at least.
        """
        total, weight = self._like(kl).unbind()
        return (total / weight).clamp_min(self.least)

    def _like(self, kl: Tensor) -> Tensor:
        self._sums = self._sums.to(kl.device, torch.promote_types(kl.dtype, torch.float32))
        return self._sums

    def state(self) -> dict[str, Any]:
        """Return the state that a resumed run needs."""
        return {"sums": self._sums.cpu()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore a state of :meth:`state`.

        Raises:
            ConfigError: the state has other keys or types.
            RuntimeError: it has another number of values.
        """
        self._sums = table(state, _State)["sums"].reshape(2).to(self._sums.device)


class ErrorAverage(KLAverage):
    """The running mean of the squared error of a reconstructed value, kept as :class:`KLAverage` keeps a kl.

    It is the variance of a Gaussian decoder that makes the data most likely, one for all values.
    """

    least: ClassVar[float] = _LEAST_VARIANCE

    def variance(self, like: Tensor) -> Tensor:
        """Compute the variance, a scalar on the device of `like`; before the first observation a usual one."""
        mean = self.mean(like)
        return torch.where(mean.isnan(), _FIRST_VARIANCE, mean)
