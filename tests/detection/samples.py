"""A density and random images for the tests of detection."""

from __future__ import annotations

import numpy as np

from sivae.evaluation.likelihood import PixelDensity

DENSITY = PixelDensity(2.0)


def pixels(count: int, side: int = 8, channels: int = 3) -> np.ndarray:
    """Random images, uint8 [count, side, side, channels], the same at every call."""
    return np.random.default_rng(0).integers(0, 256, (count, side, side, channels), dtype=np.uint8)
