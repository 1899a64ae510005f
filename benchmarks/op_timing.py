"""Time the fused ops against the same in eager PyTorch and under torch.compile: forward, backward, and both.

"forward" is one call of the function on inputs that require gradients, so autograd saves tensors. "backward" is one
`torch.autograd.grad` through an existing graph, from given upstream gradients to the inputs that a training step
differentiates (`recon`, or mu and logvar, or rec and kl). "forward+backward" is both. No variant has a loss, a sum or a
leaf's `.grad` in it. Calls alternate between several sets of random inputs.

On CUDA each call is launched from Python ("stream"). Small calls are also replayed as a CUDA graph that has one call
for each set, with the noise's seed drawn before ("graph"). On the CPU there is one way to launch ("call").
"""

from __future__ import annotations

import collections
import functools
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from benchmarks.environment import compared_backends
from benchmarks.names import COMPILED, EAGER, MODES
from benchmarks.op_cases import Case, Function, Inputs
from benchmarks.probes import CopyProbe, last_level_cache_bytes
from benchmarks.timing import CPU, Call, Effort, Efforts, Measurement, measure, synchronize
from benchmarks.torch_profiler import peak_extra_bytes
from sivae import ops

CALL, STREAM, GRAPH = "call", "stream", "graph"
COPY, EMPTY = "(copy)", "(empty graph)"  # the probes' names among a measurement's contenders
EFFORTS = Efforts(
    cpu=Effort(),
    cuda=Effort(rounds=20, sample_seconds=2e-3, warmup_seconds=0.02),
    quick=Effort(rounds=7, sample_seconds=2e-3, warmup_calls=2, warmup_seconds=0.02, limit_seconds=2.0, least_rounds=3),
)
_MOST_SETS = 16
_GRAPH_BYTES = 32 << 20  # a call that moves more takes longer than launching it from Python


@dataclass(frozen=True)
class Contender:
    """A variant and how it is launched."""

    variant: str
    launch: str

    @property
    def name(self) -> str:
        return f"{self.variant}, {self.launch}"


@dataclass(frozen=True)
class GroupResult:
    """The times of a case's contenders in one mode, in the same rounds.

    Attributes:
        case, mode: what was timed.
        contenders: those that ran, in order.
        measurement: the times, by the contenders' names; `COPY` and `EMPTY` in it are probes.
        peak_extra_bytes: by contender's name, of one call.
        copy_moved: bytes per call of `COPY`; None: it was not timed.
        input_bytes: of all sets of inputs.
        cold: no cache holds all sets.
        skipped: contenders that could not run -> the reason.
    """

    case: Case
    mode: str
    contenders: Sequence[Contender]
    measurement: Measurement
    peak_extra_bytes: Mapping[str, int | None]
    copy_moved: int | None
    input_bytes: int
    cold: bool
    skipped: Mapping[Contender, str] = field(default_factory=dict)


def functions(case: Case, device: torch.device = CPU, noise: ops.PhiloxNoise | None = None) -> dict[str, Function]:
    """The variants of a case without torch.compile: the baseline and the backends."""
    fused = {name: case.operation.fused(name, noise) for name in compared_backends(device)}
    return {EAGER: case.operation.eager, **fused}


def compiled(case: Case, device: torch.device = CPU) -> Function:
    """The case's baseline under `torch.compile`, called once. Forgets what was compiled before.

    Raises:
        Exception: of any kind, if the compiler or its headers are missing.
    """
    torch.compiler.reset()
    # Else backward may overwrite what forward saved, and run only once. Each backward reads this setting too.
    torch._functorch.config.donated_buffer = False
    function: Function = torch.compile(case.operation.eager, dynamic=False)
    forward_backward(function, input_sets(case, device, most=1)[0])
    return function


def results_of(function: Function, inputs: Inputs) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """The function's results, and the upstream gradients in their dtypes."""
    out = function(*inputs.arguments)
    outputs = out if isinstance(out, tuple) else (out,)
    upstream = tuple(g.to(o.dtype) for g, o in zip(inputs.upstream, outputs, strict=True))
    return outputs, upstream


def forward_backward(function: Function, inputs: Inputs) -> tuple[Tensor, ...]:
    """The gradients of `inputs.leaves`."""
    outputs, upstream = results_of(function, inputs)
    return torch.autograd.grad(outputs, inputs.leaves, upstream)


def input_sets(case: Case, device: torch.device = CPU, most: int = _MOST_SETS) -> list[Inputs]:
    """Random inputs: as many sets as are twice the last level of cache together, at least 2, at most `most`."""
    drawn = case.random_inputs(device)
    first = next(drawn)
    count = min(most, max(2, math.ceil(2 * last_level_cache_bytes(device) / first.nbytes)))
    return [first, *itertools.islice(drawn, count - 1)]


def timed_calls(function: Function, sets: Sequence[Inputs], mode: str) -> list[Call]:
    """The calls that are timed in a mode, one for each of the sets."""
    calls: list[Call] = []
    for inputs in sets:
        if mode == "forward":
            calls.append(functools.partial(function, *inputs.arguments))
            continue
        outputs, upstream = results_of(function, inputs)
        if mode == "backward":
            calls.append(functools.partial(torch.autograd.grad, outputs, inputs.leaves, upstream, retain_graph=True))
        else:
            # With upstream gradients in the results' dtype, as for backward.
            ready = Inputs(inputs.arguments, inputs.leaves, upstream)
            calls.append(functools.partial(forward_backward, function, ready))
    return calls


