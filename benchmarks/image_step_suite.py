"""One training iteration of Soft-IntroVAE on images: the plain loop with plain networks against ours.

The published conv networks with batch norm and the published hyper-parameters, on random images that are ready on the
device. Timed is a whole update of encoder and decoder, the drawing of its noise included. The baseline is
`PlainSoftIntroStep` with `PlainConvVAE`, float32 and contiguous memory, and torch's Adam as it comes; then the same
given what a practitioner turns on first: channels-last memory and, on a GPU, bfloat16 by autocast. Ours is
`SoftIntroStep` with `ConvVAE` as `sivae train` runs them.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, TypeVar

import torch
from torch import Tensor, nn

from benchmarks.baselines.conv_networks import PlainConvVAE
from benchmarks.baselines.soft_intro_loop import PlainSoftIntroStep
from benchmarks.cases import IMAGE_STEP
from benchmarks.measure import CPU, Call, Effort, Measurement, measure, peak_extra_bytes
from benchmarks.ops_suite import EAGER
from sivae.models import ConvVAE
from sivae.objectives import SoftIntroObjective
from sivae.training import SoftIntroStep, StepOptions
from sivae.training.graph import GraphedCall

Network = TypeVar("Network", bound=nn.Module)

EFFORT = Effort(rounds=7, sample_seconds=0.0, warmup_calls=1, warmup_seconds=0.0, limit_seconds=60.0, least_rounds=5)
QUICK_EFFORT = Effort(
    rounds=3, sample_seconds=0.0, warmup_calls=1, warmup_seconds=0.0, limit_seconds=8.0, least_rounds=2
)
RATE = 2e-4
_BATCHES = 4  # drawn beforehand; every contender goes round them

CHANNELS_LAST = f"{EAGER}, channels-last"
BF16 = f"{EAGER}, bf16, channels-last"
BF16_COMPILED = f"{BF16}, compiled"
OURS = "native"
OURS_BF16 = "native, bf16"
OURS_GRAPH = "native, bf16, graph"
OURS_COMPILED = "native, bf16, compiled"


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
    ImageCase(32, 256, _TO_256, 256, beta_kl=0.5, beta_neg=1024.0),
    ImageCase(8, 512, (32, *_TO_256), 256, beta_kl=0.5, beta_neg=1024.0),
    ImageCase(4, 1024, (16, 32, *_TO_256), 512, beta_kl=0.5, beta_neg=1024.0),
)


class Case(Protocol):
    """What a result says of its iteration."""

    @property
    def op(self) -> str: ...

    @property
    def name(self) -> str: ...

    @property
    def shape(self) -> tuple[int, int, int, int]: ...


@dataclass(frozen=True)
class ImageStepResult:
    """The variants' times in the same rounds; see `benchmarks.step_suite.StepResult`."""

    case: Case
    variants: Sequence[str]
    measurement: Measurement
    peak_extra_bytes: Mapping[str, int | None]


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


def our_step(case: ImageCase, model: ConvVAE, **settings: object) -> SoftIntroStep:
    """Ours; `settings` are Adam's, beside fused=True, and `autocast`."""
    options = StepOptions(autocast=settings.pop("autocast", None))  # type: ignore[arg-type]
    objective = SoftIntroObjective(beta_kl=case.beta_kl, beta_neg=case.beta_neg)
    return SoftIntroStep(model, *_adams(model, fused=True, **settings), objective, options=options)


def batches(case: Case, device: torch.device, memory_format: torch.memory_format) -> list[Tensor]:
    """Random images [B, 3, side, side] in [0, 1]."""
    generator = torch.Generator().manual_seed(0)
    return [
        torch.rand(case.shape, generator=generator).to(device).contiguous(memory_format=memory_format)
        for _ in range(_BATCHES)
    ]


def calls(case: ImageCase, device: torch.device = CPU) -> dict[str, Call]:
    """Every variant: one iteration on the next batch per call, each with a model of its own."""
    plain, ours = networks(case, device)
    flat = batches(case, device, torch.contiguous_format)
    last = batches(case, device, torch.channels_last)
    plain_last, ours_last = in_channels_last(plain), in_channels_last(ours)
    contenders: dict[str, Call] = {
        EAGER: over(plain_step(case, plain), flat),
        CHANNELS_LAST: over(plain_step(case, plain_last), last),
        OURS: over(our_step(case, ours_last), last),
    }
    if device.type == "cuda":
        contenders[BF16] = under_autocast(over(plain_step(case, copy.deepcopy(plain_last)), last), device)
        contenders[OURS_BF16] = over(our_step(case, copy.deepcopy(ours_last), autocast=torch.bfloat16), last)
        generator = torch.Generator(device).manual_seed(0)
        captured = our_step(case, copy.deepcopy(ours_last), autocast=torch.bfloat16, capturable=True)
        captured.generator = generator
        graph = GraphedCall(lambda x, condition: captured(x, condition=condition), [generator])
        contenders[OURS_GRAPH] = over(lambda x: graph(x, None), last)
        compiled = copy.deepcopy(ours_last)
        compiled.encoder.compile(dynamic=False)
        compiled.decoder.compile(dynamic=False)
        contenders[OURS_COMPILED] = over(our_step(case, compiled, autocast=torch.bfloat16), last)
    return contenders


def in_channels_last(model: Network) -> Network:
    """A copy whose weights lie channels last."""
    copied = copy.deepcopy(model)
    copied.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return copied


def over(step: object, data: list[Tensor]) -> Call:
    """A step on the next batch at each call."""
    turns: Iterator[Tensor] = itertools.cycle(data)
    return lambda: step(next(turns))  # type: ignore[operator]


def under_autocast(call: Call, device: torch.device) -> Call:
    """The call with networks in bfloat16."""

    def cast() -> object:
        with torch.autocast(device.type, torch.bfloat16):
            return call()

    return cast


def run(case: ImageCase, *, device: torch.device = CPU, effort: Effort | None = None) -> ImageStepResult:
    """Time the iteration.

    Args:
        case: batch and networks.
        device: where.
        effort: default: `EFFORT`.
    """
    return timed(case, lambda: calls(case, device), device, effort or EFFORT)


def timed(case: Case, make: Callable[[], dict[str, Call]], device: torch.device, effort: Effort) -> ImageStepResult:
    """Time contenders that `make` makes."""
    from torch._functorch import config as functorch

    with functorch.patch(donated_buffer=False):  # as the trainer does for compiled networks
        contenders = make()
        peaks: dict[str, int | None] = {}
        for name, call in contenders.items():
            call()  # the optimisers' state comes into being
            peaks[name] = peak_extra_bytes(call, device)
        measured = measure(contenders, effort, device=device)
    return ImageStepResult(case, tuple(contenders), measured, peaks)
