"""Convert images between a model's range of values, [0, 1] and uint8."""

from __future__ import annotations

import torch
from torch import Tensor

from sivae.models.base import VAEModel


def image_range(model: VAEModel) -> tuple[float, float]:
    """Return the values of black and of white in a model's images.

    Raises:
        ValueError: the model makes points, not images.
    """
    value_range = getattr(model, "value_range", None)
    if len(model.sample_shape) != 3 or value_range is None:
        raise ValueError(f"this model makes points of {model.sample_shape[0]} values, not images")
    low, high = value_range
    return float(low), float(high)


def unit_range(images: Tensor, value_range: tuple[float, float] = (0.0, 1.0)) -> Tensor:
    """Map images from `value_range` to [0, 1] and clip them there. NaN stays NaN.

    Args:
        images: any shape, floating point.
        value_range: the values of black and of white.

    Returns:
        The same shape and dtype.

    Raises:
        ValueError: the range is empty or runs backwards.
    """
    low, high = value_range
    if not low < high:
        raise ValueError(f"value_range is {value_range}, expected (black, white) with black below white")
    if value_range != (0.0, 1.0):
        images = (images - low) / (high - low)
    return images.clamp(0.0, 1.0)


def to_uint8(images: Tensor, value_range: tuple[float, float] = (0.0, 1.0)) -> Tensor:
    """Convert images to uint8: clipped to the range, rounded to the nearest of 256 levels. NaN becomes 0.

    Args:
        images: any shape, floating point, in `value_range`.

    Returns:
        uint8, the same shape.
    """
    return unit_range(images.float(), value_range).mul(255.0).round_().nan_to_num_(0.0).to(torch.uint8)


def from_uint8(pixels: Tensor, value_range: tuple[float, float] = (0.0, 1.0)) -> Tensor:
    """Convert stored images to the values that a model takes.

    Args:
        pixels: uint8 [N, H, W, C].
        value_range: the values of black and of white.

    Returns:
        float32 [N, C, H, W], on the device of the pixels.
    """
    low, high = value_range
    return pixels.permute(0, 3, 1, 2).float() / 255.0 * (high - low) + low
