"""Scores of point clouds do not depend on how a set is divided."""

from __future__ import annotations

import numpy as np
import torch

from sivae.detection.clouds import CloudDetector
from sivae.evaluation.likelihood import PixelDensity
from sivae.models import PointVAE


def test_a_cloud_has_one_score_in_every_portion_of_its_set() -> None:
    torch.manual_seed(0)
    model = PointVAE(9, 3, (6, 8), 7, (8,)).double()
    detector = CloudDetector(model, PixelDensity(1.0, "chamfer"))
    clouds = torch.randn(5, 9, 3, dtype=torch.float64)
    whole, first, others = (
        detector.of_clouds(clouds),
        detector.of_clouds(clouds[:2]),
        detector.of_clouds(clouds[2:], first=2),
    )
    for score, values in whole.items():
        # float64 noise of other numbers would differ in the first digits; products of other batches in the last ones.
        assert np.allclose(np.concatenate([first[score], others[score]]), values, rtol=1e-12)
