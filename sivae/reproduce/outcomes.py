"""Find how a training on a density ended: its JSD over the iterations, and whether it failed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sivae.progress import Progress
from sivae.reproduce.experiment import Trained
from sivae.words import listed

POINTS = 5_000  # of the samples and of the data

# Where a collapse begins.
_UNEXPLAINED = 0.9
_MODES_SHARE, _FAIR_SHARE = 0.5, 0.1
_SHRUNKEN = 0.1

DEFINITIONS = f"""\
- *Diverged*: in five iterations in a row an update was not finite, or a thousand times larger than usual, so that the
  run went back to a checkpoint with half the learning rate, or stopped.
- *Posterior collapse*: in the last tenth of the records the reconstruction error is {_UNEXPLAINED:.0%} of the data's
  variance or more, so that the decoder reconstructs hardly better than a constant.
- *Mode collapse*, on 8gaussians: each sample belongs to its nearest mode, and fewer than half of the 8 modes get a
  tenth of their fair share of {POINTS:,} samples.
- *Shrunken samples*: the samples' variance is below {_SHRUNKEN:.0%} of the data's.

A run can fail in several ways, and is counted once."""


@dataclass(frozen=True)
class Outcome:
    """How one run ended.

    Attributes:
        value: of the setting that was varied.
        seed: of the run.
        steps, jsd: iterations, and the JSD in nats there, at each look.
        failures: how it failed: any of "diverged", "posterior collapse", "mode collapse" and "shrunken samples".
        rec: reconstruction error over the variance of the data, in the last tenth of the records.
        modes: how many modes are nearest to at least a tenth of their fair share of the samples; None where the density
            has no modes.
        variance: of the samples over that of the data.
    """

    value: float
    seed: int
    steps: Sequence[int]
    jsd: Sequence[float]
    failures: Sequence[str]
    rec: float
    modes: int | None
    variance: float

    @property
    def last_jsd(self) -> float:
        """The JSD at the last look; NaN if there was none."""
        return self.jsd[-1] if self.jsd else math.nan


def outcome(run: Trained, density_name: str, value: float, display: Progress) -> Outcome:
    """Find how a run on a density ended.

    Args:
        run: the run.
        density_name: the density.
        value: that of the setting that was varied.
        display: counts the runs.
    """
    import torch

    from sivae.data import get_density
    from sivae.evaluation.density import density_histogram, js_divergence
    from sivae.models.storage import load_model
    from sivae.training.checkpoint import list_checkpoints
    from sivae.training.folder import CHECKPOINTS
    from sivae.training.recorder import read_records

    density = get_density(density_name)
    data = density.sample(POINTS, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    p = density_histogram(data, density.extent)
    steps, jsd = [], []
    fake = torch.full_like(data, math.nan)
    for path in list_checkpoints(run.folder / CHECKPOINTS):
        # The same noise for every checkpoint, so that a curve's changes are the model's.
        fake = load_model(path).sample(POINTS, generator=torch.Generator().manual_seed(1)).double()
        steps.append(int(path.name))
        jsd.append(js_divergence(p, density_histogram(fake, density.extent)))
    total = float(data.var(dim=0).sum())
    records = [one["rec"] for one in read_records(run.folder) if one.get("rec") is not None]
    last = records[-max(1, len(records) // 10) :]
    rec = sum(last) / len(last) / total if last else math.nan
    reached = None if density.modes is None else _reached(fake, density.modes)
    variance = float(fake.var(dim=0).sum()) / total
    display.advance()
    failures = []
    if run.divergence is not None or run.went_back:
        failures.append("diverged")
    if not rec < _UNEXPLAINED:
        failures.append("posterior collapse")
    if reached is not None and density.modes is not None and reached < _MODES_SHARE * len(density.modes):
        failures.append("mode collapse")
    if not variance >= _SHRUNKEN:
        failures.append("shrunken samples")
    return Outcome(value, run.config.seed, steps, jsd, failures, rec, reached, variance)


def _reached(fake: Any, modes: Any) -> int:
    import torch

    nearest = torch.cdist(fake[fake.isfinite().all(dim=1)], modes).argmin(dim=1)
    shares = torch.bincount(nearest, minlength=len(modes)) * len(modes) / POINTS
    return int((shares >= _FAIR_SHARE).sum())


def failed(found: Sequence[Outcome]) -> tuple[int, int]:
    """How many failed, out of how many."""
    return sum(bool(one.failures) for one in found), len(found)


def how_they_failed(found: Sequence[Outcome]) -> str:
    """The kinds of failures with their counts, in words."""
    reasons = [reason for one in found for reason in one.failures]
    return listed(f"{reason} {reasons.count(reason)}" for reason in dict.fromkeys(reasons)) or "none"
