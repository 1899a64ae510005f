"""Compare the scores of a set in distribution with those of a set out of distribution."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sivae import files
from sivae.detection.clouds import CloudDetector
from sivae.detection.detector import Detector, Scores
from sivae.evaluation.ood import Threshold, separation
from sivae.machine import versions


def comparison(
    detector: Detector | CloudDetector,
    names: tuple[str, str],
    inside: Scores,
    outside: Scores,
    *,
    threshold: Threshold | None = None,
    source: str = "",
) -> dict[str, Any]:
    """Collect the metrics and facts of a comparison of two sets, ready for JSON.

    Args:
        detector: made the scores.
        names: of the set in distribution and of the set out of distribution.
        inside, outside: their scores.
        threshold: adds `found`, the share of the set outside that is above it.
        source: path of the model.
    """
    decisive = outside[detector.score]
    content: dict[str, Any] = {
        "model": source,
        "score": detector.score,
        "samples": detector.samples,
        "seed": detector.seed,
        "density": {"kind": detector.density.kind, "sigma": detector.density.sigma},
        "in": {"data": names[0], "images": len(inside[detector.score])},
        "out": {"data": names[1], "images": len(decisive)},
        "positive": "out",
        "metrics": {
            score: {name: one._asdict() for name, one in separation(inside[score], outside[score]).items()}
            for score in inside
        },
        "versions": versions(),
    }
    if threshold is not None:
        content["threshold"] = {
            "threshold": threshold.threshold,
            "quantile": threshold.quantile,
            "found": float((decisive > threshold.threshold).mean()),
        }
    return content


def write_set_scores(path: Path, sets: Mapping[str, Scores]) -> None:
    """Write a CSV atomically, with a row for each image: its set and its scores."""
    names = list(next(iter(sets.values())))
    rows = [
        (name, *(repr(float(value)) for value in values))
        for name, scores in sets.items()
        for values in zip(*(scores[score] for score in names), strict=True)
    ]
    files.write_csv(path, ("set", *names), rows)
