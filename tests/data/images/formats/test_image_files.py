"""Folders, zips and tars of image files: which images, parts and classes are found."""

from __future__ import annotations

import os
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sivae.data.images import ImageSet, open_images
from sivae.data.stores import TarStore
from sivae.errors import DamagedImageError, DataError
from tests.data.images.samples import pixels, pngs, write_files, write_tar, write_zip

Writer = Callable[[Path, dict[str, bytes]], Path]

WRITERS: dict[str, Writer] = {
    "folder": lambda path, content: write_files(path / "set", content),
    "zip": lambda path, content: write_zip(path / "set.zip", content),
    "tar": lambda path, content: write_tar(path / "set.tar", content),
    "tar.gz": lambda path, content: write_tar(path / "set.tar.gz", content),
    "tar.xz": lambda path, content: write_tar(path / "set.tar.xz", content),
}


@pytest.fixture(params=WRITERS)
def write(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[dict[str, bytes]], Path]:
    return lambda content: WRITERS[request.param](tmp_path, content)


def classes(images: ImageSet) -> list[str | None]:
    names = images.class_names
    labels = [images.label(index) for index in range(len(images))]
    return [None if label is None or names is None else names[label] for label in labels]


def test_the_folder_directly_above_an_image_is_its_class(write: Callable[[dict[str, bytes]], Path]) -> None:
    names = ["cats/1.png", "dogs/1.PNG", "dogs/more/deep/2.jpeg", "cats/.hidden.png"]
    images = open_images(write(pngs(names) | {"notes.txt": b"notes"}))
    assert isinstance(images, ImageSet)
    assert images.class_names == ("cats", "deep", "dogs")
    assert classes(images) == ["cats", "dogs", "deep"]
    assert [np.array_equal(images.read(i), pixels(i)) for i in range(3)] == [True] * 3
    assert images.read(0).dtype == np.uint8
    assert images.name.startswith("set")


def test_one_folder_is_no_class(write: Callable[[dict[str, bytes]], Path]) -> None:
    images = open_images(write(pngs(["all/images/b.png", "all/images/a.png"])))
    assert images.class_names is None and images.label(0) is None
    assert np.array_equal(images.read(0), pixels(1))  # in the order of names


def test_images_beside_folders_have_no_classes(tmp_path: Path) -> None:
    images = open_images(write_files(tmp_path, pngs(["a/1.png", "b/1.png", "1.png"])))
    assert len(images) == 3 and images.class_names is None


def test_train_and_test_are_parts(write: Callable[[dict[str, bytes]], Path]) -> None:
    path = write(pngs(["train/a/1.png", "train/b/1.png", "test/b/1.png", "test/c/1.png"]))
    said: list[str] = []
    images = open_images(path, notice=said.append)
    assert classes(images) == ["a", "b"]
    assert said == [
        f"{path}: reading its train images, not the test images",
        f"{path}: labels: the folders of the images, 3 classes",
    ]
    # Classes are those of all parts, so that a label means the same in each.
    assert images.class_names == ("a", "b", "c")
    assert classes(open_images(path, split="test")) == ["b", "c"]
    assert classes(open_images(path, split="train")) == ["a", "b"]


def test_parts_below_one_folder_and_with_val_instead_of_test(tmp_path: Path) -> None:
    path = write_zip(
        tmp_path / "set.zip", pngs(["celeba_hq/train/f/1.png", "celeba_hq/train/m/2.png", "celeba_hq/val/f/3.png"])
    )
    assert len(open_images(path)) == 2
    assert classes(open_images(path, split="test")) == ["f"]


def test_a_class_called_train_is_a_class(tmp_path: Path) -> None:
    images = open_images(write_files(tmp_path, pngs(["bus/1.png", "train/1.png"])))
    assert images.class_names == ("bus", "train")


def test_a_missing_part_is_refused(tmp_path: Path) -> None:
    path = write_files(tmp_path / "a", pngs(["train/1.png"]))
    with pytest.raises(DataError, match="a has no test images; it has train"):
        open_images(path, split="test")
    path = write_files(tmp_path / "b", pngs(["1.png"]))
    with pytest.raises(DataError, match="b has no train images; it has no train and test folders"):
        open_images(path, split="train")
    with pytest.raises(DataError, match="split = 'dev': expected train or test"):
        open_images(path, split="dev")  # type: ignore[arg-type]


