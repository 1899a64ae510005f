"""CIFAR-10 and CIFAR-100 in the formats of their releases, whole and damaged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sivae.data.images import open_images
from sivae.errors import DataError
from tests.data.images.samples import (
    CIFAR10_NAMES,
    cifar10_python,
    cifar_images,
    opened,
    planes,
    python2_pickle,
    python3_pickle,
    write_files,
    write_tar,
)


def test_cifar_10_for_python_as_a_folder_and_as_it_is_downloaded(tmp_path: Path) -> None:
    content, images, labels = cifar10_python()
    folder = write_files(tmp_path / "data", content)
    archive = write_tar(tmp_path / "cifar-10-python.tar.gz", content)
    for path in (folder, folder / "cifar-10-batches-py", archive):
        read = opened(path)
        assert np.array_equal(read.array, images)
        assert read.labels is not None and read.labels.tolist() == labels
        assert read.class_names == tuple(CIFAR10_NAMES)
        assert (read.part, read.skipped, read.resolution, read.channels) == ("train", 0, 32, 3)
        test = opened(path, "test")
        assert np.array_equal(test.array, cifar_images(3, 9)) and test.part == "test"


def test_one_cifar_file_alone(tmp_path: Path) -> None:
    content, images, labels = cifar10_python()
    folder = write_files(tmp_path, content) / "cifar-10-batches-py"
    read = opened(folder / "data_batch_2")
    assert np.array_equal(read.array, images[2:4]) and read.labels is not None and read.labels.tolist() == labels[2:4]
    assert len(opened(folder / "test_batch", "test")) == 3
    with pytest.raises(DataError, match="has no train images; it has test"):
        open_images(folder / "test_batch", split="train")


def test_cifar_10_binary(tmp_path: Path) -> None:
    batches = {f"data_batch_{number}.bin": cifar_images(2, number) for number in range(1, 6)}
    content = {
        name: b"".join(bytes([label]) + row.tobytes() for label, row in zip((4, 7), planes(images), strict=True))
        for name, images in batches.items()
    }
    content["test_batch.bin"] = bytes([9]) + planes(cifar_images(1, 9)).tobytes()
    content["batches.meta.txt"] = ("\n".join(CIFAR10_NAMES) + "\n\n").encode()
    folder = write_files(tmp_path, content)
    read = opened(folder)
    assert np.array_equal(read.array, np.concatenate(list(batches.values())))
    assert read.labels is not None and read.labels.tolist() == [4, 7] * 5
    assert read.class_names == tuple(CIFAR10_NAMES)
    assert np.array_equal(opened(folder, "test").array, cifar_images(1, 9))
    assert len(opened(folder / "data_batch_3.bin")) == 2


FINE = [f"fine{number:02}" for number in range(100)]


def test_cifar_100_for_python(tmp_path: Path) -> None:
    train, test = cifar_images(3, 0), cifar_images(1, 1)
    content = {
        "train": python2_pickle({b"data": planes(train), b"fine_labels": [99, 0, 5], b"coarse_labels": [1, 2, 3]}),
        "test": python2_pickle({b"data": planes(test), b"fine_labels": [7], b"coarse_labels": [1]}),
        "meta": python2_pickle({b"fine_label_names": [name.encode() for name in FINE], b"coarse_label_names": [b"x"]}),
    }
    folder = write_files(tmp_path / "cifar-100-python", content)
    read = opened(folder)
    assert np.array_equal(read.array, train) and read.labels is not None and read.labels.tolist() == [99, 0, 5]
    assert read.class_names == tuple(FINE)
    assert opened(tmp_path, "test").label(0) == 7


def test_cifar_100_binary(tmp_path: Path) -> None:
    train = cifar_images(2, 0)
    records = b"".join(bytes(pair) + row.tobytes() for pair, row in zip(((3, 99), (4, 1)), planes(train), strict=True))
    content = {"train.bin": records, "test.bin": records[:3074], "fine_label_names.txt": "\n".join(FINE).encode()}
    read = opened(write_files(tmp_path, content))
    assert np.array_equal(read.array, train) and read.labels is not None and read.labels.tolist() == [99, 1]
    assert read.class_names == tuple(FINE)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ({"data": planes(cifar_images(2, 0)), "labels": [1]}, "its labels are not 2 whole numbers"),
        ({"data": planes(cifar_images(2, 0)), "labels": [1, "2"]}, "its labels are not 2 whole numbers"),
        ({"data": planes(cifar_images(2, 0))}, "its labels are not 2 whole numbers"),
        ({"data": planes(cifar_images(2, 0)), "labels": [1, 10]}, "labels span 0 to 10, where there are 10 classes"),
        ({"data": np.zeros((2, 3000), np.uint8), "labels": [1, 1]}, r"shape \[2, 3000\]; expected \[N, 3072\]"),
        ({"labels": [1, 1]}, "holds a NoneType; expected an array of uint8"),
    ],
)
def test_a_wrong_cifar_pickle_is_named(tmp_path: Path, damage: dict[str, object], message: str) -> None:
    content, _, _ = cifar10_python()
    content["cifar-10-batches-py/data_batch_4"] = python3_pickle(damage, 2)
    with pytest.raises(DataError, match=rf"data_batch_4.*{message}"):
        open_images(write_files(tmp_path, content))


def test_a_cifar_pickle_that_is_cut_short_is_named(tmp_path: Path) -> None:
    content, _, _ = cifar10_python()
    content["cifar-10-batches-py/data_batch_1"] = content["cifar-10-batches-py/data_batch_1"][:1000]
    with pytest.raises(DataError, match=r"data_batch_1 is damaged"):
        open_images(write_files(tmp_path, content))


def test_a_short_binary_is_named(tmp_path: Path) -> None:
    path = write_files(tmp_path, {"data_batch_1.bin": bytes(3000)})
    with pytest.raises(DataError, match=r"data_batch_1\.bin has 3,000 bytes; expected a multiple of 3,073"):
        open_images(path)


def test_a_label_beyond_all_classes_is_named(tmp_path: Path) -> None:
    batch = {b"data": planes(cifar_images(2, 1)), b"labels": [1, 2**70]}
    path = write_files(tmp_path, {"data_batch_1": python3_pickle(batch, 2)})
    with pytest.raises(DataError, match=r"data_batch_1: its labels are not all from 0 to 65535; fetch it again"):
        open_images(path)


def test_names_of_classes_that_are_no_text_are_named(tmp_path: Path) -> None:
    content, _, _ = cifar10_python()
    name = next(name for name in content if name.endswith("batches.meta"))
    path = write_files(tmp_path, content | {name: python3_pickle({"label_names": [[]] * 10}, 2)})
    with pytest.raises(DataError, match=r"batches\.meta: its names of classes are not all text; fetch it again"):
        open_images(path)
