"""uint8 arrays in .npy and .npz."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from sivae import bounds
from sivae.data.images import PackedImages, open_images
from sivae.errors import DataError
from tests.data.images.samples import cifar_images, write_zip

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


@pytest.mark.parametrize(
    ("name", "message"),
    [("a.npy", "cannot be read as an array of numbers"), ("a.npz", "is no zip archive, or it is")],
)
def test_damaged_files_are_named(tmp_path: Path, name: str, message: str) -> None:
    (np.save if name == "a.npy" else np.savez)(tmp_path / name, IMAGES)
    path = tmp_path / name
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(DataError, match=rf"{name} {message}"):
        open_images(path)


def npy(header: str, version: bytes = b"\1\0") -> bytes:
    size = struct.pack("<H" if version == b"\1\0" else "<I", len(header))
    return b"\x93NUMPY" + version + size + header.encode() + bytes(64)


HEADER = "{'descr': '|u1', 'fortran_order': False, 'shape': (%s)}\n"
HOSTILE = {
    "a shape beyond the file": (npy(HEADER % "1000000, 1000, 1000"), r"too few for uint8 of shape \[1000000, 1000"),
    "a negative shape": (npy(HEADER % "-1, 4, 4"), r"too few for uint8 of shape \[-1, 4, 4\]"),
    "a shape of no end": (npy(HEADER % ("1, " * 3000)), "cannot be read as an array of numbers"),
    "a nested header": (npy("(" * 9000), "cannot be read as an array of numbers"),
    "a header of 4 GB": (npy("", b"\2\0")[:8] + b"\xff" * 4, "cannot be read as an array of numbers"),
    "objects": (npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}\n"), "it holds objects, not numbers"),
    "a version of later": (npy(HEADER % "1, 1, 1", b"\3\0"), r"version 3\.0 of the format, expected 1\.0 or 2\.0"),
    "a pickle": (b"\x80\x04N.", "it begins with 80 04 4e 2e"),
}


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize(("content", "message"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_headers_are_named(tmp_path: Path, content: bytes, message: str, inside: bool) -> None:
    path = tmp_path / ("a.npz" if inside else "a.npy")
    if inside:
        write_zip(path, {"images.npy": content})
    else:
        path.write_bytes(content)
    if inside and message.startswith("it begins"):
        message = "cannot be read as an array of numbers"
    with pytest.raises(DataError, match=rf"a\.np. cannot be read as an array of numbers.*{message}" if 0 else message):
        open_images(path)


def test_a_bomb_of_an_array_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "ALWAYS_UNPACKED", 1_000_000)
    np.savez_compressed(tmp_path / "a.npz", images=np.zeros((1_100, 32, 32), np.uint8))
    with pytest.raises(DataError, match=r"images\.npy in .*a\.npz claims to unpack to 1\.1 MB, more than 250 times"):
        open_images(tmp_path / "a.npz")


@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_in_both_orders(tmp_path: Path, order: str) -> None:
    array = np.asarray(IMAGES, order=order)  # type: ignore[call-overload]
    np.save(tmp_path / "a.npy", array)
    np.savez(tmp_path / "a.npz", images=array)
    for name in ("a.npy", "a.npz"):
        assert np.array_equal(opened(tmp_path / name).array, opened(tmp_path / "a.npy").array)


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