FFHQ = ["00000/00000.png", "00000/00999.png", "01000/01000.png", "69000/69999.png"]


@pytest.mark.parametrize("top", ["", "images1024x1024/", "thumbnails128x128/", "ffhq/images1024x1024/"])
def test_ffhq_s_folders_of_a_thousand_are_no_classes(write: Callable[[dict[str, bytes]], Path], top: str) -> None:
    beside = {"LICENSE.txt": b"", "ffhq-dataset-v2.json": b"{}", f"{top}00000/.DS_Store": b""}
    images = open_images(write(pngs([top + name for name in FFHQ]) | beside))
    assert isinstance(images, ImageSet)
    assert len(images) == 4 and images.class_names is None
    assert [np.array_equal(images.read(index), pixels(index)) for index in range(4)] == [True] * 4


def test_a_part_of_ffhq_and_a_flat_folder_of_it(write: Callable[[dict[str, bytes]], Path], tmp_path: Path) -> None:
    assert (
        open_images(write(pngs(["images1024x1024/00000/00001.png", "images1024x1024/00000/00002.png"]))).class_names
        is None
    )
    assert open_images(write_files(tmp_path / "flat", pngs(["00000.png", "01000.png"]))).class_names is None


def test_folders_of_numbers_that_are_no_thousands_are_classes(tmp_path: Path) -> None:
    images = open_images(write_files(tmp_path, pngs(["0/00000.png", "1/00001.png"])))
    assert images.class_names == ("0", "1")


def test_ffhq_s_full_images_are_taken_before_its_thumbnails(tmp_path: Path) -> None:
    folders = ("images1024x1024", "thumbnails128x128")
    path = write_files(tmp_path, pngs([f"{folder}/{name}" for folder in folders for name in FFHQ]))
    said: list[str] = []
    images = open_images(path, notice=said.append)
    assert len(images) == 4
    assert said == [
        "reading images1024x1024 of images1024x1024, thumbnails128x128; name another folder itself to read that"
    ]
    assert len(open_images(path / "thumbnails128x128")) == 4


def test_ffhq_s_photographs_in_the_wild_are_not_its_faces(tmp_path: Path) -> None:
    wild = pngs(["in-the-wild-images/00000/00000.png"], height=9, width=12)
    images = open_images(write_files(tmp_path, wild | pngs(["images1024x1024/00000/00000.png"])))
    assert len(images) == 1 and images.read(0).shape == (8, 8, 3)


def test_celeba_hq_s_flat_folder_and_its_masks(tmp_path: Path) -> None:
    names = ["CelebA-HQ-img/0.jpg", "CelebA-HQ-img/10.jpg", "CelebAMask-HQ-mask-anno/0/00000_hair.png"]
    images = open_images(write_files(tmp_path, pngs(names)))
    assert len(images) == 2 and images.class_names is None
    assert len(open_images(tmp_path / "CelebA-HQ-img")) == 2


BUCKETS = {
    "StyleGAN": ["00000/img00000000.png", "00000/img00000999.png", "00001/img00001000.png"],
    "img2dataset": ["00000/000000000.jpg", "00000/000000012.jpg", "00001/000010003.jpg"],
}


@pytest.mark.parametrize("tool", BUCKETS)
def test_folders_that_number_the_images_are_no_classes(write: Callable[[dict[str, bytes]], Path], tool: str) -> None:
    images = open_images(write(pngs(BUCKETS[tool])))
    assert len(images) == 3 and images.class_names is None


def test_an_image_folder_of_torchvision_has_parts_and_classes(tmp_path: Path) -> None:
    names = [f"{part}/{one}/{number}.jpg" for part in ("train", "val") for one in ("cat", "dog") for number in (1, 2)]
    path = write_files(tmp_path, pngs(names))
    for split in ("train", "test"):
        images = open_images(path, split=split)
        assert classes(images) == ["cat", "cat", "dog", "dog"] and images.class_names == ("cat", "dog")


