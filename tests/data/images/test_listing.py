"""Image files are found by suffix or content, and what is left out is counted by kind."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sivae.data.images import listing, open_images
from sivae.data.images.listing import list_images
from sivae.data.images.parts import open_parts
from sivae.data.stores import FolderStore, open_store
from sivae.errors import DataError
from tests.data.images.samples import encoded, pixels, write_files, write_tar, write_zip
from tests.data.images.test_kinds import HEIC

SUFFIX_KINDS = {
    ".jfif": "JPEG",
    ".jpe": "JPEG",
    ".pnm": "PPM",
    ".avif": "AVIF",
    ".jp2": "JPEG2000",
    ".tga": "TGA",
    ".dib": "DIB",
    ".apng": "PNG",
    "": "PNG",
    ".bak": "WEBP",
}
OTHERS = {"a.heic": HEIC, "b.heic": HEIC, "c.dng": encoded(pixels(0), "TIFF"), "notes.txt": b"x", "more/film.mp4": b"y"}
LEFT_OUT = "left out: 2 .heic (images that Pillow cannot read here), 1 .dng (images that Pillow cannot read here), "
LEFT_OUT += "1 .mp4, 1 .txt"


def rare() -> dict[str, bytes]:
    """An image of each kind that is often forgotten."""
    return {f"{number}{suffix}": encoded(pixels(1), kind) for number, (suffix, kind) in enumerate(SUFFIX_KINDS.items())}


@pytest.mark.parametrize("kind", ["folder", "zip", "tar", "tar.gz"])
def test_every_image_is_found_and_the_rest_counted(tmp_path: Path, kind: str) -> None:
    write = {"folder": write_files, "zip": write_zip}.get(kind, write_tar)
    path = write(tmp_path / f"set.{kind}", rare() | OTHERS)
    found = list_images(open_store(path))
    assert sorted(found.images) == sorted(rare())
    assert sorted(found.others) == sorted(OTHERS)
    assert found.left_out() == LEFT_OUT
    said: list[str] = []
    images = open_images(path, notice=said.append)
    assert said == [f"{path}: {LEFT_OUT}"]
    assert [images.read(index).shape for index in range(len(images))] == [(8, 8, 3)] * len(SUFFIX_KINDS)
    png = sorted(rare()).index("8")
    assert np.array_equal(images.read(png), pixels(1))


def test_training_says_once_what_it_leaves_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = {f"{part}/{name}": data for part in ("train", "test") for name, data in (rare() | OTHERS).items()}
    path = write_files(tmp_path / "set", content)
    open_parts(str(path), resolution=8, channels=3, show=True)
    said = [line for line in capsys.readouterr().err.splitlines() if "left out" in line]
    assert len(said) == 1 and said[0].startswith(
        f"{path}: left out: 4 .heic (images that Pillow cannot read here), 2 .dng"
    )


def test_files_that_belong_to_the_images_need_no_line(tmp_path: Path) -> None:
    beside = ["LICENSE", "README.md", "Thumbs.db", "metadata.csv", ".hidden", "1.txt", "1.json", "a.1.cls", "a.xml"]
    content = {name: encoded(pixels(0)) for name in ("1.png", "a.1.png")} | dict.fromkeys(beside, b"x")
    found = list_images(FolderStore(write_files(tmp_path, content)))
    assert found.images == ["1.png", "a.1.png"]
    assert found.others == {"a.xml": "no image"} and found.left_out() == "left out: 1 .xml"


def test_links_that_lead_nowhere_are_counted(tmp_path: Path) -> None:
    write_files(tmp_path, {"1.png": encoded(pixels(0))})
    (tmp_path / "2.png").symlink_to(tmp_path / "missing.png")
    found = list_images(FolderStore(tmp_path))
    assert found.left_out() == "left out: 1 that cannot be reached (such as 2.png)"


def test_a_folder_of_images_that_cannot_be_read_is_refused_with_their_kinds(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"holds no image that can be read \(PNG, .*left out: 2 \.heic .*; convert them"
    ):
        open_images(write_files(tmp_path, {"a.heic": HEIC, "b.heic": HEIC}))


def test_many_alike_files_are_not_all_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "_LOOKED_AT", 3)
    content = {f"{number}.bin": b"x" for number in range(9)} | {f"n{number}": encoded(pixels(0)) for number in range(9)}
    store = FolderStore(write_files(tmp_path, content | {f"{number}.png": b"" for number in range(9)}))
    opened: list[str] = []
    head = store.head
    monkeypatch.setattr(store, "head", lambda name: opened.append(name) or head(name))
    found = list_images(store)
    assert opened == ["0.bin", "1.bin", "2.bin", "n0", "n1", "n2"]
    assert len(found.images) == 18 and found.left_out() == "left out: 9 .bin"


def test_one_image_of_any_name_is_no_set(tmp_path: Path) -> None:
    write_files(tmp_path, {"photo": encoded(pixels(0)), "b.heic": HEIC})
    for name in ("photo", "b.heic"):
        with pytest.raises(DataError, match=f"{name} is a single image; name the folder"):
            open_images(tmp_path / name)
