"""The rendered shapes: every class in every pose, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from sivae.data.images.builtin.shapes import CLASSES, CONTENTS, KINDS, TEST_CLASSES, open_shapes


def grid(split: str | None, resolution: int) -> np.ndarray:
    """[class, content, R, R, 3]."""
    shapes = open_shapes(split, resolution=resolution)  # type: ignore[arg-type]
    return shapes.array.reshape(-1, CONTENTS, resolution, resolution, 3)


def test_every_class_is_rendered_in_every_content() -> None:
    shapes = open_shapes(resolution=8)
    assert shapes.labels is not None and shapes.contents is not None
    pairs = set(zip(shapes.labels.tolist(), shapes.contents.tolist(), strict=True))
    assert len(shapes) == len(pairs) == CLASSES * CONTENTS
    assert len(set(shapes.class_names or ())) == CLASSES and len(set(shapes.content_names or ())) == CONTENTS


def test_the_parts_show_different_classes_and_all_contents() -> None:
    train, test, every = (open_shapes(split, resolution=8) for split in ("train", "test", None))
    assert (len(train), len(test)) == ((CLASSES - TEST_CLASSES) * CONTENTS, TEST_CLASSES * CONTENTS)
    assert not set(train.class_names or ()) & set(test.class_names or ())
    assert (train.content_names, test.content_names) == (every.content_names, every.content_names)
    assert np.array_equal(np.concatenate([train.array, test.array]), every.array)
    assert {name.split()[0] for name in test.class_names or ()} == set(KINDS)


def test_no_two_images_are_equal() -> None:
    flat = grid("test", 32).reshape(TEST_CLASSES * CONTENTS, -1)
    assert len(np.unique(flat, axis=0)) == len(flat)


def test_a_content_is_the_same_pose_in_every_class() -> None:
    """The shape's place: the middle of the pixels that differ from the corner's colour; asymmetric shapes shift it."""
    pixels = grid("test", 32).astype(float)
    differs = np.abs(pixels - pixels[:, :, :1, :1]).max(-1) > 8  # [class, content, R, R]
    assert (differs.sum((2, 3)) > 40).all()
    rows = (differs.sum(3) * np.arange(32)).sum(2) / differs.sum((2, 3))
    columns = (differs.sum(2) * np.arange(32)).sum(2) / differs.sum((2, 3))
    for middle in (rows, columns):
        assert np.ptp(middle, axis=0).max() < 0.2 * 32  # within a class, asymmetry shifts it by under half a shape
        assert np.ptp(middle, axis=1).min() > 0.35 * 32  # contents differ by more


def test_a_shape_stays_inside_and_leaves_a_border() -> None:
    pixels = grid("test", 32)
    corner = pixels[:, :, :1, :1]
    border = np.concatenate([pixels[:, :, 0], pixels[:, :, -1], pixels[:, :, :, 0], pixels[:, :, :, -1]], axis=2)
    assert (border == corner[:, :, 0]).all()


@pytest.mark.parametrize("resolution", [8, 16, 64])
def test_other_resolutions_show_the_same(resolution: int) -> None:
    """Averaged down to 8 x 8, the coverage differs by the error of 4 x 4 samples of a pixel."""
    small, large = grid("test", 8).astype(float), grid("test", resolution).astype(float)
    factor = resolution // 8
    averaged = large.reshape(TEST_CLASSES, CONTENTS, 8, factor, 8, factor, 3).mean((3, 5))
    assert np.abs(averaged - small).mean() < 255 / 32


def test_rendering_is_reproducible() -> None:
    assert np.array_equal(open_shapes("test", resolution=16).array, open_shapes("test", resolution=16).array)
