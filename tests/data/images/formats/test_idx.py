"""IDX files as MNIST's, whole and damaged."""

from __future__ import annotations

import bz2
import gzip
import lzma
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sivae import bounds
from sivae.data.images import open_images
from sivae.errors import DataError
from tests.data.images.samples import (
    gzipped,
    idx,
    mnist,
    opened,
    write_files,
    write_zip,
)


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
        (idx(np.zeros((3, 4, 4), np.uint8))[:-1], None, r"images-idx3-ubyte claims to hold 48 bytes .* only 47"),
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


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_other_compressions_and_bombs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pack: Callable[[bytes], bytes]
) -> None:
    images, _, _ = mnist()
    path = tmp_path / "images-idx3-ubyte"
    path.write_bytes(pack(idx(images)))
    assert np.array_equal(opened(path).array[:, :, :, 0], images)
    monkeypatch.setattr(bounds, "ALWAYS_UNPACKED", 1_000_000)
    path.write_bytes(pack(idx(np.zeros((1100, 32, 32), np.uint8))))
    with pytest.raises(DataError, match=r"images-idx3-ubyte unpacks to more than 250 times its size, .*; unpack"):
        open_images(path)
