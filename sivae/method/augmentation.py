"""Augment images so that gradients flow through, as "Differentiable Augmentation" (Zhao et al., NeurIPS 2020) does.

Kinds, with sizes relative to the image's side and to its range of values:
    color: brightness, a shift of all values by up to a quarter of the range; saturation, the distance of a pixel's
        channels from their mean times a factor in [0, 2]; contrast, the distance from the image's mean times a factor
        in [0.5, 1.5];
    translation: a shift by up to an eighth of the side, in whole pixels; what comes in is of the middle of the range;
    cutout: a square of half the side, with its center anywhere in the image, gets the middle of the range.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from sivae.method.objectives import Augmentation

DRAWS = 7  # random numbers for one image
_SHIFT, _CUT = 1 / 8, 1 / 2  # of the side


def augment(
    images: Tensor, draws: Tensor, kinds: Sequence[Augmentation], value_range: tuple[float, float] = (0.0, 1.0)
) -> Tensor:
    """Augment each image in its own way; first the color, then the translation, then the cutout.

    Args:
        images: [B, C, H, W], floating point.
        draws: [B, 7] from U(0, 1), on the device of the images: they alone decide.
        kinds: those to apply.
        value_range: the values of black and of white.

    Returns:
        The same shape, dtype and memory format. Values may leave the range.

    Raises:
        ValueError: the images or the draws have another shape.
    """
    if images.dim() != 4 or draws.shape != (len(images), DRAWS):
        raise ValueError(
            f"augment: images of shape {list(images.shape)} with draws of shape {list(draws.shape)}, expected "
            f"[B, C, H, W] and [B, {DRAWS}]; only images can be augmented"
        )
    low, high = value_range
    gray = (low + high) / 2.0
    brightness, saturation, contrast, *places = draws.to(images.dtype).view(-1, DRAWS, 1, 1, 1).unbind(1)
    if "color" in kinds:
        images = images + (brightness - 0.5) * ((high - low) / 2.0)
        pixel = images.mean(1, keepdim=True)
        images = pixel + (images - pixel) * (2.0 * saturation)
        mean = images.mean((1, 2, 3), keepdim=True)
        images = mean + (images - mean) * (contrast + 0.5)
    x, y, center_x, center_y = (place.view(-1, 1) for place in places)
    if "translation" in kinds:
        channels_last = images.is_contiguous(memory_format=torch.channels_last) and not images.is_contiguous()
        images = _shifted(_shifted(images, y, 2, gray), x, 3, gray)
        images = images.contiguous(memory_format=torch.channels_last) if channels_last else images
    if "cutout" in kinds:
        rows, columns = _cut(center_y, images.shape[2]), _cut(center_x, images.shape[3])  # [B, H], [B, W]
        images = torch.where(rows[:, None, :, None] & columns[:, None, None, :], gray, images)
    return images


def _shifted(images: Tensor, draws: Tensor, axis: int, fill: float) -> Tensor:
    """Shift the images along an axis, each by its own number of pixels."""
    side = images.shape[axis]
    most = int(side * _SHIFT + 0.5)
    padded = F.pad(images, (0, 0, most, most) if axis == 2 else (most, most), value=fill)
    start = (draws * (2 * most + 1)).long().clamp_max(2 * most)  # [B, 1]
    positions = start + torch.arange(side, device=images.device)  # [B, side]
    shape = [len(images), 1, 1, 1]
    shape[axis] = side
    # Each padded value is taken once at most, so the backward pass adds in no order.
    return padded.gather(axis, positions.view(shape).expand_as(images))


def _cut(center: Tensor, side: int) -> Tensor:
    """Which of `side` pixels are within the cut, [B, side]."""
    size = int(side * _CUT + 0.5)
    first = (center * (side + 1 - size % 2)).long() - size // 2  # [B, 1]
    pixels = torch.arange(side, device=center.device)
    return (pixels >= first) & (pixels < first + size)
