"""Measure out-of-distribution detection by one score per image; images out of distribution are the positive class.

A score is larger for images less like the training data: the divergence of the posterior from the prior, the negative
ELBO, or the negative importance-weighted log-likelihood, in nats. The metrics are scikit-learn's.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from sivae import files
from sivae.errors import ThresholdError
from sivae.evaluation.likelihood import Estimates
from sivae.fields import AT_LEAST_1, FACTOR, POSITIVE, SEED
from sivae.json_files import read_json

Score = Literal["kl", "elbo", "likelihood"]
SCORES: tuple[Score, ...] = get_args(Score)
METRICS = ("auroc", "aupr", "fpr95")

_TPR, _ROUNDING = 0.95, 1e-12
_INTERVAL = (2.5, 97.5)  # percentiles
_FORMAT = 1

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]


def describe(score: Score, samples: int) -> str:
    """The label of a score on an axis."""
    return {
        "kl": "KL(q(z|x) ‖ p(z)), nats",
        "elbo": f"negative ELBO, mean of {samples} samples, nats",
        "likelihood": f"negative log-likelihood, K = {samples}, nats",
    }[score]


def anomaly(estimates: Estimates, score: Score) -> Tensor:
    """Turn estimates into scores, larger for less likely images and infinite for impossible ones.

    Args:
        estimates: of N images.
        score: which.

    Returns:
        float64 [N], in nats.
    """
    return {"kl": estimates.kl, "elbo": -estimates.elbo, "likelihood": -estimates.log_likelihood}[score]


class Interval(NamedTuple):
    """A metric, and its percentiles 2.5 and 97.5 over resamples of the images."""

    value: float
    low: float
    high: float


def separation(inside: ArrayLike, outside: ArrayLike, *, seed: int = 0, resamples: int = 1000) -> dict[str, Interval]:
    """Measure how well scores separate two sets of images.

    Only the order of the scores matters, so they may be infinite. Intervals are bootstrap percentiles: both sets are
    resampled with replacement, each separately; they include the chance of the images, not that of the training.

    Args:
        inside, outside: scores [N] and [M] of images in and out of distribution.
        seed: of the resamples.
        resamples: how many.

    Returns:
        auroc: area under the ROC curve: the probability that an image outside scores higher than one inside. 0.5 is
            guessing; below it, images outside score lower.
        aupr: average precision. Guessing gives the share of images that are outside, so it depends on M / N.
        fpr95: share of the images inside that are wrongly detected at the threshold that detects 95 % of the others.

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
    """Compute scikit-learn's metrics from the number of images of each set at each score.

    For the bootstrap: with thousands of resamples scikit-learn's checks of its arguments would take most of the time.

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
    """Choose the score above which an image counts as out of distribution, from scores of images in distribution.

    Args:
        scores: [N] of images in distribution.
        quantile: the threshold is the smallest score such that this share of them, above 0 and at most 1, is at or
            below it.

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
    """A threshold, and the scores that it belongs to; stored as a file of JSON.

    Attributes:
        threshold: the score above which an image is out of distribution.
        score: which score.
        samples: K of the score.
        seed: of the score's noise.
        precision, kind: of p(x|z), see :class:`sivae.evaluation.likelihood.PixelDensity`.
        quantile: the share of the calibration's images at or below the threshold.
        images: number of images in the calibration.
        data: name of their set.
        model: a digest of the model, as scores of other models cannot be compared.
        crop: the part of each image that is scored, as :func:`sivae.data.images.crop.parse_crop` reads it.
    """

    threshold: float
    score: Score
    samples: Annotated[int, AT_LEAST_1]
    seed: Annotated[int, SEED]
    precision: Annotated[float, POSITIVE]
    kind: str
    quantile: Annotated[float, FACTOR]
    images: Annotated[int, AT_LEAST_1]
    data: str
    model: str
    crop: str = "center"

    def write(self, path: Path) -> None:
        """Write the file atomically; missing folders are made."""
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_json(path, {"format": _FORMAT, **asdict(self)})

    @classmethod
    def read(cls, path: Path) -> Threshold:
        """Read a file that :meth:`write` wrote.

        Raises:
            ThresholdError: there is no such file, or it holds something else.
        """
        try:
            content: Any = read_json(path, cls, error=ThresholdError, remedy="calibrate again", version=_FORMAT)
        except FileNotFoundError:
            raise ThresholdError(
                f"{path}: there is no such file; sivae ood MODEL --calibrate {path} makes it"
            ) from None
        return cls(**{field.name: content[field.name] for field in fields(cls) if field.name in content})


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
