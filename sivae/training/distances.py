"""Make the reconstruction error that replaces the kinds of the op, from an objective's settings."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import nn

from sivae.errors import ConfigError, ModelFileError, reason_of
from sivae.method.objectives import Objective
from sivae.models.lpips import LPIPS, LPIPS_WEIGHTS, load_linear
from sivae.models.perceptual import LPIPSDistance, PerceptualDistance
from sivae.models.structural import StructuralDistance
from sivae.models.vgg import VGG16_WEIGHTS, load_vgg16


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
    vgg = f"torchvision's weights of VGG-16, {VGG16_WEIGHTS}"
    with _named("perceptual", objective.perceptual, vgg):
        network = load_vgg16(objective.perceptual, value_range=value_range)
    if objective.lpips is None:
        return PerceptualDistance(network)
    with _named("lpips", objective.lpips, f"the file {LPIPS_WEIGHTS} of the package lpips"):
        weights = load_linear(objective.lpips)
    return LPIPSDistance(LPIPS(network, weights))


@contextlib.contextmanager
def _named(setting: str, path: str, expected: str) -> Iterator[None]:
    """Have an error of a file name the setting that names the file, and the file that is expected there."""
    try:
        yield
    except ModelFileError as error:  # which says what is expected
        raise ConfigError(f"{setting}: {error}") from None
    except OSError as error:
        reason = f"there is no file {path}" if isinstance(error, FileNotFoundError) else f"{path}: {reason_of(error)}"
        raise ConfigError(f"{setting}: {reason}; name {expected}") from None