def in_turn(calls: Sequence[Call], device: torch.device = CPU) -> Call:
    """The next of the calls at each call.

    On CUDA it keeps as many results as there are calls. If it freed each result, the next one would get the same memory
    and stay in the cache. (On the CPU it frees them, as real programs do.)
    """
    turns: Iterator[Call] = itertools.cycle(calls)
    if device.type != "cuda":
        return lambda: next(turns)()
    kept: collections.deque[object] = collections.deque(maxlen=len(calls))
    return lambda: kept.append(next(turns)())


def captured(make: Callable[[], Sequence[Call]], device: torch.device) -> Call:
    """The replay of a CUDA graph of all the calls that `make` makes.

    The calls are made, warmed up and captured on one side stream, because a backward runs on the stream of its forward.
    """
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        calls = make()
        for _ in range(2):
            for call in calls:
                call()
    torch.cuda.current_stream(device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        results = [call() for call in calls]  # held, so that each has its own memory

    def replay(owners: tuple[object, ...] = (calls, results)) -> None:  # they own what the graph reads and writes
        graph.replay()

    return replay


class CaseRunner:
    """Times a case in one mode after another, with the same inputs and compiled function.

    Args:
        case: what to time.
        effort: how long.
        device: where.
        with_compile: time torch.compile too.
        probe: timed in the rounds of a case whose inputs no cache holds.
    """

    def __init__(
        self,
        case: Case,
        effort: Effort,
        *,
        device: torch.device = CPU,
        with_compile: bool = True,
        probe: CopyProbe | None = None,
    ) -> None:
        self.case, self._device, self._effort, self._probe = case, device, effort, probe
        self._sets = input_sets(case, device)
        self._skipped: dict[str, str] = {}
        # The seed of the noise in graphs; other calls draw a seed each, as a user's call does.
        self._drawn = ops.PhiloxNoise(ops.draw_seed(device))
        self._functions = functions(case, device)
        if with_compile:
            try:
                function = compiled(case, device)
                self._functions = {EAGER: self._functions.pop(EAGER), COMPILED: function, **self._functions}
            except Exception as error:  # the others can run
                self._skipped[COMPILED] = reason_of(error)

    @property
    def skipped(self) -> Mapping[str, str]:
        """Variants that cannot run in any mode -> the reason."""
        return self._skipped

    def run(self, mode: str) -> GroupResult:
        """Time one mode."""
        launch = STREAM if self._device.type == "cuda" else CALL
        calls: dict[Contender, Call] = {}
        skipped = {Contender(name, launch): reason for name, reason in self._skipped.items()}
        peaks: dict[str, int | None] = {}
        repeats: dict[str, int] = {}
        for name, function in self._functions.items():
            contender = Contender(name, launch)
            try:
                ready = timed_calls(function, self._sets, mode)
                ready[0]()  # a first call takes memory that later ones do not
                peaks[contender.name] = peak_extra_bytes(ready[0], self._device)
                calls[contender] = in_turn(ready, self._device)
            except Exception as error:
                skipped[contender] = reason_of(error)
        if self._device.type == "cuda" and self.case.moved_bytes(mode) < _GRAPH_BYTES:
            drawn = self._functions | functions(self.case, self._device, self._drawn)
            for name, function in drawn.items():
                contender = Contender(name, GRAPH)
                try:
                    make = functools.partial(timed_calls, function, self._sets, mode)
                    calls[contender] = captured(make, self._device)
                    repeats[contender.name] = len(self._sets)
                except Exception as error:
                    skipped[contender] = reason_of(error)
        timed = {contender.name: call for contender, call in calls.items()}
        if repeats:
            timed[EMPTY] = captured(lambda: [_empty_kernel] * len(self._sets), self._device)
            repeats[EMPTY] = len(self._sets)
        input_bytes = sum(inputs.nbytes for inputs in self._sets)
        cold = input_bytes >= 2 * last_level_cache_bytes(self._device)
        if cold and self._probe is not None:
            timed[COPY] = self._probe
        synchronize(self._device)
        return GroupResult(
            case=self.case,
            mode=mode,
            contenders=tuple(calls),
            measurement=measure(timed, self._effort, device=self._device, repeats=repeats),
            peak_extra_bytes=peaks,
            copy_moved=self._probe.moved if COPY in timed and self._probe is not None else None,
            input_bytes=input_bytes,
            cold=cold,
            skipped=skipped,
        )


def _empty_kernel() -> None:
    torch.cuda._sleep(0)  # a kernel of one thread that reads the clock once


def reason_of(error: Exception) -> str:
    """An error in one line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"


def run(
    case: Case,
    effort: Effort,
    *,
    device: torch.device = CPU,
    with_compile: bool = True,
    probe: CopyProbe | None = None,
    log: Callable[[str], None],
) -> Iterator[GroupResult]:
    """Time a case in every mode; the arguments are those of `CaseRunner`.

    `log` gets a line about each contender that is left out.
    """
    runner = CaseRunner(case, effort, device=device, with_compile=with_compile, probe=probe)
    for name, reason in runner.skipped.items():
        log(f"{case.name}: without {name}: {reason}")
    for mode in MODES:
        result = runner.run(mode)
        for contender, reason in result.skipped.items():
            if contender.variant not in runner.skipped:
                log(f"{case.name} {mode}: without {contender.name}: {reason}")
        yield result
