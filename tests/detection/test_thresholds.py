"""Thresholds: calibrated from scores, and bound to the model that they were calibrated for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sivae.detection.detector import Detector
from sivae.detection.thresholds import calibrate, detector_of
from sivae.errors import ConfigError
from sivae.models import ConvVAE
from tests.detection.samples import DENSITY, pixels


def test_a_threshold_restores_its_detector(model: ConvVAE, tmp_path: Path) -> None:
    detector = Detector(model, DENSITY, "likelihood", samples=3, seed=5)
    scores = detector.of_pixels(pixels(20))
    threshold = calibrate(detector, scores, 0.9, "noise")
    assert threshold.threshold == np.sort(scores["likelihood"])[17] and threshold.images == 20
    assert detector_of(model, threshold, tmp_path / "t.json") == detector


def test_a_threshold_of_another_model_is_refused(model: ConvVAE, tmp_path: Path) -> None:
    detector = Detector(model, DENSITY)
    threshold = calibrate(detector, detector.of_pixels(pixels(2)), 0.9, "noise")
    other = ConvVAE(image_size=8, channels=3, widths=(8,), z_dim=4)
    with pytest.raises(ConfigError, match=r"t\.json was calibrated for another model or checkpoint"):
        detector_of(other, threshold, tmp_path / "t.json")
    with pytest.raises(ConfigError, match="quantile is 2"):
        calibrate(detector, detector.of_pixels(pixels(2)), 2, "noise")
