"""One training iteration of the style model at a fixed resolution: the plain loop with plain networks against ours.

The published networks, optimizer and weights of the loss, on random images that are ready on the device, with noise,
style mixing and the average style. Timed is a whole update of encoder and decoder. The baseline is `PlainSoftIntroStep`
with `PlainStyleVAE` and, as its authors have it, fresh passes for the decoder's update; float32, contiguous memory, and
torch's Adam as it comes with a group for each rate. Then the same given what a practitioner turns on first:
channels-last memory and, on a GPU, products in TF32, bfloat16 by autocast, and torch.compile. Ours is `SoftIntroStep`
with `StyleVAE` as `sivae train` runs them, with shared passes and with fresh ones.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from benchmarks.baselines.style_networks import PlainStyleVAE
from benchmarks.cases import STYLE_STEP
from benchmarks.image_iterations import EFFORT, ImageStepResult, timed, variants
from benchmarks.measure import CPU, Call, Effort
from sivae.method.plain import PlainSoftIntroStep
from sivae.models.style import StyleVAE
from sivae.objectives import SoftIntroObjective
from sivae.training import SoftIntroStep, StepOptions
from sivae.training.optimizers import make_optimizers, set_rate

FRESH = "fresh passes"
_RATE, _SCALE, _BETA_REC, _BETA_KL, _BETA_NEG = 0.002, 5e-6, 0.05, 0.2, 512.0  # of FFHQ at 256x256


@dataclass(frozen=True)
class StyleCase:
    """A batch of square colour images and the networks' sizes, by default the published ones of 256x256 and below."""

    op: ClassVar[str] = STYLE_STEP
    batch: int
    side: int
    start_channels: int = 64
    max_channels: int = 512
    z_dim: int = 512
    mapping_layers: int = 8

    @property
    def name(self) -> str:
        return f"style model's iteration, {self.side}x{self.side}, batch {self.batch}"

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return self.batch, 3, self.side, self.side

    @property
    def sizes(self) -> dict[str, int]:
        """The arguments of both models."""
        return {
            "image_size": self.side,
            "channels": 3,
            "start_channels": self.start_channels,
            "max_channels": self.max_channels,
            "z_dim": self.z_dim,
            "mapping_layers": self.mapping_layers,
        }


# For a CPU an eighth as wide as the blocks of 32x32 and 64x64 in the published networks.
CPU_CASES = (StyleCase(16, 32, 32, 64, 64), StyleCase(8, 64, 32, 64, 64))
# With the batches that are published for one GPU, as far as those go (`sivae.settings.growth`), and a large one.
CUDA_CASES = (
    StyleCase(16, 64, 256),
    StyleCase(8, 128, 128),
    StyleCase(4, 256),
    StyleCase(4, 512, 32),
    StyleCase(4, 1024, 16),
    StyleCase(32, 256),  # the longest, so that it is what time may end
)


def networks(case: StyleCase, device: torch.device) -> tuple[PlainStyleVAE, StyleVAE]:
    """Plain and ours, with the same initial weights at each call; noise counts as in the middle of a training."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        ours = StyleVAE(**case.sizes)
        with torch.no_grad():
            for name, parameter in ours.named_parameters():
                if "noise_weight" in name:
                    parameter.normal_(std=0.1)
    plain = PlainStyleVAE(**case.sizes)
    plain.load_state_dict(ours.state_dict())
    return plain.to(device), ours.to(device)


def plain_step(model: PlainStyleVAE) -> PlainSoftIntroStep:
    """The baseline's iteration."""
    scales = model.rate_scales()
    encoder, decoder = (
        torch.optim.Adam(_groups(getattr(model, name), name, scales), betas=(0.0, 0.99))
        for name in ("encoder", "decoder")
    )
    return PlainSoftIntroStep(
        model,
        encoder,
        decoder,
        scale=_SCALE,
        beta_rec=_BETA_REC,
        beta_kl=_BETA_KL,
        beta_neg=_BETA_NEG,
        decode_prior=model.decode_prior,
        fresh_passes=True,
    )


def _groups(network: nn.Module, prefix: str, scales: dict[str, float]) -> list[dict[str, object]]:
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        groups.setdefault(scales.get(f"{prefix}.{name}", 1.0), []).append(parameter)
    return [{"params": parameters, "lr": _RATE * scale} for scale, parameters in groups.items()]


def our_step(
    model: StyleVAE,
    *,
    fresh_passes: bool = False,
    autocast: torch.dtype | None = None,
    generator: torch.Generator | None = None,
) -> SoftIntroStep:
    """Ours; with a generator one that a CUDA graph can hold."""
    device, captured = model.average_style.device, generator is not None
    optimizers = make_optimizers(model, torch.tensor(_RATE, device=device) if captured else _RATE, capturable=captured)
    for optimizer in optimizers.values():
        set_rate(optimizer, _RATE)
    objective = SoftIntroObjective(beta_rec=_BETA_REC, beta_kl=_BETA_KL, beta_neg=_BETA_NEG, scale=_SCALE)
    options = StepOptions(autocast=autocast, fresh_passes=fresh_passes)
    step = SoftIntroStep(model, optimizers["encoder"], optimizers["decoder"], objective, options=options)
    step.generator = generator
    return step


def makers(case: StyleCase, device: torch.device = CPU, *, compiled: bool = True) -> dict[str, Callable[[], Call]]:
    """What makes the call of every variant."""
    of_case, fresh = functools.partial(networks, case, device), functools.partial(our_step, fresh_passes=True)
    return variants(case, of_case, plain_step, our_step, device, compiled=compiled, further={FRESH: fresh})


def run(
    case: StyleCase, *, device: torch.device = CPU, effort: Effort | None = None, with_compile: bool = True
) -> ImageStepResult:
    """Time the iteration; see `benchmarks.image_step_suite.run`."""
    return timed(case, makers(case, device, compiled=with_compile), device, effort or EFFORT)
