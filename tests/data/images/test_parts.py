"""The train and test parts of a set are opened in one shape."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sivae.data.images import FittedImages, PackedImages, prepare
from sivae.data.images.parts import Parts, open_parts, open_split
from sivae.errors import DamagedImageError, NoSuchSplitError
from tests.data.images.samples import pixels, pngs, write_files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two train images, pixels 0 and 1, and a test image, pixels 2."""
    return write_files(tmp_path / "set", pngs(["train/1.png", "train/2.png", "test/3.png"]))


def opened(path: Path, **options: bool) -> Parts:
    return open_parts(str(path), resolution=8, channels=3, **options)


def test_both_parts_are_decoded_in_the_shape(folder: Path) -> None:
    train, test = opened(folder)
    assert isinstance(train, PackedImages) and isinstance(test, PackedImages)
    assert np.array_equal(train.array, [pixels(0), pixels(1)]) and np.array_equal(test.array, [pixels(2)])
    smaller = open_parts(str(folder), resolution=4, channels=1)
    assert smaller.test.read(0).shape == (4, 4, 1)


def test_images_may_stay_on_the_disk(folder: Path) -> None:
    train, test = opened(folder, from_disk=True)
    assert isinstance(train, FittedImages) and isinstance(test, FittedImages)
    assert np.array_equal(train.read(1), pixels(1))


def test_images_are_cropped_in_memory_and_on_the_disk_alike(folder: Path) -> None:
    crop = (2, 1, 4, 4)
    in_memory = open_parts(str(folder), resolution=4, channels=3, crop=crop)
    on_disk = open_parts(str(folder), resolution=4, channels=3, crop=crop, from_disk=True)
    for parts in (in_memory, on_disk):
        assert np.array_equal(parts.test.read(0), pixels(2)[2:6, 1:5])


def test_only_test_images_are_opened_on_request(folder: Path) -> None:
    train, test = opened(folder, for_training=False)
    assert train is None and len(test) == 1


def test_without_parts_the_same_images_are_both(tmp_path: Path) -> None:
    path = write_files(tmp_path / "flat", pngs(["1.png", "2.png"]))
    for for_training in (True, False):
        train, test = opened(path, for_training=for_training)
        assert train is test and len(test) == 2


def test_a_prepared_set_is_mapped_at_any_of_its_resolutions(folder: Path, tmp_path: Path) -> None:
    prepare(folder, tmp_path / "packed", resolution=16, progress=False)
    for resolution in (16, 8, 4):
        train, _ = open_parts(str(tmp_path / "packed"), resolution=resolution, channels=3)
        assert isinstance(train, PackedImages) and isinstance(train.array, np.memmap)
        assert train.resolution == resolution


def test_damaged_images_are_an_error_or_counted(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "train" / "1.png").write_bytes(b"x")
    with pytest.raises(DamagedImageError, match=r"1\.png"):
        opened(folder)
    train, _ = opened(folder, skip_damaged=True, show=True)
    assert train is not None and len(train) == 1
    assert "set: damaged images left out: 1" in capsys.readouterr().err


def test_one_part_is_opened_as_it_is(folder: Path, tmp_path: Path) -> None:
    said: list[str] = []
    options = {"skip_damaged": False, "notice": said.append}
    assert np.array_equal(open_split(str(folder), "train", **options).read(0), pixels(0))
    assert np.array_equal(open_split(str(folder), None, **options).read(0), pixels(2))
    flat = write_files(tmp_path / "flat", pngs(["1.png", "2.png"]))
    assert len(open_split(str(flat), None, **options)) == 2
    with pytest.raises(NoSuchSplitError):
        open_split(str(flat), "test", **options)
