"""One training iteration on images: the variants of the plain loop and of the package's step, and how they are timed.

The variants are the two steps under the memory formats, precisions and ways of launching that a user would choose
between. The baseline is float32 with contiguous memory and torch's default Adam. The other plain variants have what a
practitioner turns on first: channels-last memory and, on a GPU, products in TF32, bfloat16 by autocast, torch.compile.
A whole update of encoder and decoder is timed on random images that are ready on the device, with the drawing of its
noise. Every round also times one large matrix product, whose speed shows what share of the machine's speed in products
an iteration reaches.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.iterations.base import IterationResult, Step, over
from benchmarks.names import EAGER
from benchmarks.op_timing import reason_of
from benchmarks.probes import MatrixProbe
from benchmarks.timing import CPU, Call, Effort, Efforts, measure, synchronize
from benchmarks.torch_profiler import peak_extra_bytes
from sivae.models import VAEModel
from sivae.models.precision import float32_products
from sivae.objectives import SoftIntroObjective
from sivae.training import SoftIntroStep, StepOptions
from sivae.training.graph import EAGER_CALLS, GraphedCall
from sivae.training.optimizers import make_optimizers, set_rate
from sivae.training.process_settings import (
    convolutions_are_tried,
    denormals_flushed,
    networks_may_be_compiled,
)

Network = TypeVar("Network", bound=nn.Module)

_EFFORT = Effort(rounds=7, sample_seconds=0.0, warmup_calls=1, warmup_seconds=0.0, limit_seconds=60.0, least_rounds=5)
EFFORTS = Efforts(
    cpu=_EFFORT,
    cuda=dataclasses.replace(_EFFORT, limit_seconds=12.0, least_rounds=3),  # many cases, steady clocks
    quick=dataclasses.replace(_EFFORT, rounds=3, limit_seconds=8.0, least_rounds=2),
)
_GRAPHED_UP_TO = 128  # pixels a side; above, computing takes longer than launching
_BATCHES = 4

CHANNELS_LAST = f"{EAGER}, channels-last"
TF32 = f"{EAGER}, tf32, channels-last"
BF16 = f"{EAGER}, bf16, channels-last"
BF16_COMPILED = f"{BF16}, compiled"
OURS = "native"
OURS_TF32 = "native, tf32"
OURS_BF16 = "native, bf16"
OURS_GRAPH = "native, bf16, graph"
OURS_COMPILED = "native, bf16, compiled"
FRESH = "fresh passes"
MATRIX = "(matrix product)"  # the probe's name among a measurement's contenders

# Variants whose operations cannot be counted while they run -> a variant with the same operations.
_COUNTED_AS = {BF16_COMPILED: BF16, OURS_GRAPH: OURS_BF16, OURS_COMPILED: OURS_BF16}


@dataclass(frozen=True)
class ImageCase(ABC):
    """A batch of square color images, with the networks and settings of an iteration on it.

    Attributes:
        op: its name among the ops.
        rate: learning rate.
        fresh_passes: the published loop makes passes of its own for the decoder's update, so the package's step is
            timed with them and without.
        batch: images.
        side: pixels a side.
    """

    op: ClassVar[str]
    rate: ClassVar[float]
    fresh_passes: ClassVar[bool] = False
    batch: int
    side: int

    @property
    @abstractmethod
    def name(self) -> str:
        """A title."""

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return self.batch, 3, self.side, self.side

    @property
    @abstractmethod
    def objective(self) -> SoftIntroObjective:
        """The weights of the losses."""

    @abstractmethod
    def plain_model(self) -> nn.Module:
        """The networks in plain modules."""

    @abstractmethod
    def our_model(self) -> VAEModel:
        """The package's networks."""

    @abstractmethod
    def plain_step(self, model: Any) -> Step:
        """The baseline's iteration with a plain model."""

    def models(self, device: torch.device) -> tuple[nn.Module, VAEModel]:
        """The plain model and ours, with the same initial weights, also at each call."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            ours = self.our_model()
        plain = self.plain_model()
        plain.load_state_dict(ours.state_dict())
        return plain.to(device), ours.to(device)

    def our_step(
        self, model: VAEModel, options: StepOptions | None = None, generator: torch.Generator | None = None
    ) -> SoftIntroStep:
        """The package's step, as trainings run it; with a generator, one that a CUDA graph can hold."""
        captured = generator is not None
        rate = torch.tensor(self.rate, device=next(model.parameters()).device) if captured else self.rate
        optimizers = make_optimizers(model, rate, capturable=captured)
        for optimizer in optimizers.values():
            set_rate(optimizer, self.rate)
        encoder, decoder = optimizers["encoder"], optimizers["decoder"]
        return SoftIntroStep(
            model, encoder, decoder, self.objective, generator=generator, options=options or StepOptions()
        )


