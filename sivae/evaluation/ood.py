"""Telling what a model was trained on from what it was not, by one score per image; out of distribution is positive.

A score is larger the less an image looks like the training data: the divergence of its posterior from the prior, the
negative ELBO, or the negative importance-weighted log-likelihood, in nats. The metrics are scikit-learn's.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from sivae import files
from sivae.errors import ThresholdError
from sivae.evaluation.likelihood import Estimates

Score = Literal["kl", "elbo", "likelihood"]
SCORES: tuple[Score, ...] = get_args(Score)
METRICS = ("auroc", "aupr", "fpr95")

_TPR, _ROUNDING = 0.95, 1e-12
_INTERVAL = (2.5, 97.5)  # percentiles
_FORMAT = 1

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]


def describe(score: Score, samples: int) -> str:
    """A score as an axis names it."""
    return {
        "kl": "KL(q(z|x) ‖ p(z)), nats",
        "elbo": f"negative ELBO, mean of {samples} samples, nats",
        "likelihood": f"negative log-likelihood, K = {samples}, nats",
    }[score]


def anomaly(estimates: Estimates, score: Score) -> Tensor:
    """Estimates as scores that are larger for what is less likely; infinite for what is impossible.

    Args:
        estimates: of N images.
        score: which.

    Returns:
        float64 [N], in nats.
    """
    return {"kl": estimates.kl, "elbo": -estimates.elbo, "likelihood": -estimates.log_likelihood}[score]


class Interval(NamedTuple):
    """A figure, and the percentiles 2.5 and 97.5 of what it is over resamples of the images."""

    value: float
    low: float
    high: float


def separation(inside: ArrayLike, outside: ArrayLike, *, seed: int = 0, resamples: int = 1000) -> dict[str, Interval]:
    """How well scores tell two sets apart, the one outside being the positive class.

    Only the order of the scores matters, so infinite ones are welcome. Intervals are bootstrap percentiles: both sets
    are resampled with replacement, each for itself; they hold the chance of the images, not that of the training.

    Args:
        inside, outside: scores [N] and [M] of images in and out of distribution.
        seed: of the resamples.
        resamples: how many.

    Returns:
        auroc: area under the ROC curve: the chance that an image outside scores higher than one inside. 0.5 is
            guessing; below it, the set outside looks more familiar than the set inside.
        aupr: average precision. Guessing gives the share of images that are outside, so it depends on M / N.
        fpr95: share of the images inside that are taken for outside where 95 % of those outside are found.

    Raises:
        ValueError: a set is empty, or a score is NaN.
    """
    sets = (_scores("inside", inside), _scores("outside", outside))
    if resamples < 1:
        raise ValueError(f"separation: resamples is {resamples}, expected at least 1")
    distinct, ranks = np.unique(np.concatenate(sets), return_inverse=True)  # equal scores, equal ranks; no infinities
    ranks_inside, ranks_outside = ranks[: len(sets[0])], ranks[len(sets[0]) :]
    found = _metrics(ranks_inside, ranks_outside)
    random = np.random.default_rng(seed)

    def counts(of_set: Ints) -> Floats:
        """How often each rank comes in a resample, the highest first."""
        drawn = of_set[random.integers(len(of_set), size=len(of_set))]
        return np.bincount(drawn, minlength=len(distinct))[::-1].astype(np.float64)

    again = [metrics_of_counts(counts(ranks_inside), counts(ranks_outside)) for _ in range(resamples)]
    low, high = np.percentile(again, _INTERVAL, axis=0)
    return {
        name: Interval(float(found[index]), float(low[index]), float(high[index])) for index, name in enumerate(METRICS)
    }


def metrics_of_counts(inside: Floats, outside: Floats) -> tuple[float, float, float]:
    """What scikit-learn's functions compute, from how many images of each set there are at each score.

    A bootstrap needs it thousands of times, and there scikit-learn's checks of its arguments take nearly all the time.

    Args:
        inside, outside: counts [K] at the same K scores, the highest first.

    Returns:
        auroc, aupr, fpr95.
    """
    false, found = inside.cumsum(), outside.cumsum()
    recall, share = outside / found[-1], inside / false[-1]
    auroc = (share * (found - 0.5 * outside)).sum() / found[-1]
    precision = np.divide(found, found + false, out=np.ones_like(found), where=found + false > 0)
    fpr95 = false[np.argmax(found >= _TPR * found[-1] - _ROUNDING * found[-1])] / false[-1]
    return float(auroc), float((recall * precision).sum()), float(fpr95)


def threshold_at(scores: ArrayLike, quantile: float) -> float:
    """The score above which an image counts as out of distribution, from the scores of images that are not.

    Args:
        scores: [N] of images in distribution.
        quantile: the share of them that has to be at or below it, between 0 and 1; the largest of as many is taken, so
            at most the other share is taken for outside.

    Raises:
        ValueError: there are no scores, one is NaN, the quantile is none, or the threshold would be infinite.
    """
    if not 0 < quantile <= 1:
        raise ValueError(f"quantile is {quantile}, expected more than 0 and at most 1")
    values = np.sort(_scores("the calibration's", scores))
    threshold = float(values[max(0, math.ceil(quantile * len(values) - 1e-9) - 1)])
    if not math.isfinite(threshold):
        raise ValueError(
            f"the threshold at the quantile {quantile:g} is {threshold}: so many images have a score that is not "
            "finite; the model cannot be used for them"
        )
    return threshold


@dataclass(frozen=True)
class Threshold:
    """Where to part images, and of which scores; a file of JSON.

    Attributes:
        threshold: the score above which an image is out of distribution.
        score: which score.
        samples: K of the score.
        seed: of the score's noise.
        precision, kind: of p(x|z), see :class:`sivae.evaluation.likelihood.PixelDensity`.
        quantile: the share of the calibration's images at or below the threshold.
        images: how many there were.
        data: their name.
        model: a digest of the model, whose scores do not compare with another's.
    """

    threshold: float
    score: Score
    samples: int
    seed: int
    precision: float
    kind: str
    quantile: float
    images: int
    data: str
    model: str

    def write(self, path: Path) -> None:
        """Write it, atomically; missing folders are made."""
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_json(path, {"format": _FORMAT, **asdict(self)})

    @classmethod
    def read(cls, path: Path) -> Threshold:
        """The inverse of :meth:`write`.

        Raises:
            ThresholdError: it is not such a file.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ThresholdError(
                f"{path}: there is no such file; sivae ood MODEL --calibrate {path} makes it"
            ) from None
        except (OSError, ValueError, RecursionError) as error:
            raise ThresholdError(f"{path} cannot be read as a threshold ({error}); calibrate again") from None
        if not isinstance(content, dict) or content.get("format") != _FORMAT:
            raise ThresholdError(f"{path} is not a threshold of format {_FORMAT}; calibrate again")
        return cls(**_checked(path, content))


