"""Find the cause of a divergence, and the setting to change. docs/tuning.md is the guide for users."""

from __future__ import annotations

import math
import statistics
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from sivae.method.objectives import SATURATED, Objective, Symptom, far_above
from sivae.settings.run import RunConfig

_RECENT = 20  # number of records that count as the recent past
_LASTING_RECORDS = 10  # in a row
_GROWN = 3.0  # a reconstruction error this many times its best has exploded


class Lasting(ABC):
    """Detects, once a run, that something has been so for several records."""

    def __init__(self) -> None:
        self._records, self._noticed = 0, False

    def begins(self, config: RunConfig, record: Mapping[str, Any]) -> bool:
        """Return whether it counts as lasting from this record on.

        Args:
            config: the settings of the record's iteration.
            record: of `metrics.jsonl`.
        """
        self._records = self._records + 1 if self.holds(config, record) else 0
        begins = self._records >= _LASTING_RECORDS and not self._noticed
        self._noticed = self._noticed or begins
        return begins

    @abstractmethod
    def holds(self, config: RunConfig, record: Mapping[str, Any]) -> bool:
        """Return whether it is so in a record."""

    @abstractmethod
    def words(self, config: RunConfig, record: Mapping[str, Any]) -> str:
        """Describe it, with what to do."""


class Saturation(Lasting):
    """The exp-ELBO of fakes is 0."""

    def holds(self, config: RunConfig, record: Mapping[str, Any]) -> bool:
        """See :meth:`Lasting.holds`."""
        exp_elbo = record.get("exp_elbo_fake")
        return exp_elbo is not None and exp_elbo < SATURATED

    def words(self, config: RunConfig, record: Mapping[str, Any]) -> str:
        """Describe the cause and the remedy."""
        cause, remedy = config.objective.symptoms(lambda name: record.get(name, math.nan))[0]
        return f"{cause}; {remedy}, in a new run (docs/tuning.md)"


class WeakPush(Lasting):
    """No automatic beta_neg reaches the push that was asked for."""

    def holds(self, config: RunConfig, record: Mapping[str, Any]) -> bool:
        """See :meth:`Lasting.holds`."""
        return _strongest_push(config, record) is not None

    def words(self, config: RunConfig, record: Mapping[str, Any]) -> str:
        """Describe what is reached."""
        return (
            f"no beta_neg pushes fakes as --neg-push {config.value('neg_push'):g} asks for; the run takes the one that "
            f"pushes most, {record['beta_neg']:.4g}, with a push of {_strongest_push(config, record):.2g} "
            "(docs/tuning.md)"
        )


def _strongest_push(config: RunConfig, record: Mapping[str, Any]) -> float | None:
    beta_neg = record.get("beta_neg")
    return None if beta_neg is None else config.objective.strongest_push(beta_neg)


def diagnose(
    records: Sequence[Mapping[str, Any]], losses: Mapping[str, float], phase: str, objective: Objective
) -> str:
    """Describe the causes of a divergence, each with its remedy.

    Args:
        records: the run's records before the divergence, by step.
        losses: losses of an iteration whose update could not be applied.
        phase: phase of that iteration.
        objective: objective of the phase.
    """
    before = [record for record in records if record.get("phase") == phase][-_RECENT:]

    def usual(name: str) -> float:
        values = [record[name] for record in before if record.get(name) is not None]
        return statistics.median(values) if values else math.nan

    best_rec = min((record["rec"] for record in before if record.get("rec") is not None), default=math.nan)
    rec, last_rec = usual("rec"), losses.get("rec", math.nan)
    symptoms: list[Symptom] = []
    if far_above(last_rec, _GROWN, best_rec) or far_above(rec, _GROWN, best_rec):  # a NaN can have any cause
        symptoms.append(
            Symptom(
                f"rec exploded (best {best_rec:.4g}, lately {rec:.4g}, in the end {last_rec:.4g})",
                "lower --learning-rate, to a half or a fifth; with --precision bf16 try fp32",
            )
        )
    symptoms += objective.symptoms(usual)
    if not symptoms:
        symptoms.append(
            Symptom(
                "the records before it show no cause",
                "check that the data is finite; lower --learning-rate, to a half; with --precision bf16 try fp32",
            )
        )
    broken = [name for name, value in losses.items() if not math.isfinite(value)]
    terms = f"Not finite: {', '.join(broken)}. " if broken else ""
    return terms + " ".join(f"Finding: {one.cause}; {one.remedy}." for one in symptoms)
