"""Compare the scores of a set in distribution with those of a set out of distribution."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sivae import files
from sivae.detection.clouds import CloudDetector
from sivae.detection.detector import Detector, Scores
from sivae.evaluation.ood import Threshold, describe, separation
from sivae.machine import versions
from sivae.settings.models import Samples

FILES = ("ood.json", "ood.csv", "ood.png")


def comparison(
    detector: Detector | CloudDetector,
    names: tuple[str, str],
    inside: Scores,
    outside: Scores,
    *,
    threshold: Threshold | None = None,
    source: str = "",
    samples: Samples = "images",
) -> dict[str, Any]:
    """Collect the metrics and facts of a comparison of two sets, ready for JSON.

    Args:
        detector: made the scores.
        names: of the set in distribution and of the set out of distribution.
        inside, outside: their scores.
        threshold: adds `found`, the share of the set outside that is above it.
        source: path of the model.
        samples: what was scored, the key of the counts.
    """
    decisive = outside[detector.score]
    content: dict[str, Any] = {
        "model": source,
        "score": detector.score,
        "samples": detector.samples,
        "seed": detector.seed,
        "density": {"kind": detector.density.kind, "sigma": detector.density.sigma},
        "in": {"data": names[0], samples: len(inside[detector.score])},
        "out": {"data": names[1], samples: len(decisive)},
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


def write_comparison(
    folder: Path,
    detector: Detector | CloudDetector,
    names: tuple[str, str],
    sets: Mapping[str, Scores],
    *,
    threshold: Threshold | None = None,
    source: Path,
    samples: Samples = "images",
) -> dict[str, Any]:
    """Write :data:`FILES` of a comparison into a folder: its content, every score, and a histogram.

    Args:
        folder: exists.
        sets: the scores of "in" and of "out".
        detector, names, threshold, source, samples: see :func:`comparison`.

    Returns:
        The content of the first file.
    """
    from sivae.figures.charts import plot_scores

    content = comparison(
        detector, names, sets["in"], sets["out"], threshold=threshold, source=str(source), samples=samples
    )
    of_json, of_csv, of_png = (folder / name for name in FILES)
    files.write_json(of_json, content)
    write_set_scores(of_csv, sets)
    plot_scores(
        of_png,
        {source.name: {name: one[detector.score] for name, one in zip(names, sets.values(), strict=True)}},
        describe(detector.score, detector.samples),
        f"{names[0]} against {names[1]}",
        threshold=None if threshold is None else threshold.threshold,
    )
    return content


def distinct_names(inside: str, outside: str) -> tuple[str, str]:
    """The names of two sets, with what they are where they have one name."""
    return (f"{inside} (in)", f"{outside} (out)") if inside == outside else (inside, outside)