def _checked(path: Path, content: Mapping[str, Any]) -> dict[str, Any]:
    """The fields, each of its type."""
    types: dict[str, type | tuple[type, ...]] = {"float": (int, float), "int": int, "str": str, "Score": str}
    values = {}
    for field in fields(Threshold):
        value = content.get(field.name)
        finite = not isinstance(value, float) or math.isfinite(value)
        if not isinstance(value, types[str(field.type)]) or isinstance(value, bool) or not finite:
            raise ThresholdError(f"{path}: {field.name} is {value!r}, expected {field.type}; calibrate again")
        values[field.name] = value
    if values["score"] not in SCORES:
        raise ThresholdError(f"{path}: score is {values['score']!r}, expected one of {', '.join(SCORES)}")
    return values


def _scores(which: str, values: ArrayLike) -> Floats:
    scores = np.asarray(values, dtype=np.float64).reshape(-1)
    if not len(scores):
        raise ValueError(f"{which} scores are none; a set without images has no distribution")
    if np.isnan(scores).any():
        raise ValueError(f"{which} scores: {int(np.isnan(scores).sum())} of {len(scores)} are NaN")
    return scores


def _metrics(inside: Ints, outside: Ints) -> tuple[float, float, float]:
    from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

    positive = np.repeat([False, True], [len(inside), len(outside)])
    ranks = np.concatenate([inside, outside])
    # Thinned out, the curve may lack the first point at which 95 % are found.
    fpr, tpr, _ = roc_curve(positive, ranks, drop_intermediate=False)
    fpr95 = fpr[np.argmax(tpr >= _TPR - _ROUNDING)]
    return float(roc_auc_score(positive, ranks)), float(average_precision_score(positive, ranks)), float(fpr95)
