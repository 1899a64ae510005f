"""Crop, resize and channels."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from sivae.data.images.geometry import Crop, check_shape_request, fit
from sivae.errors import DamagedImageError, DataError
from tests.data.images.samples import pixels


def fitted(image: np.ndarray, resolution: int, crop: Crop = None, channels: int = 3) -> np.ndarray:
    picture = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
    return fit(picture, resolution=resolution, crop=crop, channels=channels, where="it")


def test_an_image_of_the_resolution_keeps_its_exact_pixels() -> None:
    assert np.array_equal(fitted(pixels(0), 8), pixels(0))


def test_the_centre_crop_is_the_largest_square_in_the_middle() -> None:
    wide, high = pixels(0, 4, 9), pixels(1, 9, 4)
    assert np.array_equal(fitted(wide, 4, "center"), wide[:, 2:6])
    assert np.array_equal(fitted(high, 4, "center"), high[2:6])


def test_a_crop_is_top_left_height_width() -> None:
    image = pixels(0, 9, 12)
    assert np.array_equal(fitted(image, 3, (1, 5, 3, 3)), image[1:4, 5:8])


def test_the_resize_is_antialiased() -> None:
    """Stripes of one pixel become the grey between them; taking every fourth pixel would keep one colour."""
    stripes = np.zeros((32, 32, 1), np.uint8)
    stripes[:, ::2] = 255
    # Lanczos has 3 lobes, so 12 pixels in from the border its window is whole; its weights on even and odd pixels
    # differ by less than 1 %, of 255 levels: 3.
    assert np.abs(fitted(stripes, 8, channels=1)[:, 3:5].astype(int) - 127.5).max() < 3


def test_grey_becomes_rgb_by_repetition_and_rgb_grey_by_luma() -> None:
    grey = pixels(0, channels=1)
    assert np.array_equal(fitted(grey, 8), grey.repeat(3, axis=2))
    green = np.zeros((1, 1, 3), np.uint8)
    green[..., 1] = 255
    assert fitted(green, 1, channels=1).item() == round(0.587 * 255)


def test_an_image_that_is_not_square_needs_a_crop() -> None:
    with pytest.raises(DataError, match=r"it is 9×4 \(width × height\), not square; .*--crop center"):
        fitted(pixels(0, 4, 9), 4)


def test_an_image_that_is_too_small_for_the_crop_is_named() -> None:
    with pytest.raises(DamagedImageError, match=r"it is 8×8 .* too small for the crop: rows 4 to 9, columns 0 to 5"):
        fitted(pixels(0), 4, (4, 0, 5, 5))


@pytest.mark.parametrize(
    ("resolution", "crop", "channels", "message"),
    [
        (0, None, None, "resolution = 0: expected 1 to 16384"),
        (8, "middle", None, "crop = 'middle': expected center, or top, left, height, width"),
        (8, (0, 0, 4), None, "crop = \\(0, 0, 4\\): expected center"),
        (8, (-1, 0, 4, 4), None, "top and left must be 0 or more"),
        (8, (0, 0, 4, 5), None, "height and width differ"),
        (8, None, 4, "channels = 4: expected 1"),
    ],
)
def test_what_cannot_be_is_refused(resolution: int, crop: Crop, channels: int | None, message: str) -> None:
    with pytest.raises(DataError, match=message):
        check_shape_request(resolution, crop, channels)
