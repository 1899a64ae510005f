"""A folder of tar shards is one set of images."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from sivae.data.images import open_images
from sivae.errors import DamagedImageError, DataError
from tests.data.images.samples import encoded, pixels, write_files, write_tar


def shard(path: Path, *numbers: int) -> None:
    """A shard of WebDataset: an image and its class for each number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content: dict[str, bytes] = {}
    for number in numbers:
        content |= {f"{number:06}.png": encoded(pixels(number)), f"{number:06}.cls": str(number % 3).encode()}
    write_tar(path, content)


def test_the_shards_are_one_set_with_the_classes_beside_its_images(tmp_path: Path) -> None:
    shard(tmp_path / "set-000000.tar", 0, 1)
    shard(tmp_path / "set-000001.tar", 2, 3)
    said: list[str] = []
    images = pickle.loads(pickle.dumps(open_images(tmp_path, notice=said.append)))
    assert said == [f"{tmp_path}: labels: .cls beside the images, 3 classes"]
    assert [images.label(index) for index in range(len(images))] == [0, 1, 2, 0]
    assert all(np.array_equal(images.read(index), pixels(index)) for index in range(4))
    assert images.where(2) == f"000002.png in {tmp_path / 'set-000001.tar'}"


@pytest.mark.parametrize(
    "names", [("s-train-0.tar", "s-train-1.tar", "s-val-0.tar"), ("train/0.tar", "train/1.tar", "val/0.tar")]
)
def test_the_names_or_folders_of_shards_are_parts(tmp_path: Path, names: tuple[str, ...]) -> None:
    for number, name in enumerate(names):
        shard(tmp_path / name, number)
    assert len(open_images(tmp_path, split="train")) == 2
    assert np.array_equal(open_images(tmp_path, split="test").read(0), pixels(2))


def test_shards_are_no_classes(tmp_path: Path) -> None:
    for number in range(2):
        write_tar(tmp_path / f"{number:05}.tar", {f"{number:05}0000.jpg": encoded(pixels(number))})
    assert open_images(tmp_path).class_names is None


def test_shards_without_images_are_refused(tmp_path: Path) -> None:
    write_tar(tmp_path / "notes-1.tar", {"a.txt": b"x"})
    with pytest.raises(DataError, match="holds 1 tar without image files; name one"):
        open_images(tmp_path)


def test_a_damaged_image_and_a_damaged_shard_are_named(tmp_path: Path) -> None:
    write_tar(tmp_path / "a-0.tar", {"1.png": b"x"})
    with pytest.raises(DamagedImageError, match=r"1\.png in .*a-0\.tar is no image"):
        open_images(tmp_path).read(0)
    write_files(tmp_path, {"a-1.tar": b"no tar" * 200})
    with pytest.raises(DataError, match=r"a-1\.tar is no tar archive"):
        open_images(tmp_path)


def test_the_second_part_lists_no_shard_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, name in enumerate(("s-train-00.tar", "s-train-01.tar", "s-val-00.tar")):
        shard(tmp_path / name, number)
    train = open_images(tmp_path, split="train")
    monkeypatch.setattr("sivae.data.images.stores.members", None)
    assert [len(train), len(open_images(tmp_path, split="test"))] == [2, 1]
