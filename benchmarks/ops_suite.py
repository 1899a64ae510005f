"""The fused ops against eager PyTorch and torch.compile of the same: forward and backward, float32.

Timed is one call of the function on prepared inputs and one `torch.autograd.grad` from given upstream gradients to the
inputs that a training step differentiates: `recon`, or mu and logvar, or rec and kl. No loss, no sum and no leaf's
`.grad` is part of it, for any contender.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.baselines import losses
from benchmarks.measure import (
    QUICK,
    Call,
    CopyProbe,
    Effort,
    ReadProbe,
    last_level_cache_bytes,
    measure,
    probe_bytes,
)
from benchmarks.results import CaseResult, Probe
from sivae import ops

Function = Callable[..., Tensor | tuple[Tensor, ...]]
Log = Callable[[str], None]

EAGER, COMPILED = "eager", "torch.compile"

_SCALE, _BETA_REC, _BETA_NEG = 0.5, 0.2, 0.9  # of exp_elbo: the settings of 8gaussians


@dataclass(frozen=True)
class Inputs:
    """What one call works on.

    Attributes:
        arguments: of the function, in order.
        leaves: those that gradients are taken to.
        upstream: the gradients of the function's results.
    """

    arguments: tuple[Tensor, ...]
    leaves: tuple[Tensor, ...]
    upstream: tuple[Tensor, ...]

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in (*self.arguments, *self.upstream))


@dataclass(frozen=True)
class Operation:
    """One op and its plain counterpart.

    Attributes:
        name: what it is called in the report.
        eager: the baseline.
        fused: the op; takes `backend=` beside the arguments.
        inputs: makes random inputs of a shape.
        elements_moved: how many elements of the shape any implementation has to read and write, see `OPERATIONS`.
    """

    name: str
    eager: Function
    fused: Function
    inputs: Callable[[tuple[int, ...], torch.Generator], Inputs]
    elements_moved: int


@dataclass(frozen=True)
class OpCase:
    """An operation at a shape.

    Attributes:
        operation: a key of `OPERATIONS`.
        shape: of its inputs.
        cold: go round several sets of inputs that no cache holds together, and compare with the memory's speed.
            Otherwise one set is used again and again, as in a training step whose network has just produced it.
    """

    operation: str
    shape: tuple[int, ...]
    cold: bool = False

    @property
    def name(self) -> str:
        return f"{self.operation} {list(self.shape)}"


def _reconstruction_inputs(shape: tuple[int, ...], generator: torch.Generator) -> Inputs:
    recon = torch.rand(shape, generator=generator).requires_grad_()
    target = torch.rand(shape, generator=generator)
    return Inputs((recon, target), (recon,), (torch.randn(shape[0], generator=generator),))


def _latent_inputs(shape: tuple[int, ...], generator: torch.Generator) -> Inputs:
    mu = torch.randn(shape, generator=generator).requires_grad_()
    logvar = torch.randn(shape, generator=generator).requires_grad_()
    upstream = (torch.randn(shape, generator=generator), torch.randn(shape[0], generator=generator))
    return Inputs((mu, logvar), (mu, logvar), upstream)


def _exp_elbo_inputs(shape: tuple[int, ...], generator: torch.Generator) -> Inputs:
    rec = torch.rand(shape, generator=generator).requires_grad_()
    kl = torch.rand(shape, generator=generator).requires_grad_()
    return Inputs((rec, kl), (rec, kl), (torch.randn((), generator=generator),))


def _fused_exp_elbo(rec: Tensor, kl: Tensor, *, backend: str | None) -> Tensor:
    return ops.exp_elbo(
        rec, kl, scale=_SCALE, beta_rec=_BETA_REC, beta_kl=_BETA_NEG, alpha=2.0, reduction="mean", backend=backend
    )


# The least that has to be moved, in elements of the shape; vectors of one value per sample are left out where the shape
# has more dimensions than the batch.
#   reconstruction_error: forward reads recon, target; backward reads both and writes recon's gradient: 5.
#   reparameterize_kl: forward reads mu, logvar and writes z; backward reads mu, logvar, z's gradient and writes two
#       gradients: 8. The noise is computed, not moved.
#   exp_elbo: forward reads rec, kl; backward reads both and writes two gradients: 6.
OPERATIONS: Mapping[str, Operation] = {
    operation.name: operation
    for operation in (
        Operation(
            "reconstruction_error",
            losses.mse,
            functools.partial(ops.reconstruction_error, kind="mse"),
            _reconstruction_inputs,
            elements_moved=5,
        ),
        Operation(
            "reparameterize_kl", losses.reparameterize_kl, ops.reparameterize_kl, _latent_inputs, elements_moved=8
        ),
        Operation(
            "exp_elbo",
            functools.partial(losses.exp_elbo, scale=_SCALE, beta_rec=_BETA_REC, beta_kl=_BETA_NEG, alpha=2.0),
            _fused_exp_elbo,
            _exp_elbo_inputs,
            elements_moved=6,
        ),
    )
}

CASES: tuple[OpCase, ...] = (
    OpCase("reconstruction_error", (32, 3, 256, 256), cold=True),
    OpCase("reconstruction_error", (4, 3, 1024, 1024), cold=True),
    OpCase("reparameterize_kl", (4096, 512), cold=True),
    OpCase("reparameterize_kl", (32, 512)),
    OpCase("reparameterize_kl", (512, 2)),
    OpCase("exp_elbo", (32,)),
    OpCase("exp_elbo", (4096,)),
)

QUICK_CASES: tuple[OpCase, ...] = (
    OpCase("reconstruction_error", (2, 3, 8, 8), cold=True),
    OpCase("reparameterize_kl", (5, 4)),
    OpCase("exp_elbo", (7,)),
)


def forward_backward(function: Function, inputs: Inputs) -> tuple[Tensor, ...]:
    """What is timed: the gradients of `inputs.leaves`."""
    return torch.autograd.grad(function(*inputs.arguments), inputs.leaves, inputs.upstream)


def functions(case: OpCase) -> dict[str, Function]:
    """The contenders of a case that need no compiler: the baseline and every backend that is there."""
    operation = OPERATIONS[case.operation]
    backends = ops.available_backends()
    return {EAGER: operation.eager} | {
        name: functools.partial(operation.fused, backend=name) for name in ("native", "reference") if name in backends
    }


def compiled(case: OpCase) -> tuple[Function | None, str]:
    """`torch.compile` of the case's baseline, or why there is none. Forgets what was compiled before."""
    operation = OPERATIONS[case.operation]
    torch.compiler.reset()
    function: Function = torch.compile(operation.eager, dynamic=False)
    inputs = operation.inputs(case.shape, torch.Generator().manual_seed(0))
    try:
        forward_backward(function, inputs)
    except Exception as error:  # anything from a missing compiler to missing headers: the suite goes on without
        return None, f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else 'no message'}"
    return function, ""


