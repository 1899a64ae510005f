"""Make the reconstruction error that replaces the kinds of the op, from an objective's settings."""

from __future__ import annotations

from torch import nn

from sivae.errors import ConfigError
from sivae.method.objectives import Objective
from sivae.models.lpips import LPIPS
from sivae.models.perceptual import LPIPSDistance, PerceptualDistance
from sivae.models.structural import StructuralDistance
from sivae.models.vgg import VGG16_WEIGHTS


def make_distance(objective: Objective, value_range: tuple[float, float] | None) -> nn.Module | None:
    """Make the distance of images that the settings ask for, on the CPU; None: the op has their kind of error.

    Args:
        objective: the settings.
        value_range: the values of black and of white; None: 0 and 1.

    Raises:
        ConfigError: a file of weights is missing, damaged or another one.
    """
    value_range = value_range or (0.0, 1.0)
    if objective.structural:
        assert objective.kind is not None  # the settings refuse a structural term beside a perceptual error
        return StructuralDistance(objective.structural, objective.kind, value_range)
    if objective.perceptual is None:
        return None
    try:
        if objective.lpips is None:
            return PerceptualDistance.from_file(objective.perceptual, value_range=value_range)
        return LPIPSDistance(LPIPS.from_files(objective.perceptual, objective.lpips, value_range=value_range))
    except (ValueError, OSError) as error:
        raise ConfigError(f"perceptual: {error}; name VGG-16's weights, {VGG16_WEIGHTS}") from None
