"""The handwritten digits that scikit-learn contains: 1,797 grey images of 8x8 with 17 levels, in ten classes."""

from __future__ import annotations

import numpy as np

from sivae.data.images.base import PackedImages, Split

_LEVELS = 16  # the brightest value
_TEST_EVERY = 6  # images of one writer follow each other, so the test images are spread over the set


def open_digits(split: Split | None = None) -> PackedImages:
    """Open the digits, uint8 [N, 8, 8, 1] with labels 0 to 9.

    Args:
        split: "test" is every sixth image (300), "train" the rest (1,497); None: all.
    """
    from sklearn.datasets import load_digits

    found = load_digits()
    values = np.asarray(found.images)  # float64 [N, 8, 8], 0 to 16
    pixels = np.rint(values * (255 / _LEVELS)).astype(np.uint8)[..., None]
    labels = np.asarray(found.target, dtype=np.int64)
    of_test = np.arange(len(pixels)) % _TEST_EVERY == 0
    chosen = {None: np.ones_like(of_test), "test": of_test, "train": ~of_test}[split]
    names = tuple(str(digit) for digit in range(10))
    return PackedImages(pixels[chosen], labels[chosen], name="digits", class_names=names, part=split)
