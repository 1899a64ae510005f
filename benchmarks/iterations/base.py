"""What all measured iterations share: a case, the plain loop, and the result."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from benchmarks.timing import Call, Measurement
from sivae.method.plain import PlainSoftIntroStep
from sivae.objectives import SoftIntroObjective
from sivae.settings.presets import preset_config

Step = Callable[[Tensor], object]
Optimizers = tuple[torch.optim.Optimizer, torch.optim.Optimizer]  # of the encoder and of the decoder


class Case(Protocol):
    """An iteration: its name among the ops, a title, and the shape of its batch."""

    @property
    def op(self) -> str: ...

    @property
    def name(self) -> str: ...

    @property
    def shape(self) -> tuple[int, ...]: ...


@dataclass(frozen=True)
class IterationResult:
    """The times of a case's variants in the same rounds.

    Attributes:
        case: what was timed.
        variants: those that ran, in order.
        measurement: the times, by variant; other names in it are probes.
        peak_extra_bytes: by variant, of one iteration, beyond model, optimizers and batch.
        flops: by variant, of the products and convolutions of one uncompiled iteration; empty: not counted.
        matrix_flops: of one call of the matrix probe.
        skipped: variants that could not run -> the reason.
    """

    case: Case
    variants: Sequence[str]
    measurement: Measurement
    peak_extra_bytes: Mapping[str, int | None]
    flops: Mapping[str, int] = field(default_factory=dict)
    matrix_flops: int = 0
    skipped: Mapping[str, str] = field(default_factory=dict)


def objective_of(preset: str) -> SoftIntroObjective:
    """The objective of a preset."""
    objective = preset_config(preset).objective
    assert isinstance(objective, SoftIntroObjective)
    return objective


def plain_loop(
    model: Any, optimizers: Optimizers, objective: SoftIntroObjective, case: Case, **settings: Any
) -> PlainSoftIntroStep:
    """The baseline with the weights of an objective; settings: further arguments of `PlainSoftIntroStep`."""
    assert objective.beta_neg != "auto"
    return PlainSoftIntroStep(
        model,
        *optimizers,
        scale=objective.scale_for(math.prod(case.shape[1:])),
        beta_rec=objective.beta_rec,
        beta_kl=objective.beta_kl,
        beta_neg=objective.beta_neg,
        **settings,
    )


def over(step: Step, batches: Sequence[Tensor]) -> Call:
    """The step on the next batch at each call; after the last batch comes the first again."""
    turns: Iterator[Tensor] = itertools.cycle(batches)
    return lambda: step(next(turns))
