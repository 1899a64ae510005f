"""Conversions between a model's range of values, [0, 1] and uint8."""

from __future__ import annotations

import math

import pytest
import torch

from sivae.models import MLPVAE, ConvVAE
from sivae.models.pixels import from_uint8, image_range, to_uint8, unit_range


def test_images_have_the_range_of_their_model_and_points_have_none() -> None:
    assert image_range(ConvVAE(image_size=8, channels=1, widths=(4,), z_dim=2)) == (0.0, 1.0)
    with pytest.raises(ValueError, match="this model makes points of 2 values, not images"):
        image_range(MLPVAE())


def test_values_are_mapped_and_clipped() -> None:
    x = torch.tensor([-3.0, -1.0, 0.0, 1.0, 2.0, math.inf, -math.inf])
    assert unit_range(x, (-1.0, 1.0)).tolist() == [0, 0, 0.5, 1, 1, 1, 0]
    assert to_uint8(x, (-1.0, 1.0)).tolist() == [0, 0, 128, 255, 255, 255, 0]
    assert math.isnan(unit_range(torch.tensor(math.nan)))
    assert int(to_uint8(torch.tensor(math.nan))) == 0


def test_stored_images_survive_the_conversion_to_values_and_back() -> None:
    levels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_uint8(levels.float() / 255), levels)
    assert torch.equal(to_uint8(levels.float() / 255 * 2 - 1, (-1.0, 1.0)), levels)


@pytest.mark.parametrize("value_range", [(1.0, 0.0), (0.5, 0.5), (math.nan, 1.0)])
def test_an_empty_range_is_an_error(value_range: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="black below white"):
        unit_range(torch.zeros(1), value_range)


@pytest.mark.parametrize("value_range", [(0.0, 1.0), (-1.0, 1.0)])
def test_every_level_survives_the_conversion_to_a_model_s_range_and_back(value_range: tuple[float, float]) -> None:
    pixels = torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1).repeat(2, 1, 1, 3)
    images = from_uint8(pixels, value_range)
    assert images.shape == (2, 3, 16, 16) and (float(images.min()), float(images.max())) == value_range
    assert torch.equal(to_uint8(images, value_range), pixels.permute(0, 3, 1, 2))
