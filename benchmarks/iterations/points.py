"""One training iteration of Soft-IntroVAE on points in the plane: the plain loop against the package's step.

The settings are those of the preset 8gaussians. A whole update of encoder and decoder is timed on a batch that is
ready, with the drawing of its noise. The baseline is `PlainSoftIntroStep` with torch's default Adam; a second baseline
has the fused Adam, to show how much of a difference comes from it. `SoftIntroStep` runs with the fused Adam, once on
each backend. The matrix products alone are timed in the same rounds, as the least possible time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from benchmarks.environment import REFERENCE, compared_backends
from benchmarks.iterations.base import IterationResult, Step, objective_of, over, plain_loop
from benchmarks.names import EAGER, STEP
from benchmarks.timing import CPU, Call, Effort, Efforts, measure
from benchmarks.torch_profiler import peak_extra_bytes
from sivae import ops
from sivae.data.densities import get_density
from sivae.method.plain import PlainSoftIntroStep
from sivae.models import MLPVAE
from sivae.training import SoftIntroStep

EAGER_FUSED_ADAM = f"{EAGER}, fused Adam"
PRODUCTS = "matrix products"
DENSITY = "8gaussians"
OBJECTIVE = objective_of(DENSITY)
RATE = 2e-4
_EFFORT = Effort(rounds=60, sample_seconds=2e-2, warmup_seconds=0.2, limit_seconds=20.0)
EFFORTS = Efforts(
    cpu=_EFFORT, cuda=_EFFORT, quick=Effort(rounds=7, sample_seconds=1e-2, limit_seconds=5.0, least_rounds=3)
)
_BATCHES = 16


@dataclass(frozen=True)
class PointsCase:
    """A batch size, and the width and depth of the networks."""

    op: ClassVar[str] = STEP
    batch: int = 512
    hidden: int = 256
    layers: int = 4

    @property
    def name(self) -> str:
        return f"Soft-IntroVAE iteration, {DENSITY}, batch {self.batch}, {self.layers} x {self.hidden}"

    @property
    def shape(self) -> tuple[int, int]:
        return self.batch, 2


CASE = PointsCase()


def build_model(case: PointsCase, device: torch.device = CPU) -> MLPVAE:
    """A model with the same initial weights at each call. The global generator keeps its state."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return MLPVAE(hidden=case.hidden, layers=case.layers).to(device)


def _adams(model: MLPVAE, fused: bool | None) -> tuple[torch.optim.Adam, torch.optim.Adam]:
    encoder, decoder = (
        torch.optim.Adam(network.parameters(), lr=RATE, fused=fused) for network in (model.encoder, model.decoder)
    )
    return encoder, decoder


def plain_step(case: PointsCase, device: torch.device = CPU, *, fused: bool | None = None) -> PlainSoftIntroStep:
    """The baseline, with torch's default Adam or the fused one."""
    model = build_model(case, device)
    # torch's own layers, never the package's one op for them.
    model.encoder, model.decoder = nn.Sequential(*model.encoder.children()), nn.Sequential(*model.decoder.children())
    return plain_loop(model, _adams(model, fused), OBJECTIVE, case)


def our_step(case: PointsCase, device: torch.device = CPU) -> SoftIntroStep:
    """The package's step. Its ops run on the backend that is in force when it is called."""
    model = build_model(case, device)
    return SoftIntroStep(model, *_adams(model, fused=True), OBJECTIVE)


class MatrixProducts:
    """The matrix products that a step with shared passes must compute, and nothing else.

    In forward passes at the batch size, with the gradient of a layer's input or of its weight as 1 each:
    encoder 13 = 5 forward (data; two fakes, twice) + 3 weight + 5 input gradients,
    decoder 11 = 4 forward (z, noise, two fakes) + 2 weight + 5 input gradients.
    Two fakes are one batch of twice the size, as in the step.

    Args:
        case: batch size and network.
        model: its linear layers give the shapes.
    """

    # (forward passes, weight gradients, input gradients) at the batch size, then at twice the batch size.
    ENCODER = ((1, 1, 1), (2, 1, 2))
    DECODER = ((2, 2, 3), (1, 0, 1))

    def __init__(self, case: PointsCase, model: MLPVAE) -> None:
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


def batches(case: PointsCase, device: torch.device = CPU) -> list[Tensor]:
    """Batches [B, 2] of the density."""
    generator = torch.Generator().manual_seed(0)
    density = get_density(DENSITY)
    return [density.sample(case.batch, generator=generator).to(device) for _ in range(_BATCHES)]


def calls(case: PointsCase, device: torch.device = CPU) -> dict[str, Call]:
    """Variant -> a call that makes one iteration on the next batch. Each has a model of its own."""
    data = batches(case, device)
    contenders = {
        EAGER: over(plain_step(case, device), data),
        EAGER_FUSED_ADAM: over(plain_step(case, device, fused=True), data),
    }
    for backend in dict.fromkeys([*compared_backends(device), REFERENCE]):
        contenders[backend] = over(_on(backend, our_step(case, device)), data)
    contenders[PRODUCTS] = MatrixProducts(case, build_model(case, device))
    return contenders


def _on(backend: str, step: Step) -> Step:
    def on_backend(batch: Tensor) -> object:
        with ops.use_backend(backend):
            return step(batch)

    return on_backend


def run(effort: Effort, *, case: PointsCase = CASE, device: torch.device = CPU) -> IterationResult:
    """Time the iteration."""
    contenders = calls(case, device)
    peaks: dict[str, int | None] = {}
    for name, call in contenders.items():
        call()  # makes the optimizers' state
        peaks[name] = peak_extra_bytes(call, device)
    return IterationResult(case, tuple(contenders), measure(contenders, effort, device=device), peaks)