def variants(case: ImageCase, device: torch.device = CPU, *, compiled: bool = True) -> dict[str, Callable[[], Call]]:
    """Variant -> what makes its call, one iteration on the next batch.

    Args:
        case: batch and networks; the models are made once, and each variant copies them.
        device: a CPU has only float32 variants, launched one by one; a GPU has products in TF32 wherever memory is
            channels last.
        compiled: with the variants of torch.compile, on a GPU.
    """
    models = functools.cache(functools.partial(case.models, device))

    @functools.cache
    def data(memory_format: torch.memory_format) -> list[Tensor]:
        return batches(case, device, memory_format)

    def plain(*, channels_last: bool = True, compiled: bool = False) -> Call:
        model = in_channels_last(models()[0]) if channels_last else copy.deepcopy(models()[0])
        step = case.plain_step(with_compiled_networks(model) if compiled else model)
        return over(step, data(torch.channels_last if channels_last else torch.contiguous_format))

    def ours(*, compiled: bool = False, **options: Any) -> Call:
        model = in_channels_last(models()[1])
        step = case.our_step(with_compiled_networks(model) if compiled else model, StepOptions(**options))
        return over(step, data(torch.channels_last))

    if device.type != "cuda":
        on_cpu = {EAGER: lambda: plain(channels_last=False), CHANNELS_LAST: plain, OURS: ours}
        if case.fresh_passes:
            on_cpu[f"{OURS}, {FRESH}"] = functools.partial(ours, fresh_passes=True)
        return on_cpu
    half = torch.bfloat16

    def graph() -> Call:
        generator = torch.Generator(device).manual_seed(0)
        step = case.our_step(in_channels_last(models()[1]), StepOptions(autocast=half), generator)
        captured = GraphedCall(lambda x, condition: step(x, condition=condition), [generator])
        return rounded(over(lambda x: captured(x, None), data(torch.channels_last)))

    found: dict[str, Callable[[], Call]] = {
        EAGER: lambda: exact(plain(channels_last=False)),
        TF32: lambda: rounded(plain()),
        BF16: lambda: rounded(under_autocast(plain(), device)),
        OURS: lambda: exact(ours()),
        OURS_TF32: lambda: rounded(ours()),
        OURS_BF16: lambda: rounded(ours(autocast=half)),
    }
    if case.fresh_passes:
        found[f"{OURS_BF16}, {FRESH}"] = lambda: rounded(ours(autocast=half, fresh_passes=True))
    if case.side <= _GRAPHED_UP_TO:
        found[OURS_GRAPH] = graph
    if compiled:
        found[BF16_COMPILED] = lambda: rounded(under_autocast(plain(compiled=True), device))
        found[OURS_COMPILED] = lambda: rounded(ours(autocast=half, compiled=True))
    return found


def batches(case: ImageCase, device: torch.device, memory_format: torch.memory_format) -> list[Tensor]:
    """Random images [B, 3, side, side] in [0, 1]."""
    generator = torch.Generator().manual_seed(0)
    return [
        torch.rand(case.shape, generator=generator).to(device).contiguous(memory_format=memory_format)
        for _ in range(_BATCHES)
    ]


def in_channels_last(model: Network) -> Network:
    """A copy of the model with its weights in channels last."""
    copied = copy.deepcopy(model)
    copied.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return copied


def with_compiled_networks(model: Network) -> Network:
    """The model itself, after compiling its encoder and its decoder."""
    for name in ("encoder", "decoder"):
        model.get_submodule(name).compile(dynamic=False)
    return model


def under_autocast(call: Call, device: torch.device) -> Call:
    """The call with networks in bfloat16."""
    return _inside(lambda: torch.autocast(device.type, torch.bfloat16), call)


def exact(call: Call) -> Call:
    """The call with exact float32 products on a GPU."""
    return _inside(lambda: float32_products(rounded=False), call)


def rounded(call: Call) -> Call:
    """The call with float32 products rounded to TF32 on a GPU."""
    return _inside(lambda: float32_products(rounded=True), call)


def _inside(context: Callable[[], contextlib.AbstractContextManager[object]], call: Call) -> Call:
    def inside() -> object:
        with context():
            return call()

    return inside


@contextlib.contextmanager
def as_trained() -> Iterator[None]:
    """Set torch as trainings do, and forget what was compiled before."""
    torch.compiler.reset()
    with convolutions_are_tried(), denormals_flushed(), networks_may_be_compiled():
        yield


def counted_flops(call: Call) -> int:
    """Operations of the products and convolutions of one call; a multiplication and an addition count as two."""
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def timed(
    case: ImageCase,
    makers: Mapping[str, Callable[[], Call]],
    effort: Effort,
    *,
    device: torch.device = CPU,
    probe: MatrixProbe | None = None,
) -> IterationResult:
    """Time variants against each other. A variant that cannot run, for lack of memory for example, is left out.

    Args:
        case: what they are variants of.
        makers: variant -> what makes its call.
        effort: how long to measure.
        device: where.
        probe: of matrix products; default: a new one.
    """
    probe = probe or MatrixProbe(device)
    calls: dict[str, Call] = {}
    peaks: dict[str, int | None] = {}
    flops: dict[str, int] = {}
    skipped: dict[str, str] = {}
    with as_trained():
        for name, make in makers.items():
            try:
                call = make()
                if name in _COUNTED_AS:
                    call()  # makes the optimizers' state
                else:
                    flops[name] = counted_flops(call)
                peaks[name] = peak_extra_bytes(call, device)
                if name == OURS_GRAPH:
                    for _ in range(EAGER_CALLS):  # so that a capture fails here if at all
                        call()
                synchronize(device)
                calls[name] = call
            except Exception as error:
                skipped[name] = reason_of(error)
                error.__traceback__ = None  # it refers to the variant's tensors
                if device.type == "cuda":
                    torch.cuda.empty_cache()
        measured = measure({**calls, MATRIX: probe}, effort, device=device)
    flops |= {name: flops[other] for name, other in _COUNTED_AS.items() if name in calls and other in flops}
    return IterationResult(case, tuple(calls), measured, peaks, flops, probe.flops, skipped)


def run(case: ImageCase, effort: Effort, *, device: torch.device = CPU, with_compile: bool = True) -> IterationResult:
    """Time all variants of a case; with_compile: also those of torch.compile, on a GPU."""
    return timed(case, variants(case, device, compiled=with_compile), effort, device=device)
