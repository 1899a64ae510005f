"""Every image has a checksum, of its pixels or of its file, that changes with it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sivae.data.images import PackedImages, checksums, load_packed, open_images
from sivae.data.images.loading.fitting import FittedImages
from tests.data.images.samples import pngs, write_files, write_zip

_NAMES = [f"{number:03}.png" for number in range(300)]


def _changed(one: checksums.Checksums, other: checksums.Checksums) -> list[int]:
    assert one.kind == other.kind
    return [int(row) for row in np.nonzero(one.values != other.values)[0]]


def test_each_changed_image_is_told(tmp_path: Path) -> None:
    source = write_files(tmp_path / "source", pngs(_NAMES))
    of_files = checksums.checksums(FittedImages(open_images(source), resolution=8))
    packed = load_packed(open_images(source), progress=False)
    of_pixels = checksums.checksums(packed)
    write_files(source, pngs([*_NAMES[:299], "x.png", "299.png"]) | {"x.png": b""})
    (source / "x.png").unlink()
    assert _changed(of_files, checksums.checksums(FittedImages(open_images(source), resolution=8))) == [299]
    assert _changed(of_pixels, checksums.checksums(load_packed(open_images(source), progress=False))) == [299]
    packed.array[5, 0, 0, 0] ^= 1
    assert _changed(of_pixels, checksums.checksums(packed)) == [5]


def test_an_archive_has_the_checksums_of_its_files(tmp_path: Path) -> None:
    content = pngs(_NAMES[:3])
    folder = FittedImages(open_images(write_files(tmp_path / "source", content)), resolution=8)
    archive = FittedImages(open_images(write_zip(tmp_path / "source.zip", content)), resolution=8)
    assert _changed(checksums.checksums(folder), checksums.checksums(archive)) == []


def test_of_a_large_set_the_middle_of_each_image_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    array = np.zeros((10, 8, 4, 3), np.uint8)
    images = PackedImages(array)
    monkeypatch.setattr(checksums, "_MOST_BYTES", array.nbytes // 4)
    before = checksums.checksums(images)
    assert before.kind == "2 rows of pixels"
    array[2, 3:5], array[7, :3], array[8, 5:] = 1, 1, 1
    assert _changed(before, checksums.checksums(images)) == [2]
    monkeypatch.setattr(checksums, "_MOST_BYTES", 0)
    assert checksums.checksums(images).kind == "1 rows of pixels"
    monkeypatch.setattr(checksums, "_MOST_BYTES", array.nbytes)
    assert checksums.checksums(images).kind == "8 rows of pixels"
