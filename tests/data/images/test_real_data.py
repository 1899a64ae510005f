"""The readers read real data sets, where they are beside the checkout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sivae.data.images import PackedImages, load_packed, open_images, prepare, verify_packed

DATA = next(
    (folder for up in Path(__file__).resolve().parents[3:6] if (folder := up / "shared" / "data").is_dir()),
    Path("shared/data"),
)


def data(name: str) -> Path:
    if not (DATA / name).is_file():
        pytest.skip(f"{name} is not in shared/data beside the checkout")
    return DATA / name


def test_olivetti_faces() -> None:
    images = open_images(data("olivetti-faces.zip"))
    loaded = load_packed(images, progress=False)
    assert loaded.array.shape == (400, 64, 64, 1)
    assert loaded.class_names is not None and len(loaded.class_names) == 40
    assert loaded.labels is not None and np.bincount(loaded.labels).tolist() == [10] * 40
    # Faces, photographed evenly: neither black, nor white, nor flat.
    assert 100 < loaded.array.mean() < 160 and loaded.array.std() > 30


def test_mnist_test_digits(tmp_path: Path) -> None:
    images = open_images(data("t10k-images-idx3-ubyte.gz"))
    assert isinstance(images, PackedImages)
    assert images.array.shape == (10_000, 28, 28, 1) and images.part == "test"
    assert images.labels is not None
    # The counts of the digits 0 to 9 as published, and the first label.
    assert np.bincount(images.labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert images.label(0) == 7
    prepare(data("t10k-images-idx3-ubyte.gz"), tmp_path / "out", resolution=32, progress=False)
    verify_packed(tmp_path / "out")
    packed = open_images(tmp_path / "out", split="test")
    assert packed.read(0).shape == (32, 32, 1) and packed.label(0) == 7


@pytest.mark.slow
def test_cifar_10_as_jpeg_files(tmp_path: Path) -> None:
    path = data("cifar10-jpeg.tar.xz")
    names = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    said: list[str] = []
    train, test = open_images(path, notice=said.append), open_images(path, split="test")
    assert "reading its train images, not the test images" in said[-1]
    assert (len(train), len(test)) == (50_000, 10_000)
    assert train.class_names == test.class_names == names
    loaded = load_packed(train, progress=False)
    assert loaded.labels is not None and np.bincount(loaded.labels).tolist() == [5_000] * 10
    assert loaded.array.shape == (50_000, 32, 32, 3)
    # The channel means of the original release are 125.3, 123.0, 113.9; JPEG at this quality keeps means to a level.
    assert np.abs(loaded.array.mean(axis=(0, 1, 2)) - [125.3, 123.0, 113.9]).max() < 1
    facts = prepare(path, tmp_path / "out", resolution=32, progress=False)
    assert facts["count"] == 50_000
    packed = open_images(tmp_path / "out")
    assert isinstance(packed, PackedImages) and np.array_equal(packed.array, loaded.array)
