"""One training iteration of the style model at a fixed resolution: the plain loop with plain networks against ours.

The published networks, optimiser and weights of the loss, on random images that are ready on the device, with noise,
style mixing and the average style. Timed is a whole update of encoder and decoder. The baseline is `PlainSoftIntroStep`
with `PlainStyleVAE` and, as its authors have it, fresh passes for the decoder's update; float32, contiguous memory, and
torch's Adam as it comes with a group for each rate. Then the same given what a practitioner turns on first:
channels-last memory and, on a GPU, bfloat16 by autocast, and torch.compile. Ours is `SoftIntroStep` with `StyleVAE` as
`sivae train` runs them, with shared passes and with fresh ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, TypeVar

import torch
from torch import nn

from benchmarks.baselines.soft_intro_loop import PlainSoftIntroStep
from benchmarks.baselines.style_networks import PlainStyleVAE
from benchmarks.cases import STYLE_STEP
from benchmarks.image_step_suite import (
    BF16,
    BF16_COMPILED,
    CHANNELS_LAST,
    EFFORT,
    OURS,
    OURS_BF16,
    OURS_COMPILED,
    OURS_GRAPH,
    ImageStepResult,
    batches,
    in_channels_last,
    over,
    timed,
    under_autocast,
)
from benchmarks.measure import CPU, Call, Effort
from benchmarks.ops_suite import EAGER
from sivae.models.style import StyleVAE
from sivae.objectives import SoftIntroObjective
from sivae.training import SoftIntroStep, StepOptions
from sivae.training.graph import GraphedCall
from sivae.training.optimizers import make_optimizers, set_rate

Model = TypeVar("Model", PlainStyleVAE, StyleVAE)

OURS_FRESH = "native, fresh passes"
_RATE, _SCALE, _BETA_REC, _BETA_KL, _BETA_NEG = 0.002, 5e-6, 0.05, 0.2, 512.0  # of FFHQ at 256x256
_GRAPHED_UP_TO = 128  # pixels a side; above, launching hides behind computing


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
CUDA_CASES = (
    StyleCase(32, 32, 512),
    StyleCase(16, 128, 128),
    StyleCase(32, 256),
    StyleCase(8, 512, 32),
    StyleCase(4, 1024, 16),
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
    model: StyleVAE, *, fresh_passes: bool = False, autocast: torch.dtype | None = None, captured: bool = False
) -> SoftIntroStep:
    """Ours; `captured` in a CUDA graph."""
    device = model.average_style.device
    optimizers = make_optimizers(model, torch.tensor(_RATE, device=device) if captured else _RATE, capturable=captured)
    for optimizer in optimizers.values():
        set_rate(optimizer, _RATE)
    objective = SoftIntroObjective(beta_rec=_BETA_REC, beta_kl=_BETA_KL, beta_neg=_BETA_NEG, scale=_SCALE)
    options = StepOptions(autocast=autocast, fresh_passes=fresh_passes)
    return SoftIntroStep(model, optimizers["encoder"], optimizers["decoder"], objective, options=options)


def calls(case: StyleCase, device: torch.device = CPU) -> dict[str, Call]:
    """Every variant: one iteration on the next batch per call, each with a model of its own."""
    plain, ours = networks(case, device)
    flat = batches(case, device, torch.contiguous_format)
    last = batches(case, device, torch.channels_last)
    contenders: dict[str, Call] = {
        EAGER: over(plain_step(plain), flat),
        CHANNELS_LAST: over(plain_step(in_channels_last(plain)), last),
        OURS: over(our_step(in_channels_last(ours)), last),
        OURS_FRESH: over(our_step(in_channels_last(ours), fresh_passes=True), last),
    }
    if device.type == "cuda":
        half = torch.bfloat16
        contenders[BF16] = under_autocast(over(plain_step(in_channels_last(plain)), last), device)
        compiled_plain = _compiled(in_channels_last(plain))
        contenders[BF16_COMPILED] = under_autocast(over(plain_step(compiled_plain), last), device)
        contenders[OURS_BF16] = over(our_step(in_channels_last(ours), autocast=half), last)
        if case.side <= _GRAPHED_UP_TO:
            generator = torch.Generator(device).manual_seed(0)
            captured = our_step(in_channels_last(ours), autocast=half, captured=True)
            captured.generator = generator
            graph = GraphedCall(lambda x, condition: captured(x, condition=condition), [generator])
            contenders[OURS_GRAPH] = over(lambda x: graph(x, None), last)
        contenders[OURS_COMPILED] = over(our_step(_compiled(in_channels_last(ours)), autocast=half), last)
    return contenders


def _compiled(model: Model) -> Model:
    model.encoder.compile(dynamic=False)
    model.decoder.compile(dynamic=False)
    return model


def run(case: StyleCase, *, device: torch.device = CPU, effort: Effort | None = None) -> ImageStepResult:
    """Time the iteration; see `benchmarks.image_step_suite.run`."""
    return timed(case, lambda: calls(case, device), device, effort or EFFORT)
