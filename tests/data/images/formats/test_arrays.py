"""uint8 arrays in .npy and .npz."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sivae.data.images import PackedImages, open_images
from sivae.errors import DataError
from tests.data.images.samples import cifar_images

IMAGES = cifar_images(4, 0)


def opened(path: Path, split: str | None = None) -> PackedImages:
    images = open_images(path, split=split)  # type: ignore[arg-type]
    assert isinstance(images, PackedImages)
    return images


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        (IMAGES, IMAGES),
        (IMAGES.transpose(0, 3, 1, 2), IMAGES),
        (IMAGES[..., 0], IMAGES[..., :1]),
        (IMAGES[..., :1], IMAGES[..., :1]),
        (IMAGES[..., :1].transpose(0, 3, 1, 2), IMAGES[..., :1]),
        (np.asfortranarray(IMAGES), IMAGES),
    ],
    ids=["NHWC", "NCHW", "NHW", "NHW1", "N1HW", "columns first"],
)
def test_the_order_of_axes_follows_from_the_shape(tmp_path: Path, stored: np.ndarray, expected: np.ndarray) -> None:
    np.save(tmp_path / "a.npy", stored)
    np.savez(tmp_path / "a.npz", whatever=stored)
    for name in ("a.npy", "a.npz"):
        images = opened(tmp_path / name)
        assert np.array_equal(images.array, expected)
        assert np.array_equal(images.read(2), expected[2])
    assert isinstance(opened(tmp_path / "a.npy").array, np.memmap)


@pytest.mark.parametrize("beside", ["a-labels.npy", "a_labels.npy"])
def test_labels_beside_an_array(tmp_path: Path, beside: str) -> None:
    np.save(tmp_path / "a.npy", IMAGES)
    np.save(tmp_path / beside, np.array([2, 0, 1, 1]))
    images = opened(tmp_path / "a.npy")
    assert images.labels is not None and images.labels.tolist() == [2, 0, 1, 1]
    assert images.class_names == ("0", "1", "2")


@pytest.mark.parametrize(
    "names", [("images", "labels"), ("x", "y"), ("X", "y"), ("data", "labels"), ("arr_0", "arr_1")]
)
def test_names_in_an_npz(tmp_path: Path, names: tuple[str, str]) -> None:
    np.savez(tmp_path / "a.npz", **{names[0]: IMAGES, names[1]: np.array([[1], [0], [1], [0]], np.uint8), "z": 1})
    images = opened(tmp_path / "a.npz")
    assert np.array_equal(images.array, IMAGES)
    assert images.labels is not None and images.labels.tolist() == [1, 0, 1, 0] and images.labels.dtype == np.int64


@pytest.mark.parametrize(
    "names", ["x_train y_train x_test y_test", "train_images train_labels test_images test_labels"]
)
def test_parts_of_an_npz(tmp_path: Path, names: str) -> None:
    values = (IMAGES[:3], np.arange(3), IMAGES[3:], np.array([1]))
    np.savez(tmp_path / "a.npz", **dict(zip(names.split(), values, strict=True)))
    assert len(opened(tmp_path / "a.npz")) == 3
    assert np.array_equal(opened(tmp_path / "a.npz", "test").array, IMAGES[3:])


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (IMAGES.astype(np.float32), r"is float32 of shape .* expected uint8; scale to 0 … 255"),
        (IMAGES.astype(np.int64), "is int64 of shape"),
        (IMAGES[0, 0], r"has shape \[32, 3\]; expected \[N, H, W\]"),
        (np.zeros((2, 8, 8, 4), np.uint8), r"has shape \[2, 8, 8, 4\]"),
        (np.zeros((2, 0, 8, 3), np.uint8), r"uint8 of shape \[2, 0, 8, 3\]"),
    ],
)
def test_other_arrays_are_refused(tmp_path: Path, array: np.ndarray, message: str) -> None:
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(DataError, match=rf"a\.npy.*{message}"):
        open_images(tmp_path / "a.npy")


def test_wrong_labels_are_refused(tmp_path: Path) -> None:
    for labels, message in (
        (np.arange(3), r"labels are int64 of shape \[3\]; expected 4"),
        (np.zeros(4), "labels are float64"),
        (np.array([0, -1, 1, 1]), "labels span -1 to 1"),
    ):
        np.savez(tmp_path / "a.npz", images=IMAGES, labels=labels)
        with pytest.raises(DataError, match=rf"images in .*a\.npz.*{message}"):
            open_images(tmp_path / "a.npz")


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([{}], object), allow_pickle=True)
    np.savez(tmp_path / "b.npz", images=np.array([{}], object))
    for name in ("a.npy", "b.npz"):
        with pytest.raises(DataError, match=rf"{name} cannot be read as an array of numbers"):
            open_images(tmp_path / name)


def test_damaged_files_are_named(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", IMAGES)
    np.savez(tmp_path / "a.npz", images=IMAGES)
    for name in ("a.npy", "a.npz"):
        path = tmp_path / name
        path.write_bytes(path.read_bytes()[:500])
        with pytest.raises(DataError, match=rf"{name} cannot be read as an array of numbers"):
            open_images(path)


def test_missing_parts_and_unknown_names_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", IMAGES)
    with pytest.raises(DataError, match=r"a\.npy has no test images; one array has no parts"):
        open_images(tmp_path / "a.npy", split="test")
    np.savez(tmp_path / "a.npz", x_train=IMAGES)
    with pytest.raises(DataError, match=r"a\.npz has no test images; it has train"):
        open_images(tmp_path / "a.npz", split="test")
    np.savez(tmp_path / "a.npz", left=IMAGES, right=IMAGES)
    with pytest.raises(DataError, match=r"a\.npz holds left, right; expected images under one of images, x"):
        open_images(tmp_path / "a.npz")
