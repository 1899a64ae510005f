"""CIFAR, MNIST and SVHN in the exact formats of their releases, whole and damaged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from sivae.data.images import PackedImages, open_images
from sivae.errors import DataError
from tests.data.images.samples import (
    CIFAR10_NAMES,
    cifar10_python,
    cifar_images,
    gzipped,
    idx,
    mnist,
    planes,
    pngs,
    python2_pickle,
    python3_pickle,
    write_files,
    write_tar,
    write_zip,
)


def opened(path: Path, split: str | None = None) -> PackedImages:
    images = open_images(path, split=split)  # type: ignore[arg-type]
    assert isinstance(images, PackedImages)
    return images


# CIFAR


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


# IDX


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("mark", ["-", "."])
def test_the_four_files_of_mnist(tmp_path: Path, packed: bool, mark: str) -> None:
    content = {}
    for seed, stem in enumerate(("train", "t10k")):
        _, _, own = mnist(6 - seed, seed)
        for end, data in own.items():
            name = f"{stem}-{end.replace('-idx', mark + 'idx')}"
            content[f"MNIST/raw/{name}" + ".gz" * packed] = gzipped(data) if packed else data
    images, labels, _ = mnist(6, 0)
    read = opened(write_files(tmp_path, content))
    assert np.array_equal(read.array, images[:, :, :, None]) and read.channels == 1
    assert read.labels is not None and read.labels.tolist() == labels.tolist()
    assert read.class_names == tuple(str(digit) for digit in range(6))
    test = opened(tmp_path, "test")
    assert np.array_equal(test.array[..., 0], mnist(5, 1)[0]) and test.part == "test"
    zipped = opened(write_zip(tmp_path / "m.zip", content), "train")
    assert np.array_equal(zipped.array, read.array)


def test_one_idx_file_with_the_labels_beside_it_and_without(tmp_path: Path) -> None:
    images, labels, own = mnist()
    path = write_files(tmp_path / "a", {f"t10k-{end}": data for end, data in own.items()})
    read = opened(path / "t10k-images-idx3-ubyte")
    assert np.array_equal(read.array[..., 0], images) and read.labels is not None
    assert read.labels.tolist() == labels.tolist()
    alone = opened(write_files(tmp_path / "b", {"digits.gz": gzipped(own["images-idx3-ubyte"])}) / "digits.gz")
    assert np.array_equal(alone.array[..., 0], images) and alone.class_names is None


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (idx(np.zeros((3, 4, 4), np.uint8))[:-1], None, r"images-idx3-ubyte says that it holds 48 bytes .* only 47"),
        (idx(np.zeros((3, 4, 4), np.uint8)) + b"x", None, "and has more"),
        (b"\x00\x00\x08", None, "begins with 00 00 08; an IDX file of bytes in 3 dimensions begins with 00 00 08 03"),
        (idx(np.zeros((3, 16), np.uint8)), None, "begins with 00 00 08 02; an IDX file of bytes in 3 dimensions"),
        (b"\x00\x00\x0d\x03" + bytes(12), None, "begins with 00 00 0d 03"),
        (b"\x00\x00\x08\x03" + bytes(5), None, "is cut short in its header"),
        (idx(np.zeros((0, 4, 4), np.uint8)), None, r"holds nothing: its shape is \[0, 4, 4\]"),
        (b"\x00\x00\x08\x03" + b"\x7f\xff\xff\xff" * 3, None, "which do not fit into memory"),
        (gzipped(idx(np.zeros((30, 40, 40), np.uint8)))[:60], None, r"images-idx3-ubyte is damaged"),
        (
            idx(np.zeros((3, 4, 4), np.uint8)),
            idx(np.zeros(2, np.uint8)),
            "labels-idx1-ubyte has 2 labels, where .* 3 images",
        ),
        (idx(np.zeros((3, 4, 4), np.uint8)), b"junk", r"labels-idx1-ubyte begins with 6a 75 6e 6b"),
    ],
)
def test_a_wrong_idx_file_is_named(tmp_path: Path, images: bytes, labels: bytes | None, message: str) -> None:
    content = {"train-images-idx3-ubyte": images} | ({"train-labels-idx1-ubyte": labels} if labels else {})
    with pytest.raises(DataError, match=message):
        open_images(write_files(tmp_path, content))


# SVHN


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
    path.write_bytes(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + bytes(512))
    with pytest.raises(DataError, match=r"is a MATLAB 7\.3 file"):
        open_images(path)


# Which of them


def test_a_folder_of_several_data_sets_is_refused_with_their_names(tmp_path: Path) -> None:
    content, _, _ = cifar10_python()
    content |= {f"MNIST/raw/train-{end}": data for end, data in mnist()[2].items()}
    with pytest.raises(
        DataError, match=r"several data sets: CIFAR-10 \(python\) in .*cifar-10-batches-py, IDX files in .*raw; name"
    ):
        open_images(write_files(tmp_path, content))


def test_what_is_unknown_is_told_with_what_was_seen_and_what_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        DataError, match=r"empty holds no files; what can be read: a folder, zip or tar .* IDX .* \.npz$"
    ):
        open_images(tmp_path / "empty")
    write_files(tmp_path / "b", {"notes.txt": b"x", "more.zip": b"x"})
    with pytest.raises(
        DataError, match=r"b holds more\.zip, notes\.txt \(an archive in it can be named itself\), and no images"
    ):
        open_images(tmp_path / "b")
    with pytest.raises(DataError, match=r"notes\.txt holds a file that begins with 78, and is called nothing known"):
        open_images(tmp_path / "b" / "notes.txt")
    with pytest.raises(DataError, match="there is no such file or folder"):
        open_images(tmp_path / "missing")
    write_files(tmp_path / "c", pngs(["1.png"]))
    with pytest.raises(DataError, match=r"1\.png is a single image; name the folder"):
        open_images(tmp_path / "c" / "1.png")
