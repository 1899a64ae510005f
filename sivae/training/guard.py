"""Notices when gradients stop being finite, without making a device wait for the host in every step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from sivae.training.config import Phase
from sivae.training.errors import NonFiniteError

# What to try for a new run where the gradients of a phase stopped being finite, the likeliest first.
_VAE_CAUSES = "a rate too high for the batch, or data that is not finite"
_INTRO_CAUSES = "a rate too high for the batch, or the fakes' KL running away"
_ADVICE: dict[Phase, tuple[str, str]] = {
    "warm-up": (_VAE_CAUSES, "raise --beta-kl if kl_real grew while rec fell"),
    "vae": (_VAE_CAUSES, "raise --beta-kl if kl_real grew while rec fell"),
    "intro": (_INTRO_CAUSES, "lower --alpha, or --margin, if the fakes' KL was far above kl_real"),
    "soft-intro": (
        _INTRO_CAUSES,
        "raise --beta-neg if the fakes' KL was far above kl_real, lower it if it was near kl_real while rec grew",
    ),
}


class FiniteGuard:
    """Watches the gradients of some optimizers' parameters.

    Gradients count as finite when the Euclidean norm over all of them is: one whose square overflows would
    fill Adam's second moment with infinities, and freeze its weight for good, although it is finite itself.

    Args:
        optimizers: whose parameters to watch.
        phase_at: what an iteration trains, which decides the advice.
        step: iterations done so far.
    """

    def __init__(self, optimizers: Iterable[Optimizer], phase_at: Callable[[int], Phase], step: int = 0) -> None:
        self._phase_at = phase_at
        groups = [group for optimizer in optimizers for group in optimizer.param_groups]
        self._parameters = [parameter for group in groups for parameter in group["params"]]
        device = self._parameters[0].device
        self._start = self._checked = step
        # Stays 0 until a gradient is not finite, then is NaN for good.
        self._poison = torch.zeros((), device=device)
        self._finite_steps = torch.zeros((), dtype=torch.int64, device=device)
        self._last: Mapping[str, float] = {}

    def watch(self) -> None:
        """Take note of the gradients of the step just done. Stays on the device."""
        gradients: list[Tensor] = [p.grad for p in self._parameters if p.grad is not None]
        self._poison += get_total_norm(gradients).float() * 0.0
        self._finite_steps += self._poison == 0

    def check(self, step: int, last_good: str) -> None:
        """Wait for the device, and raise if any gradient since the start was not finite.

        Args:
            step: iterations done.
            last_good: where to go on from, for the message.

        Raises:
            NonFiniteError: with the step, likely causes and remedies.
        """
        finite = self._start + int(self._finite_steps)
        if finite >= step:
            self._checked = step
            return
        phase = self._phase_at(finite + 1)
        causes, remedy = _ADVICE[phase]
        seen = ", ".join(f"{key} {value:.4g}" for key, value in self._last.items())
        raise NonFiniteError(
            f"training diverged: gradients stopped being finite in step {finite + 1} "
            f"({phase}; between the checks at steps {self._checked} and {step}"
            f"{f'; at the earlier one {seen}' if seen else ''}). "
            f"Likely causes: {causes}. "
            f"Remedies for a new run, in this order: lower --learning-rate (half of it, say); {remedy}; "
            f"check that the data is finite. {last_good}",
            finite + 1,
        )

    def remember(self, values: Mapping[str, float]) -> None:
        """Keep the losses of a step that was checked, for the message when a later one fails."""
        self._last = {key: values[key] for key in ("rec", "kl_real", "kl_fake", "kl_rec") if key in values}
