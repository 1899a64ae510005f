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
    "names", [("s-train-00.tar", "s-train-01.tar", "s-val-00.tar"), ("train/00.tar", "train/01.tar", "val/00.tar")]
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
    write_tar(tmp_path / "notes-01.tar", {"a.txt": b"x"})
    with pytest.raises(DataError, match="holds 1 tar without image files; name one"):
        open_images(tmp_path)


def test_a_damaged_image_and_a_damaged_shard_are_named(tmp_path: Path) -> None:
    write_tar(tmp_path / "a-00.tar", {"1.png": b"x"})
    with pytest.raises(DamagedImageError, match=r"1\.png in .*a-00\.tar is no image"):
        open_images(tmp_path).read(0)
    write_files(tmp_path, {"a-01.tar": b"no tar" * 200})
    with pytest.raises(DataError, match=r"a-01\.tar is no tar archive"):
        open_images(tmp_path)


def test_the_second_part_lists_no_shard_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, name in enumerate(("s-train-00.tar", "s-train-01.tar", "s-val-00.tar")):
        shard(tmp_path / name, number)
    train = open_images(tmp_path, split="train")
    monkeypatch.setattr("sivae.data.stores.members", None)
    assert [len(train), len(open_images(tmp_path, split="test"))] == [2, 1]


@pytest.mark.parametrize(
    "names",
    [
        ("celeba.tar", "stl10.tar", "svhn2.tar"),
        ("cifar10.tar", "cifar100.tar"),
        ("imagenet-32.tar", "imagenet-64.tar"),
        ("set-1.tar", "set-2.tar"),
        ("stl10.tar",),
    ],
)
def test_tars_of_which_each_is_a_set_are_no_shards(tmp_path: Path, names: tuple[str, ...]) -> None:
    for number, name in enumerate(names):
        shard(tmp_path / name, number)
    with pytest.raises(DataError, match=r"\.tar.* \(an archive in it can be named itself\)"):
        open_images(tmp_path)


@pytest.mark.parametrize(
    "names",
    [
        ("00000.tar",),
        ("part-00001.tar", "part-00007.tar"),
        tuple(f"part{number}.tar" for number in range(12)),
        ("s-10.tar", "s-11.tar"),
        ("train00.tar", "train01.tar"),
    ],
)
def test_tars_that_their_names_number_are_shards(tmp_path: Path, names: tuple[str, ...]) -> None:
    for number, name in enumerate(names):
        shard(tmp_path / name, number)
    assert len(open_images(tmp_path)) == len(names)


def test_files_beside_the_shards_are_counted(tmp_path: Path) -> None:
    shard(tmp_path / "set-000000.tar", 0)
    shard(tmp_path / "other.tar", 1)
    write_files(tmp_path, {"1.heic": b"\0\0\0\x18ftypheic", "README.md": b"#"})
    said: list[str] = []
    assert len(open_images(tmp_path, notice=said.append)) == 1
    left_out = "left out: 1 .heic (images that Pillow cannot read here), 1 .tar"
    assert said[0] == f"{tmp_path}: beside the shards {left_out}"


def test_shards_of_several_sets_in_a_folder_are_refused(tmp_path: Path) -> None:
    for number, name in enumerate(("a-000.tar", "a-001.tar", "b-train-000.tar")):
        shard(tmp_path / name, number)
    with pytest.raises(DataError, match=r"holds tar shards of several sets: a \(2 tars\), b \(1 tar\); move each set"):
        open_images(tmp_path)