def input_sets(case: OpCase) -> list[Inputs]:
    """Random inputs: one set, or for a cold case as many (at least 2) as make up twice the last level of cache."""
    operation = OPERATIONS[case.operation]
    generator = torch.Generator().manual_seed(0)
    first = operation.inputs(case.shape, generator)
    if not case.cold:
        return [first]
    count = min(16, max(2, math.ceil(2 * last_level_cache_bytes() / first.nbytes)))
    return [first, *(operation.inputs(case.shape, generator) for _ in range(count - 1))]


def timed_call(function: Function, sets: list[Inputs]) -> Call:
    """One forward and backward per call, on the next set of inputs."""
    if len(sets) == 1:
        return functools.partial(forward_backward, function, sets[0])
    turns: Iterator[Inputs] = itertools.cycle(sets)
    return lambda: forward_backward(function, next(turns))


def run_case(
    case: OpCase, *, effort: Effort | None = None, with_compile: bool = True, buffer_bytes: int | None = None
) -> CaseResult:
    """Time the contenders of a case against each other, and where it is cold, against the memory.

    Args:
        effort: default: `Effort()`.
        with_compile: let torch.compile take part.
        buffer_bytes: of the bandwidth probes; default: more than any cache holds.
    """
    contenders = functions(case)
    skipped = {}
    if "native" not in contenders:
        skipped["native"] = ops.backend_status()["native"]["cpu"] or "not available"
    if with_compile:
        function, reason = compiled(case)
        if function is None:
            skipped[COMPILED] = reason
        else:
            contenders = {EAGER: contenders.pop(EAGER), COMPILED: function, **contenders}
    sets = input_sets(case)
    calls: dict[str, Call] = {name: timed_call(function, sets) for name, function in contenders.items()}
    probes: dict[str, Probe] = {}
    if case.cold:
        size = probe_bytes() if buffer_bytes is None else buffer_bytes
        for name, probe in (("copy", CopyProbe(size)), ("read", ReadProbe(size))):
            calls[f"({name})"] = probe
            probes[name] = Probe(f"({name})", probe.moved)
    operation = OPERATIONS[case.operation]
    return CaseResult(
        suite="ops",
        name=case.name,
        dtype="float32",
        shapes={"input": case.shape},
        baseline=EAGER,
        contenders=tuple(contenders),
        measurement=measure(calls, effort),
        minimum_bytes=operation.elements_moved * math.prod(case.shape) * 4 if case.cold else None,
        probes=probes,
        skipped=skipped,
    )


def run(*, quick: bool, effort: Effort | None, with_compile: bool, log: Log) -> list[CaseResult]:
    """All cases, one after the other.

    Args:
        quick: tiny shapes, few rounds, no torch.compile.
        effort: None is the default, or the least there is where quick.
        with_compile: let torch.compile take part where not quick.
        log: told about each case before and after it runs.
    """
    results = []
    for case in QUICK_CASES if quick else CASES:
        log(f"ops: {case.name}")
        result = run_case(
            case,
            effort=effort or (QUICK if quick else None),
            with_compile=with_compile and not quick,
            buffer_bytes=1 << 16 if quick else None,
        )
        for name, reason in result.skipped.items():
            log(f"ops: {case.name}: without {name}: {reason}")
        results.append(result)
    return results
