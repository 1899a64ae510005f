"""Calibrate a threshold for a detector, and make the detector of a stored threshold."""

from __future__ import annotations

from pathlib import Path

from sivae.data.images.crop import crop_text, parse_crop
from sivae.detection.detector import Detector, Scores
from sivae.errors import ConfigError
from sivae.evaluation.likelihood import PixelDensity
from sivae.evaluation.ood import Threshold, threshold_at
from sivae.models import VAEModel


def calibrate(detector: Detector, scores: Scores, quantile: float, data: str) -> Threshold:
    """Set the threshold at a quantile of the detector's score over images in distribution.

    Args:
        detector: made the scores.
        scores: of images in distribution.
        quantile: share of these images at or below the threshold, above 0 and at most 1.
        data: name of the set, stored with the threshold.

    Raises:
        ConfigError: the quantile is out of range, or the threshold would not be finite.
    """
    values = scores[detector.score]
    try:
        threshold = threshold_at(values, quantile)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    return Threshold(
        threshold=threshold,
        score=detector.score,
        samples=detector.samples,
        seed=detector.seed,
        precision=detector.density.precision,
        kind=detector.density.kind,
        quantile=quantile,
        images=len(values),
        data=data,
        model=detector.digest(),
        crop=crop_text(detector.crop) or "center",
    )


def detector_of(model: VAEModel, threshold: Threshold, path: Path) -> Detector:
    """Make the detector that a threshold was calibrated for.

    Args:
        model: the model of the calibration.
        threshold: the threshold, as read from its file.
        path: that file, for error messages.

    Raises:
        ConfigError: the model is another one, or a value in the file is out of range.
    """
    try:
        density = PixelDensity(threshold.precision, threshold.kind)
        crop = parse_crop(threshold.crop)
    except ValueError as error:
        raise ConfigError(f"{path}: {error}; calibrate again") from None
    detector = Detector(model, density, threshold.score, threshold.samples, threshold.seed, crop)
    if detector.digest() != threshold.model:
        raise ConfigError(f"{path} was calibrated for another model or checkpoint; calibrate again by --calibrate")
    return detector
