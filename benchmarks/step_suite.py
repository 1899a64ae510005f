"""One training iteration of Soft-IntroVAE in 2D: the plain loop against the shared-forward step.

Batch 512 of 8gaussians, the 2D network and the recommended hyper-parameters. Timed is a whole update of encoder and
decoder on a batch that is ready, the drawing of its noise included. The baseline is `PlainSoftIntroStep` on plain
modules with torch's Adam as it comes; `SoftIntroStep` runs on `MLPVAE` with the fused Adam, once on each backend; the
baseline with that Adam tells the two apart. All run in a process that keeps its freed memory, as `sivae train` does.
The matrix products alone are timed in the same rounds, as a floor.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from benchmarks.baselines.mlp_networks import PlainMLPVAE
from benchmarks.measure import CPU, Call, Effort, Measurement, measure, peak_extra_bytes
from benchmarks.ops_suite import EAGER, REFERENCE, backends_for
from sivae import ops
from sivae.data.densities import get_density
from sivae.method.plain import PlainSoftIntroStep
from sivae.models import MLPVAE
from sivae.objectives import SoftIntroObjective
from sivae.training import SoftIntroStep

EAGER_FUSED_ADAM = f"{EAGER}, fused Adam"
PRODUCTS = "matrix products"
EFFORT = Effort(rounds=60, sample_seconds=2e-2, warmup_seconds=0.2, limit_seconds=20.0)
QUICK_EFFORT = Effort(rounds=7, sample_seconds=1e-2, limit_seconds=5.0, least_rounds=3)
Model = TypeVar("Model", MLPVAE, PlainMLPVAE)
DENSITY = "8gaussians"
BETA_REC, BETA_KL, BETA_NEG, SCALE = 0.2, 0.3, 0.9, 0.5
RATE = 2e-4
_BATCHES = 16  # drawn beforehand; every contender goes round them


@dataclass(frozen=True)
class StepCase:
    """A batch size and the width and depth of the 2D network."""

    batch: int = 512
    hidden: int = 256
    layers: int = 4

    @property
    def name(self) -> str:
        return f"Soft-IntroVAE iteration, {DENSITY}, batch {self.batch}, {self.layers} x {self.hidden}"


CASE = StepCase()


@dataclass(frozen=True)
class StepResult:
    """The variants' times in the same rounds.

    Attributes:
        case: what was timed.
        variants: in order; the first is the baseline.
        measurement: the times, by variant.
        peak_extra_bytes: by variant, of one iteration, beyond what the training holds between two.
    """

    case: StepCase
    variants: Sequence[str]
    measurement: Measurement
    peak_extra_bytes: Mapping[str, int | None]


def build_model(case: StepCase, kind: type[Model], device: torch.device = CPU) -> Model:
    """The same initial weights at each call, whatever the global generator's state, which is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return kind(hidden=case.hidden, layers=case.layers).to(device)


def plain_step(case: StepCase, device: torch.device = CPU, *, fused: bool | None = None) -> PlainSoftIntroStep:
    """The baseline, with torch's Adam as it comes or, to tell that difference apart, the fused one."""
    model = build_model(case, PlainMLPVAE, device)
    return PlainSoftIntroStep(
        model,
        torch.optim.Adam(model.encoder.parameters(), lr=RATE, fused=fused),
        torch.optim.Adam(model.decoder.parameters(), lr=RATE, fused=fused),
        scale=SCALE,
        beta_rec=BETA_REC,
        beta_kl=BETA_KL,
        beta_neg=BETA_NEG,
    )


def shared_step(case: StepCase, device: torch.device = CPU) -> SoftIntroStep:
    """The step under test; its ops run on whichever backend is in force when it is called."""
    model = build_model(case, MLPVAE, device)
    objective = SoftIntroObjective(beta_rec=BETA_REC, beta_kl=BETA_KL, beta_neg=BETA_NEG, scale=SCALE)
    return SoftIntroStep(
        model,
        torch.optim.Adam(model.encoder.parameters(), lr=RATE, fused=True),
        torch.optim.Adam(model.decoder.parameters(), lr=RATE, fused=True),
        objective,
    )


