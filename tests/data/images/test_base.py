"""The defaults of every set of images, and the checks of a set that is one array."""

from __future__ import annotations

import numpy as np
import pytest

from sivae.data.images import ImageSet, PackedImages
from sivae.errors import DataError
from tests.data.images.samples import pixels


class Plain(ImageSet):
    """Defines only what has no default."""

    name = "plain"

    def __len__(self) -> int:
        return 2

    def read(self, index: int) -> np.ndarray:
        return pixels(index, 6, 8)


def test_a_set_without_labels_has_defaults() -> None:
    images = Plain()
    assert images.label(0) is images.content(0) is images.labels is images.contents is images.fingerprint is None
    assert not (images.uniform or images.skip_damaged or images.skipped)
    assert images.where(1) == "image 1 of plain" and images.at_least(4) is images
    assert np.array_equal(images.picture(1), pixels(1, 6, 8))
    assert np.array_equal(images.read_square(1, 6, 3), pixels(1, 6, 8)[:, 1:7])


def test_the_label_and_content_of_an_image_are_those_of_its_number() -> None:
    images = Plain()
    images.labels, images.contents = np.array([1, 0]), np.array([4, 5])
    assert [(images.label(index), images.content(index)) for index in range(2)] == [(1, 4), (0, 5)]


@pytest.mark.parametrize(
    ("array", "labels", "names", "message"),
    [
        (np.zeros((2, 8, 8, 3), np.float32), None, None, "images are float32"),
        (np.zeros((2, 8, 8), np.uint8), None, None, r"of shape \[2, 8, 8\]"),
        (np.zeros((2, 8, 8, 2), np.uint8), None, None, "C 1 or 3"),
        (np.zeros((2, 8, 8, 3), np.uint8), np.zeros(3, int), ("a",), r"labels are int64 of shape \[3\] beside 2"),
        (np.zeros((2, 8, 8, 3), np.uint8), np.array([0, 1]), ("a",), "a label is outside 0 to 0"),
    ],
)
def test_arrays_that_are_no_packed_set(
    array: np.ndarray, labels: np.ndarray | None, names: tuple[str, ...] | None, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        PackedImages(array, labels, class_names=names)


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (np.zeros(3, int), r"contents are int64 of shape \[3\] beside 2"),
        (np.array([0, 3]), "a content is outside 0 to 2"),
    ],
)
def test_wrong_contents_are_refused(contents: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        PackedImages(np.zeros((2, 8, 8, 3), np.uint8), contents=contents, content_names=("x", "y", "z"))


def test_a_set_that_is_not_square_has_no_resolution() -> None:
    images = PackedImages(np.zeros((2, 8, 6, 3), np.uint8))
    with pytest.raises(DataError, match=r"images are 6×8 \(width × height\), not square"):
        _ = images.resolution
