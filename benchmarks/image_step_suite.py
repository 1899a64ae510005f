"""One training iteration of Soft-IntroVAE on images: the plain loop with plain networks against ours.

The published conv networks with batch norm and the published hyper-parameters, on random images that are ready on the
device. Timed is a whole update of encoder and decoder, the drawing of its noise included. The baseline is
`PlainSoftIntroStep` with `PlainConvVAE`, float32 and contiguous memory, and torch's Adam as it comes; then the same
given what a practitioner turns on first: channels-last memory and, on a GPU, products in TF32, bfloat16 by autocast,
and torch.compile. Ours is `SoftIntroStep` with `ConvVAE` as `sivae train` runs them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from benchmarks.baselines.conv_networks import PlainConvVAE
from benchmarks.cases import IMAGE_STEP
from benchmarks.image_iterations import (
    EFFORT,
    ImageStepResult,
    timed,
    variants,
)
from benchmarks.measure import CPU, Call, Effort
from sivae.method.plain import PlainSoftIntroStep
from sivae.models import ConvVAE
from sivae.objectives import SoftIntroObjective
from sivae.training import SoftIntroStep, StepOptions

RATE = 2e-4


@dataclass(frozen=True)
class ImageCase:
    """A batch of square colour images and the networks' sizes."""

    op: ClassVar[str] = IMAGE_STEP
    batch: int
    side: int
    widths: tuple[int, ...]
    z_dim: int
    beta_kl: float = 1.0
    beta_neg: float = 256.0

    @property
    def name(self) -> str:
        return f"Soft-IntroVAE iteration, {self.side}x{self.side}, batch {self.batch}"

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return self.batch, 3, self.side, self.side


_TO_256 = (64, 128, 256, 512, 512, 512)
CIFAR = ImageCase(32, 32, (64, 128, 256), 128)
CPU_CASES = (CIFAR,)
CUDA_CASES = (
    CIFAR,
    ImageCase(128, 32, (64, 128, 256), 128),
    ImageCase(16, 128, (64, 128, 256, 512, 512), 256, beta_kl=0.5, beta_neg=1024.0),
    ImageCase(8, 512, (32, *_TO_256), 256, beta_kl=0.5, beta_neg=1024.0),
    ImageCase(4, 1024, (16, 32, *_TO_256), 512, beta_kl=0.5, beta_neg=1024.0),
    ImageCase(32, 256, _TO_256, 256, beta_kl=0.5, beta_neg=1024.0),  # the longest, so that it is what time may end
)


def networks(case: ImageCase, device: torch.device) -> tuple[PlainConvVAE, ConvVAE]:
    """Plain and ours, with the same initial weights at each call."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        ours = ConvVAE(case.side, 3, case.widths, case.z_dim)
    plain = PlainConvVAE(case.side, 3, case.widths, case.z_dim)
    plain.load_state_dict(ours.state_dict())
    return plain.to(device), ours.to(device)


def _adams(model: nn.Module, **settings: object) -> tuple[torch.optim.Adam, torch.optim.Adam]:
    encoder, decoder = (
        torch.optim.Adam(getattr(model, name).parameters(), lr=RATE, **settings)  # type: ignore[arg-type]
        for name in ("encoder", "decoder")
    )
    return encoder, decoder


def plain_step(case: ImageCase, model: PlainConvVAE) -> PlainSoftIntroStep:
    """The baseline's iteration."""
    scale = 1.0 / (3 * case.side * case.side)
    return PlainSoftIntroStep(model, *_adams(model), scale=scale, beta_kl=case.beta_kl, beta_neg=case.beta_neg)


def our_step(
    case: ImageCase,
    model: ConvVAE,
    *,
    autocast: torch.dtype | None = None,
    generator: torch.Generator | None = None,
) -> SoftIntroStep:
    """Ours; with a generator one that a CUDA graph can hold."""
    optimizers = _adams(model, fused=True, capturable=generator is not None)
    objective = SoftIntroObjective(beta_kl=case.beta_kl, beta_neg=case.beta_neg)
    step = SoftIntroStep(model, *optimizers, objective, options=StepOptions(autocast=autocast))
    step.generator = generator
    return step


def makers(case: ImageCase, device: torch.device = CPU, *, compiled: bool = True) -> dict[str, Callable[[], Call]]:
    """What makes the call of every variant."""
    of_case = functools.partial(networks, case, device)
    steps = functools.partial(plain_step, case), functools.partial(our_step, case)
    return variants(case, of_case, *steps, device, compiled=compiled)


def run(
    case: ImageCase, *, device: torch.device = CPU, effort: Effort | None = None, with_compile: bool = True
) -> ImageStepResult:
    """Time the iteration.

    Args:
        case: batch and networks.
        device: where.
        effort: default: `EFFORT` of `image_iterations`.
        with_compile: with the variants that torch.compile takes part in; on a GPU.
    """
    return timed(case, makers(case, device, compiled=with_compile), device, effort or EFFORT)
