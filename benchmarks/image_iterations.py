"""What the iterations on images have in common, whatever the networks: the variants and how they are timed.

A suite gives two functions that make a step, the plain loop's and ours; the variants here are those steps under the
memory formats, precisions and ways of launching that a practitioner would choose between. Beside them in every round
stands one large matrix product, whose speed says what share of the machine's products an iteration keeps busy.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measure import CPU, Call, Effort, Measurement, measure, peak_extra_bytes, synchronize
from benchmarks.ops_suite import EAGER, reason_of
from sivae.training import SoftIntroStep
from sivae.training.graph import EAGER_CALLS, GraphedCall
from sivae.training.process_settings import convolutions_are_tried, float32_products, networks_may_be_compiled

Network = TypeVar("Network", bound=nn.Module)
Step = Callable[[Tensor], object]

EFFORT = Effort(rounds=7, sample_seconds=0.0, warmup_calls=1, warmup_seconds=0.0, limit_seconds=60.0, least_rounds=5)
QUICK_EFFORT = Effort(
    rounds=3, sample_seconds=0.0, warmup_calls=1, warmup_seconds=0.0, limit_seconds=8.0, least_rounds=2
)
CUDA_EFFORT = dataclasses.replace(EFFORT, limit_seconds=12.0, least_rounds=3)  # many cases, steady clocks
_GRAPHED_UP_TO = 128  # pixels a side; above, launching hides behind computing
_BATCHES = 4  # drawn beforehand; every contender goes round them

CHANNELS_LAST = f"{EAGER}, channels-last"
TF32 = f"{EAGER}, tf32, channels-last"
BF16 = f"{EAGER}, bf16, channels-last"
BF16_COMPILED = f"{BF16}, compiled"
OURS = "native"
OURS_TF32 = "native, tf32"
OURS_BF16 = "native, bf16"
OURS_GRAPH = "native, bf16, graph"
OURS_COMPILED = "native, bf16, compiled"
MATRIX = "(matrix product)"  # the probe's name among a measurement's contenders

# Whose operations stand for those of a variant whose own cannot be counted while it runs.
_COUNTED_AS = {BF16_COMPILED: BF16, OURS_GRAPH: OURS_BF16, OURS_COMPILED: OURS_BF16}


class Case(Protocol):
    """What a result says of its iteration."""

    @property
    def op(self) -> str: ...

    @property
    def name(self) -> str: ...

    @property
    def shape(self) -> tuple[int, int, int, int]: ...


class OurStep(Protocol):
    """Makes our step over a model; with a generator one that a CUDA graph can hold."""

    def __call__(
        self, model: Any, *, autocast: torch.dtype | None = None, generator: torch.Generator | None = None
    ) -> SoftIntroStep: ...


class MatrixProbe:
    """One product of square matrices, bfloat16 on a GPU and float32 on a CPU, too large for launching to count.

    Attributes:
        flops: of a call, a multiplication and an addition counted as two.
    """

    side_on_gpu, side_on_cpu = 8192, 2048

    def __init__(self, device: torch.device = CPU) -> None:
        on_gpu = device.type == "cuda"
        side = self.side_on_gpu if on_gpu else self.side_on_cpu
        dtype = torch.bfloat16 if on_gpu else torch.float32
        self._a, self._b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
        self._out = torch.empty_like(self._a)
        self.flops = 2 * side**3

    def __call__(self) -> Tensor:
        return torch.mm(self._a, self._b, out=self._out)


@dataclass(frozen=True)
class ImageStepResult:
    """The variants' times in the same rounds, and those of `MATRIX`.

    Attributes:
        case: what was timed.
        variants: those that ran, in order.
        measurement: the times, by the variants' names.
        peak_extra_bytes: by variant, of one iteration, beyond model, optimizers and images.
        flops: by variant, of the products and convolutions of one iteration, as they are without any compiler.
        matrix_flops: of a call of `MATRIX`.
        skipped: variants that could not run, and why.
    """

    case: Case
    variants: Sequence[str]
    measurement: Measurement
    peak_extra_bytes: Mapping[str, int | None]
    flops: Mapping[str, int]
    matrix_flops: int
    skipped: Mapping[str, str] = field(default_factory=dict)


def variants(
    case: Case,
    networks: Callable[[], tuple[nn.Module, nn.Module]],
    plain_step: Callable[[Any], Step],
    our_step: OurStep,
    device: torch.device,
    *,
    compiled: bool = True,
    further: Mapping[str, OurStep] | None = None,
) -> dict[str, Callable[[], Call]]:
    """Every variant: what makes its call, one iteration on the next batch.

    Args:
        case: for the batches' shape.
        networks: makes the plain model and ours on the device, once; each variant has copies.
        plain_step, our_step: make the steps over a model.
        device: where; on a CPU there are only float32 variants, run one op after the other, and on a GPU memory in
            channels last goes with products in TF32.
        compiled: with torch.compile of the networks.
        further: other steps of ours, by what comes after the variant's name; in bfloat16 on a GPU.
    """
    models = functools.cache(networks)

    @functools.cache
    def data(memory_format: torch.memory_format) -> list[Tensor]:
        return batches(case, device, memory_format)

    def plain(*, channels_last: bool = True, compiled: bool = False) -> Call:
        model = in_channels_last(models()[0]) if channels_last else copy.deepcopy(models()[0])
        step = plain_step(with_compiled_networks(model) if compiled else model)
        return over(step, data(torch.channels_last if channels_last else torch.contiguous_format))

    def ours(step: OurStep = our_step, *, autocast: torch.dtype | None = None, compiled: bool = False) -> Call:
        model = in_channels_last(models()[1])
        return over(step(with_compiled_networks(model) if compiled else model, autocast=autocast), last())

    def last() -> list[Tensor]:
        return data(torch.channels_last)

    if device.type != "cuda":
        return {
            EAGER: lambda: plain(channels_last=False),
            CHANNELS_LAST: plain,
            OURS: ours,
            **{f"{OURS}, {word}": functools.partial(ours, step) for word, step in (further or {}).items()},
        }
    half = torch.bfloat16

    def in_half(step: OurStep) -> Call:
        return rounded(ours(step, autocast=half))

    def graph() -> Call:
        generator = torch.Generator(device).manual_seed(0)
        step = our_step(in_channels_last(models()[1]), autocast=half, generator=generator)
        captured = GraphedCall(lambda x, condition: step(x, condition=condition), [generator])
        return rounded(over(lambda x: captured(x, None), last()))

    found: dict[str, Callable[[], Call]] = {
        EAGER: lambda: exact(plain(channels_last=False)),
        TF32: lambda: rounded(plain()),
        BF16: lambda: rounded(under_autocast(plain(), device)),
        OURS: lambda: exact(ours()),
        OURS_TF32: lambda: rounded(ours()),
        OURS_BF16: functools.partial(in_half, our_step),
    }
    for word, step in (further or {}).items():
        found[f"{OURS_BF16}, {word}"] = functools.partial(in_half, step)
    if case.shape[-1] <= _GRAPHED_UP_TO:
        found[OURS_GRAPH] = graph
    if compiled:
        found[BF16_COMPILED] = lambda: rounded(under_autocast(plain(compiled=True), device))
        found[OURS_COMPILED] = lambda: rounded(ours(autocast=half, compiled=True))
    return found


def batches(case: Case, device: torch.device, memory_format: torch.memory_format) -> list[Tensor]:
    """Random images [B, 3, side, side] in [0, 1]."""
    generator = torch.Generator().manual_seed(0)
    return [
        torch.rand(case.shape, generator=generator).to(device).contiguous(memory_format=memory_format)
        for _ in range(_BATCHES)
    ]


def in_channels_last(model: Network) -> Network:
    """A copy whose weights lie channels last."""
    copied = copy.deepcopy(model)
    copied.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return copied


def with_compiled_networks(model: Network) -> Network:
    """The model, its encoder and its decoder compiled."""
    for name in ("encoder", "decoder"):
        model.get_submodule(name).compile(dynamic=False)
    return model


def over(step: Step, data: list[Tensor]) -> Call:
    """A step on the next batch at each call."""
    turns: Iterator[Tensor] = itertools.cycle(data)
    return lambda: step(next(turns))


def under_autocast(call: Call, device: torch.device) -> Call:
    """The call with networks in bfloat16."""
    return _inside(lambda: torch.autocast(device.type, torch.bfloat16), call)


def exact(call: Call) -> Call:
    """The call with float32 products that a GPU does not round."""
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
    """torch as the trainer sets it, for every variant alike, without what was compiled before."""
    torch.compiler.reset()
    with convolutions_are_tried(), networks_may_be_compiled():
        yield


def counted_flops(call: Call) -> int:
    """Operations of the products and convolutions of one call, a multiplication and an addition counted as two."""
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def timed(
    case: Case,
    makers: Mapping[str, Callable[[], Call]],
    device: torch.device,
    effort: Effort,
    probe: MatrixProbe | None = None,
) -> ImageStepResult:
    """Time variants against each other.

    Args:
        case: what they are.
        makers: what makes their calls; a variant that cannot run (a GPU's memory has an end) is left out.
        device: where.
        effort: how long.
        probe: default: one of its own.
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
                    call()  # the optimizers' state comes into being
                else:
                    flops[name] = counted_flops(call)
                peaks[name] = peak_extra_bytes(call, device)
                if name == OURS_GRAPH:
                    for _ in range(EAGER_CALLS):  # a capture that fails is to fail here
                        call()
                synchronize(device)
                calls[name] = call
            except Exception as error:
                skipped[name] = reason_of(error)
                error.__traceback__ = None  # it holds what the variant has on the device
                if device.type == "cuda":
                    torch.cuda.empty_cache()
        measured = measure({**calls, MATRIX: probe}, effort, device=device)
    flops |= {name: flops[other] for name, other in _COUNTED_AS.items() if name in calls and other in flops}
    return ImageStepResult(case, tuple(calls), measured, peaks, flops, probe.flops, skipped)