class MatrixProducts:
    """The matrix products that a shared-forward step cannot do without, and nothing else of it.

    In forward passes at the batch size, with the gradient of a layer's input or of its weight as 1 each:
    encoder 13 = 5 forward (data; two fakes, twice) + 3 weight + 5 input gradients,
    decoder 11 = 4 forward (z, noise, two fakes) + 2 weight + 5 input gradients.
    Two fakes run as one batch of twice the size, as they do in the step.

    Args:
        case: batch size and network.
        model: whose linear layers' shapes to take.
    """

    # (forward passes, weight gradients, input gradients) at the batch size, then at twice the batch size.
    ENCODER = ((1, 1, 1), (2, 1, 2))
    DECODER = ((2, 2, 3), (1, 0, 1))

    def __init__(self, case: StepCase, model: PlainMLPVAE) -> None:
        device = next(model.parameters()).device
        generator = torch.Generator(device).manual_seed(0)
        self.products: list[tuple[Tensor, Tensor]] = []
        for network, counts in ((model.encoder, self.ENCODER), (model.decoder, self.DECODER)):
            for layer in network.modules():
                if isinstance(layer, nn.Linear):
                    for rows, (forward, weight_gradient, input_gradient) in zip(
                        (case.batch, 2 * case.batch), counts, strict=True
                    ):
                        x = torch.randn(rows, layer.in_features, generator=generator, device=device)
                        g = torch.randn(rows, layer.out_features, generator=generator, device=device)
                        w = layer.weight.detach()
                        self.products += [(x, w.t())] * forward
                        self.products += [(g.t(), x)] * weight_gradient
                        self.products += [(g, w)] * input_gradient

    def __call__(self) -> None:
        for left, right in self.products:
            torch.mm(left, right)


def batches(case: StepCase, device: torch.device = CPU) -> list[Tensor]:
    """Batches [B, 2] of the density."""
    generator = torch.Generator().manual_seed(0)
    density = get_density(DENSITY)
    return [density.sample(case.batch, generator=generator).to(device) for _ in range(_BATCHES)]


def calls(case: StepCase, device: torch.device = CPU) -> dict[str, Call]:
    """Every variant: one iteration on the next batch per call, each with a model of its own."""
    data = batches(case, device)
    contenders: dict[str, Call] = {EAGER: _iteration(plain_step(case, device), data)}
    contenders[EAGER_FUSED_ADAM] = _iteration(plain_step(case, device, fused=True), data)
    for backend in dict.fromkeys([*backends_for(device), REFERENCE]):
        contenders[backend] = _iteration(shared_step(case, device), data, backend)
    contenders[PRODUCTS] = MatrixProducts(case, build_model(case, PlainMLPVAE, device))
    return contenders


def _iteration(step: Callable[[Tensor], object], data: list[Tensor], backend: str | None = None) -> Call:
    turns: Iterator[Tensor] = itertools.cycle(data)
    if backend is None:
        return lambda: step(next(turns))
    return functools.partial(_iteration_on, step, turns, backend)


def _iteration_on(step: Callable[[Tensor], object], turns: Iterator[Tensor], backend: str) -> None:
    with ops.use_backend(backend):
        step(next(turns))


def run(*, case: StepCase = CASE, device: torch.device = CPU, effort: Effort | None = None) -> StepResult:
    """Time the iteration.

    Args:
        case: batch and network.
        device: where.
        effort: default: `EFFORT`.
    """
    contenders = calls(case, device)
    peaks: dict[str, int | None] = {}
    for name, call in contenders.items():
        call()  # the optimizers' state comes into being
        peaks[name] = peak_extra_bytes(call, device)
    return StepResult(case, tuple(contenders), measure(contenders, effort or EFFORT, device=device), peaks)
