"""What a case yields, and how it is written down."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.measure import Measurement, Spread


@dataclass(frozen=True)
class Probe:
    """A bandwidth probe that took part in a case's rounds.

    Attributes:
        contender: its name in the measurement.
        moved: bytes per call.
    """

    contender: str
    moved: int


@dataclass(frozen=True)
class CaseResult:
    """One case: its contenders' times in the same rounds.

    Attributes:
        suite: "ops" or "step".
        name: the case.
        dtype: of the inputs.
        shapes: of the inputs, by name.
        baseline: the contender that the others are compared with.
        contenders: those to report, in order; the measurement may hold probes beside them.
        measurement: the times.
        minimum_bytes: what any implementation has to move to and from memory; None where that says nothing.
        probes: bandwidth probes of the same rounds, by what they do: "copy", "read".
        skipped: contenders that could not run, and why.
    """

    suite: str
    name: str
    dtype: str
    shapes: Mapping[str, Sequence[int]]
    baseline: str
    contenders: Sequence[str]
    measurement: Measurement
    minimum_bytes: int | None = None
    probes: Mapping[str, Probe] = field(default_factory=dict)
    skipped: Mapping[str, str] = field(default_factory=dict)

    def share_of_memory_speed(self, contender: str, probe: str = "copy") -> Spread | None:
        """Bytes that have to be moved over time, as a share of the probe's speed in the same round.

        It passes 1 where a case mostly reads, and the machine reads faster than it copies.
        """
        if self.minimum_bytes is None or probe not in self.probes:
            return None
        ceiling = self.probes[probe]
        factor = self.minimum_bytes / ceiling.moved
        ratio = self.measurement.ratio(ceiling.contender, contender)
        return Spread(factor * ratio.median, factor * ratio.q10, factor * ratio.q90)

    def to_dict(self) -> dict[str, Any]:
        """For JSON: seconds, bytes, and dimensionless ratios; each with its median and 10 % and 90 % quantiles."""
        contenders = {}
        for name in self.contenders:
            others = [other for other in self.contenders if other != name]
            shares = {probe: self.share_of_memory_speed(name, probe) for probe in self.probes}
            contenders[name] = {
                "seconds": self.measurement.spread(name).to_dict(),
                "rounds": len(self.measurement.seconds[name]),
                "calls_per_sample": self.measurement.calls_per_sample[name],
                "time_over": {other: self.measurement.ratio(name, other).to_dict() for other in others},
                "share_of_memory_speed": {probe: share.to_dict() for probe, share in shares.items() if share},
            }
        bandwidths = {
            name: Spread.of([probe.moved / seconds for seconds in self.measurement.seconds[probe.contender]]).to_dict()
            for name, probe in self.probes.items()
        }
        return {
            "suite": self.suite,
            "case": self.name,
            "dtype": self.dtype,
            "shapes": {name: list(shape) for name, shape in self.shapes.items()},
            "baseline": self.baseline,
            "minimum_bytes": self.minimum_bytes,
            "bytes_per_second": bandwidths,
            "contenders": contenders,
            "skipped": dict(self.skipped),
        }
