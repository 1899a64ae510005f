"""The detection of a format, and the errors for unknown content."""

from __future__ import annotations

from pathlib import Path

import pytest

from sivae.data.images import open_images
from sivae.errors import DataError
from sivae.settings.presets import preset_config
from tests.data.images.samples import (
    cifar10_python,
    mnist,
    pngs,
    write_files,
)


def test_a_folder_of_several_data_sets_is_refused_with_their_names(tmp_path: Path) -> None:
    content, _, _ = cifar10_python()
    content |= {f"MNIST/raw/train-{end}": data for end, data in mnist()[2].items()}
    with pytest.raises(
        DataError, match=r"several data sets: CIFAR-10 \(python\) in .*cifar-10-batches-py, IDX files in .*raw; name"
    ):
        open_images(write_files(tmp_path, content))


def test_the_error_for_unknown_content_names_what_was_found_and_what_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        DataError, match=r"empty holds no files; what can be read: image files \(.*, MNIST \(IDX .*, a set packed by"
    ):
        open_images(tmp_path / "empty")
    write_files(tmp_path / "b", {"notes.txt": b"x", "more.zip": b"x"})
    with pytest.raises(
        DataError, match=r"b holds more\.zip, notes\.txt \(an archive in it can be named itself\), and no images"
    ):
        open_images(tmp_path / "b")
    with pytest.raises(DataError, match=r"notes\.txt holds a file that begins with 78, and has no known name"):
        open_images(tmp_path / "b" / "notes.txt")
    with pytest.raises(DataError, match="there is no such file or folder"):
        open_images(tmp_path / "missing")
    write_files(tmp_path / "c", pngs(["1.png"]))
    with pytest.raises(DataError, match=r"1\.png is a single image; name the folder"):
        open_images(tmp_path / "c" / "1.png")


@pytest.mark.parametrize("name", ["shapes", "shapes:lamp"])
def test_built_in_clouds_are_no_images(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=f"{name}: these are built-in point clouds, expected images; name a folder"):
        open_images(name)
    with pytest.raises(DataError, match=f"{name}: these are built-in point clouds"):
        preset_config("mnist-small", path=name).data.open_parts()
    (tmp_path / name).mkdir()
    with pytest.raises(DataError, match="holds no files"):
        open_images(name)
