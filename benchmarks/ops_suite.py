"""The fused ops against eager PyTorch and torch.compile of the same: forward, backward, and both.

"forward" is one call of the function on inputs that require gradients, with what autograd saves; "backward" is one
`torch.autograd.grad` through a graph that is there already, from given upstream gradients to the inputs that a training
step differentiates (`recon`, or mu and logvar, or rec and kl); "forward+backward" is both. No loss, no sum and no
leaf's `.grad` is part of it, for any variant. Calls go round several sets of random inputs.

On CUDA each is launched from Python, call after call ("stream"), and small ones also as the replay of a CUDA graph that
goes once round the sets, with the noise's seed drawn before ("graph"). On the CPU there is one way ("call").
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

from benchmarks.cases import DTYPES, MODES, Case, Function, Inputs, Sampler
from benchmarks.measure import (
    CPU,
    Call,
    CopyProbe,
    Effort,
    Measurement,
    last_level_cache_bytes,
    measure,
    peak_extra_bytes,
    synchronize,
)
from sivae import ops

EAGER, COMPILED, REFERENCE = "eager", "torch.compile", "reference"
CALL, STREAM, GRAPH = "call", "stream", "graph"
COPY, EMPTY = "(copy)", "(empty graph)"  # the probes' names among a measurement's contenders

_MOST_SETS = 16
_GRAPH_BYTES = 32 << 20  # a call that moves more takes longer than launching it from Python
Log = Callable[[str], None]


@dataclass(frozen=True)
class Contender:
    """A variant under one way of launching."""

    variant: str
    launch: str

    @property
    def name(self) -> str:
        return f"{self.variant}, {self.launch}"


@dataclass(frozen=True)
class GroupResult:
    """One case in one mode: its contenders' times in the same rounds.

    Attributes:
        case, mode: what was timed.
        contenders: those that ran, in order; the measurement may hold `COPY` and `EMPTY` beside them.
        measurement: the times, by the contenders' names.
        peak_extra_bytes: by contender's name, of one call.
        copy_moved: bytes per call of `COPY`.
        input_bytes: of all the sets of inputs that the calls go round.
        cold: no cache holds the sets together.
        skipped: variants or contenders that could not run, and why.
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


def backends_for(device: torch.device) -> list[str]:
    """The backends that are compared: not the reference, which says what is right and need not be fast, unless it is
    the only one; and on the CPU not Triton, whose interpreter is for tests."""
    names = [name for name in ops.available_backends(device) if not (name == "triton" and device.type == "cpu")]
    return [name for name in names if name != REFERENCE] or [REFERENCE]


def functions(case: Case, device: torch.device = CPU, noise: ops.PhiloxNoise | None = None) -> dict[str, Function]:
    """The variants of a case that need no compiler: the baseline and the backends."""
    fused = {name: case.operation.fused(name, noise) for name in backends_for(device)}
    return {EAGER: case.operation.eager, **fused}


def compiled(case: Case, device: torch.device = CPU) -> Function:
    """`torch.compile` of the case's baseline, compiled. Forgets what was compiled before.

    Raises:
        Exception: anything from a missing compiler to missing headers.
    """
    torch.compiler.reset()
    # Else backward may write over what forward saved, and runs once per forward only. Looked at in each backward too.
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
    """Random inputs: as many sets (2 to `most`) as make up twice the last level of cache."""
    sample = Sampler.of(device, DTYPES[case.dtype])
    first = case.operation.inputs(case.shape, sample)
    count = min(most, max(2, math.ceil(2 * last_level_cache_bytes(device) / first.nbytes)))
    return [first, *(case.operation.inputs(case.shape, sample) for _ in range(count - 1))]


def timed_calls(function: Function, sets: Sequence[Inputs], mode: str) -> list[Call]:
    """What is timed, on each of the sets."""
    calls: list[Call] = []
    for inputs in sets:
        if mode == "forward":
            calls.append(functools.partial(function, *inputs.arguments))
            continue
        outputs, upstream = results_of(function, inputs)
        if mode == "backward":
            calls.append(functools.partial(torch.autograd.grad, outputs, inputs.leaves, upstream, retain_graph=True))
        else:
            # The upstream gradients lie ready in the results' dtype, as backward's do.
            ready = Inputs(inputs.arguments, inputs.leaves, upstream)
            calls.append(functools.partial(forward_backward, function, ready))
    return calls


def in_turn(calls: Sequence[Call], device: torch.device = CPU) -> Call:
    """The next of the calls at each call.

    On CUDA as many results stay as there are calls. Else each would be written where the one before it was, and the
    cache would keep it from memory. (On the CPU a program's own calls do just that.)
    """
    turns: Iterator[Call] = itertools.cycle(calls)
    if device.type != "cuda":
        return lambda: next(turns)()
    kept: collections.deque[object] = collections.deque(maxlen=len(calls))
    return lambda: kept.append(next(turns)())


def captured(make: Callable[[], Sequence[Call]], device: torch.device) -> Call:
    """The replay of a CUDA graph of all the calls that `make` makes, one after the other.

    They are made, warmed up and captured on one side stream: a backward runs on the stream of its forward.
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
        results = [call() for call in calls]  # each has memory of its own while all are held

    def replay(owners: tuple[object, ...] = (calls, results)) -> None:  # of what the graph reads and writes
        graph.replay()

    return replay


class CaseRunner:
    """Times a case's modes; the inputs and what is compiled serve all of them.

    Args:
        case: what to time.
        device: where.
        effort: default: `Effort()`.
        with_compile: let torch.compile take part.
        probe: the memory's speed, to be measured in the rounds of cases whose inputs no cache holds.
    """

    def __init__(
        self,
        case: Case,
        *,
        device: torch.device = CPU,
        effort: Effort | None = None,
        with_compile: bool = True,
        probe: CopyProbe | None = None,
    ) -> None:
        self.case, self._device, self._effort, self._probe = case, device, effort, probe
        self._sets = input_sets(case, device)
        self._skipped: dict[str, str] = {}
        # The seed of the graphs' noise; the other calls draw theirs, as a single call of the op does.
        self._drawn = ops.PhiloxNoise(ops.draw_seed(device))
        self._functions = functions(case, device)
        if with_compile:
            try:
                function = compiled(case, device)
                self._functions = {EAGER: self._functions.pop(EAGER), COMPILED: function, **self._functions}
            except Exception as error:  # the suite goes on without
                self._skipped[COMPILED] = reason_of(error)

    @property
    def skipped(self) -> Mapping[str, str]:
        """Variants that take no part in any mode, and why."""
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
                ready[0]()  # what comes with a first call is not a call's own memory
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
    torch.cuda._sleep(0)  # a kernel of one thread that looks at the clock and returns


def reason_of(error: Exception) -> str:
    """One line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"


def run(
    case: Case,
    *,
    device: torch.device = CPU,
    effort: Effort | None = None,
    with_compile: bool = True,
    probe: CopyProbe | None = None,
    log: Log,
) -> Iterator[GroupResult]:
    """Every mode of a case, one after the other.

    Args:
        log: told about each contender that is left out, and why.
        For the others, see `CaseRunner`.
    """
    runner = CaseRunner(case, device=device, effort=effort, with_compile=with_compile, probe=probe)
    for name, reason in runner.skipped.items():
        log(f"{case.name}: without {name}: {reason}")
    for mode in MODES:
        result = runner.run(mode)
        for contender, reason in result.skipped.items():
            if contender.variant not in runner.skipped:
                log(f"{case.name} {mode}: without {contender.name}: {reason}")
        yield result