def test_images_of_a_third_part_are_named(tmp_path: Path) -> None:
    said: list[str] = []
    open_images(
        write_files(tmp_path, pngs(["train/1.png", "val/2.png", "val/3.png", "test/4.png"])), notice=said.append
    )
    assert f"{tmp_path}: left out: images of val (2); train and test are read; name the folder to read it" in said


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    write_files(tmp_path / "elsewhere", pngs(["1.png"]))
    write_files(tmp_path / "set", pngs(["b/2.png"]))
    (tmp_path / "set" / "a").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "set" / "b" / "loop").symlink_to(tmp_path / "set")
    (tmp_path / "set" / "b" / "nowhere.png").symlink_to(tmp_path / "missing")
    assert len(open_images(tmp_path / "set")) == 2


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
def test_names_in_an_archive_are_never_used_as_paths(tmp_path: Path, kind: str) -> None:
    content = pngs(["../../evil/1.png", "/etc/2.png", "ok/3.png"])
    images = open_images(WRITERS[kind](tmp_path, content))
    before = sorted(tmp_path.rglob("*"))
    assert len(images) == 3
    assert sorted(images.class_names or ()) == ["etc", "evil", "ok"]
    for index in range(3):
        images.read(index)
    assert sorted(tmp_path.rglob("*")) == before
    assert not (tmp_path.parent / "evil").exists() and not (tmp_path.parent.parent / "evil").exists()


def test_links_in_a_tar_are_left_out(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "set.tar", pngs(["1.png"]))
    with tarfile.open(path, "a") as archive:
        link = tarfile.TarInfo("2.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    assert len(open_images(path)) == 1


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.xz"])
def test_an_archive_that_is_cut_short_is_named(tmp_path: Path, kind: str) -> None:
    path = WRITERS[kind](tmp_path, pngs(["1.png", "2.png"], height=64))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 3])
    with pytest.raises(DataError, match=rf"{path.name}"):
        images = open_images(path)
        for index in range(len(images)):
            images.read(index)
        raise AssertionError("nothing was noticed")


@pytest.mark.parametrize("name", ["set.zip", "set.tar.gz"])
def test_a_file_that_is_no_archive_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"no archive at all" * 9)
    with pytest.raises(DataError, match=rf"{name} is no (zip|tar) archive"):
        open_images(tmp_path / name)


def test_a_damaged_file_in_a_zip_is_named(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "set.zip", pngs(["a.png", "b.png"]))
    with zipfile.ZipFile(path) as archive:
        place = archive.getinfo("b.png").header_offset + 60
    content = bytearray(path.read_bytes())
    content[place] ^= 0xFF
    path.write_bytes(bytes(content))
    images = open_images(path)
    assert np.array_equal(images.read(0), pixels(0))
    with pytest.raises(DamagedImageError, match=r"b\.png in .*set\.zip is damaged"):
        images.read(1)


def test_a_compressed_tar_over_the_budget_is_refused_with_advice(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "set.tar.gz", pngs(["1.png", "2.png"]))
    with pytest.raises(DataError, match=r"set\.tar\.gz holds more than 250 bytes, .* unpack it, and name the folder"):
        TarStore(path, budget=250)


def test_a_file_that_vanishes_is_named(tmp_path: Path) -> None:
    images = open_images(write_files(tmp_path, pngs(["1.png"])))
    (tmp_path / "1.png").unlink()
    with pytest.raises(DamagedImageError, match=r"1\.png has vanished"):
        images.read(0)


@pytest.mark.parametrize("kind", WRITERS)
def test_a_set_can_be_sent_to_another_process(tmp_path: Path, kind: str) -> None:
    images = open_images(WRITERS[kind](tmp_path, pngs(["1.png", "2.png"])))
    images.read(1)
    copy = pickle.loads(pickle.dumps(images))
    assert np.array_equal(copy.read(1), pixels(1))


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_a_forked_process_reads_an_archive_beside_its_parent(tmp_path: Path, kind: str) -> None:
    """Processes must not share a position in the file."""
    names = [f"{number:02}.png" for number in range(20)]
    images = open_images(WRITERS[kind](tmp_path, pngs(names, height=40, width=40)))
    images.read(0)
    child = os.fork()
    if child == 0:
        wrong = 1
        try:
            for _ in range(5):
                wrong = int(not all(np.array_equal(images.read(i), pixels(i, 40, 40)) for i in range(20)))
        finally:
            os._exit(wrong)
    for _ in range(5):
        assert all(np.array_equal(images.read(i), pixels(i, 40, 40)) for i in range(20))
    assert os.waitpid(child, 0)[1] == 0
