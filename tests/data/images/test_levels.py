"""A set at a lower resolution: the value of each pixel, and the source of the pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sivae.data.images import FittedImages, ImageBatches, PackedImages, at_resolution, load_packed, open_images
from sivae.data.images.halving import averaged, averages, lower_levels
from sivae.errors import DataError
from tests.data.images.samples import pixels, pngs, write_files


def means(images: np.ndarray, resolution: int) -> np.ndarray:
    """The definition: the mean of each square of pixels, rounded."""
    count, side, _, channels = images.shape
    square = side // resolution
    split = images.astype(np.float64).reshape(count, resolution, square, resolution, square, channels)
    return np.rint(split.mean(axis=(2, 4))).astype(np.uint8)


def packed(count: int = 5, side: int = 32, channels: int = 3, **options: Any) -> PackedImages:
    return PackedImages(np.stack([pixels(i, side, side, channels) for i in range(count)]), **options)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("resolution", [16, 8, 4, 2, 1])
def test_a_pixel_is_the_mean_of_its_square(resolution: int, channels: int) -> None:
    images = packed(channels=channels)
    lower = at_resolution(images, resolution)
    assert isinstance(lower, PackedImages)
    assert (lower.resolution, lower.channels, len(lower)) == (resolution, channels, 5)
    assert np.array_equal(lower.array, means(images.array, resolution))


def test_sums_of_the_largest_images_are_exact() -> None:
    """1024² white pixels sum to 255·4¹⁰, more than float32 counts to. A black one among them fades step by step."""
    white = np.full((1, 1024, 1024, 1), 255, np.uint8)
    assert all((level == 255).all() for level in averages(white, 10))
    white[0, 0, 0] = 0
    assert [int(level[0, 0, 0, 0]) for level in averages(white, 10)] == [191, 239, 251, 254, *[255] * 6]


def test_rounding_a_half_goes_to_the_even_number_and_happens_once() -> None:
    assert averaged(np.array([[[0], [1]], [[1], [0]]], np.uint8), 1).item() == 0  # 0.5
    assert averaged(np.array([[[1], [2]], [[2], [1]]], np.uint8), 1).item() == 2  # 1.5
    quarters = np.zeros((4, 4, 1), np.uint8)
    quarters[:2, :2, 0], quarters[2, 2, 0] = [[2, 2], [1, 0]], 1
    quarters[0, 2, 0] = quarters[3, 0, 0] = quarters[3, 1, 0] = 1
    assert averaged(quarters, 2).item() == 1  # 9/16; rounded at 2×2 too, it would be the mean of 1, 0, 0, 0


def test_labels_name_and_part_stay_and_the_fingerprint_is_the_level_s_own() -> None:
    images = packed(labels=np.arange(5) % 2, class_names=("a", "b"), name="faces", part="test", fingerprint="x")
    lower = at_resolution(images, 8)
    assert isinstance(lower, PackedImages)
    assert lower.labels is not None and lower.labels.tolist() == [0, 1, 0, 1, 0]
    assert (lower.name, lower.part, lower.class_names) == ("faces", "test", ("a", "b"))
    assert lower.fingerprint not in (images.fingerprint, at_resolution(images, 4).fingerprint)
    assert lower.fingerprint == at_resolution(images, 8).fingerprint


def test_a_set_at_its_own_resolution_is_itself() -> None:
    images = packed()
    assert at_resolution(images, 32) is images


def test_stored_levels_are_used() -> None:
    kept = {side: np.full((5, side, side, 3), side, np.uint8) for side in (16, 8)}
    lower = at_resolution(packed(levels=kept), 16)
    assert isinstance(lower, PackedImages)
    assert lower.array is kept[16]
    again = at_resolution(lower, 8)
    assert isinstance(again, PackedImages)
    assert again.array is kept[8]


def test_a_smaller_set_is_made_from_the_nearest_level() -> None:
    kept = {side: np.full((5, side, side, 3), side, np.uint8) for side in (16, 8)}
    images = packed(levels=kept)
    assert np.array_equal(load_packed(images, resolution=8, progress=False).array, kept[8])
    assert load_packed(images, resolution=10, progress=False).array[0, 5, 5, 0] == 16
    assert np.array_equal(FittedImages(images, resolution=16).read(3), kept[16][3])
    assert np.array_equal(load_packed(images, resolution=32, progress=False).array, images.array)
    cut = load_packed(images, resolution=8, crop=(0, 0, 8, 8), progress=False)  # in pixels of the full images
    assert np.array_equal(cut.array, images.array[:, :8, :8])


def test_images_that_are_decoded_at_every_read_are_averaged_then(tmp_path: Path) -> None:
    names = [f"{'ab'[number % 2]}/{number}.png" for number in range(4)]
    fitted = FittedImages(open_images(write_files(tmp_path, pngs(names, height=16, width=16))), resolution=16)
    lower = at_resolution(fitted, 4)
    assert isinstance(lower, FittedImages)
    assert (lower.resolution, fitted.resolution, lower.channels) == (4, 16, 3)
    expected = means(np.stack([fitted.read(index) for index in range(4)]), 4)
    assert [lower.label(index) for index in range(4)] == [fitted.label(index) for index in range(4)]
    assert np.array_equal([lower.read(index) for index in range(4)], expected)
    assert np.array_equal(at_resolution(at_resolution(fitted, 8), 4).read(1), expected[1])  # still rounded once
    with ImageBatches(lower, batch_size=2, seed=0, cache="none", workers=1) as batches:
        assert batches.batch(0)[0].shape == (2, 3, 4, 4)


@pytest.mark.parametrize("resolution", [-4, 0, 3, 12, 24, 33, 64])
def test_another_resolution_is_refused(resolution: int) -> None:
    message = rf"resolution = {resolution}, where the images have 32; expected 32 divided by 1, 2, 4, 8"
    with pytest.raises(DataError, match=message):
        at_resolution(packed(), resolution)


def test_a_side_that_is_no_power_of_two_may_be_halved_too() -> None:
    images = packed(side=12)
    lower = at_resolution(images, 3)
    assert isinstance(lower, PackedImages)
    assert np.array_equal(lower.array, means(images.array, 3))


def test_a_level_over_the_budget_is_refused_before_it_is_made() -> None:
    message = r"5 images of 16×16×3 take 3\.8 kB, more than the 3\.8 kB allowed in memory; .*sivae prepare"
    with pytest.raises(DataError, match=message):
        at_resolution(packed(), 16, budget_bytes=5 * 16 * 16 * 3 - 1)
    assert at_resolution(packed(), 16, budget_bytes=5 * 16 * 16 * 3).resolution == 16


def test_images_that_are_not_square_have_no_lower_resolution() -> None:
    with pytest.raises(DataError, match="not square"):
        at_resolution(PackedImages(np.zeros((2, 8, 4, 3), np.uint8)), 4)


def test_the_levels_that_a_set_keeps() -> None:
    assert lower_levels(256) == [128, 64, 32, 16, 8, 4]
    assert lower_levels(8) == [4]
    assert [lower_levels(side) for side in (1, 4, 7, 12, 96)] == [[]] * 5
