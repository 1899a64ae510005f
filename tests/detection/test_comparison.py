"""The comparison of two sets: its metrics are complete and its rows are written."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from sivae.detection.comparison import comparison, write_set_scores
from sivae.detection.detector import Detector
from sivae.detection.thresholds import calibrate
from sivae.evaluation.ood import SCORES
from sivae.models import ConvVAE
from tests.detection.samples import DENSITY, pixels


def test_a_comparison_holds_the_metrics_and_its_rows_the_scores(model: ConvVAE, tmp_path: Path) -> None:
    detector = Detector(model, DENSITY, "elbo", samples=2)
    inside, outside = detector.of_pixels(pixels(6)), detector.of_pixels(np.zeros((4, 8, 8, 3), np.uint8))
    threshold = calibrate(detector, inside, 0.5, "noise")
    content = comparison(detector, ("noise", "black"), inside, outside, threshold=threshold)
    assert json.loads(json.dumps(content, allow_nan=False)) == content
    assert list(content["metrics"]) == list(SCORES) and content["positive"] == "out"
    assert content["metrics"]["elbo"]["auroc"]["value"] == 0.0  # black is easier than noise
    assert content["threshold"]["found"] == 0.0
    write_set_scores(tmp_path / "rows.csv", {"in": inside, "out": outside})
    lines = (tmp_path / "rows.csv").read_text().splitlines()
    assert lines[0] == "set,kl,elbo,likelihood" and len(lines) == 11
    assert [float(word) for word in lines[1].split(",")[1:]] == [inside[score][0] for score in SCORES]
