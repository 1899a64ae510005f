"""SVHN's cropped digits as released, whole and damaged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from sivae.data.images import open_images
from sivae.errors import DataError
from tests.data.images.samples import (
    cifar_images,
    opened,
)


def write_svhn(path: Path, count: int, **changes: object) -> tuple[np.ndarray, list[int]]:
    images = cifar_images(count, count)
    labels = [1 + i % 10 for i in range(count)]
    content = {"X": images.transpose(1, 2, 3, 0), "y": np.array(labels, np.uint8)[:, None]} | changes
    savemat(path, {key: value for key, value in content.items() if value is not None}, do_compression=True)
    return images, [label % 10 for label in labels]


def test_svhn(tmp_path: Path) -> None:
    images, labels = write_svhn(tmp_path / "train_32x32.mat", 12)
    test, _ = write_svhn(tmp_path / "test_32x32.mat", 3)
    extra, _ = write_svhn(tmp_path / "extra_32x32.mat", 2)
    read = opened(tmp_path)
    assert np.array_equal(read.array, images)
    assert read.labels is not None and read.labels.tolist() == labels and 0 in labels
    assert read.class_names == tuple("0123456789")
    assert np.array_equal(opened(tmp_path, "test").array, test)
    assert np.array_equal(opened(tmp_path / "train_32x32.mat").array, images)
    assert np.array_equal(opened(tmp_path / "extra_32x32.mat").array, extra)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"X": None}, "holds no X"),
        ({"X": np.zeros((32, 32, 3, 2))}, r"holds X as float64 \[32, 32, 3, 2\]; expected X as uint8"),
        ({"y": np.ones((3, 1), np.uint8)}, "has 3 labels for 2 images"),
        ({"y": np.array([[1], [11]], np.uint8)}, "labels y are not all whole numbers from 0 to 10"),
    ],
)
def test_a_wrong_svhn_file_is_named(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    write_svhn(tmp_path / "train_32x32.mat", 2, **changes)
    with pytest.raises(DataError, match=rf"train_32x32\.mat.*{message}"):
        open_images(tmp_path)


def test_damaged_and_newer_matlab_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "train_32x32.mat"
    write_svhn(path, 2)
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(DataError, match=r"train_32x32\.mat is damaged, or no MATLAB file"):
        open_images(path)
    write_svhn(path, 2)
    content = bytearray(path.read_bytes())
    content[-40] ^= 1  # inside of what is compressed
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"train_32x32\.mat is damaged, or no MATLAB file: it is damaged: Error"):
        open_images(path)
    path.write_bytes(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + bytes(512))
    with pytest.raises(DataError, match=r"is a MATLAB 7\.3 file"):
        open_images(path)
