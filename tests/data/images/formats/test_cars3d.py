"""Cars3D: the release's MATLAB files, and the arrays that LORD's preprocessing writes."""

from __future__ import annotations

import io
import pickle
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from sivae.data.images import ImageSet, load_packed, open_images, prepare
from sivae.data.images.formats import cars3d
from sivae.data.images.formats.cars3d import test_classes as held_out
from sivae.errors import DamagedImageError, DataError
from tests.data.images.samples import cifar_images, pngs, write_files, write_tar, write_zip


def car(number: int) -> np.ndarray:
    """A car as its file holds it; the pixel at the top left of each view is (car, azimuth, elevation)."""
    im = np.zeros((128, 128, 3, 24, 4), np.uint8)
    im[0, 0, 0] = number
    im[0, 0, 1] = np.arange(24)[:, None]
    im[0, 0, 2] = np.arange(4)
    im[5, 100, :] = 77  # row 5, column 100
    return im


def mat(im: object, key: str = "im") -> bytes:
    content = io.BytesIO()
    savemat(content, {key: im}, do_compression=True)
    return content.getvalue()


def release(numbers: tuple[int, ...] = (1, 2, 10)) -> dict[str, bytes]:
    files = {f"cars/car_{number:03d}_mesh.mat": mat(car(number)) for number in numbers}
    return files | {"cars/list.txt": "\n".join(f"car_{number:03d}_mesh" for number in numbers).encode()}


def content(images: ImageSet, index: int) -> int | None:
    value: int | None = images.content(index)
    return value


@pytest.mark.parametrize("kind", ["folder", "the cars' folder", "tar", "tar.gz", "zip"])
def test_the_release_in_a_folder_and_in_archives(tmp_path: Path, kind: str) -> None:
    files = release() | {"readme.txt": b"x"}
    match kind:
        case "folder" | "the cars' folder":
            path = write_files(tmp_path, files) / ("" if kind == "folder" else "cars")
        case "zip":
            path = write_zip(tmp_path / "a.zip", files)
        case _:
            path = write_tar(tmp_path / f"a.{kind}", files)
    notices: list[str] = []
    images = open_images(path, notice=notices.append)
    assert any("reading its train images, not the test images" in notice for notice in notices)
    assert (len(images), images.uniform, images.skipped) == (2 * 96, True, 0)
    assert images.class_names == ("car 001", "car 002", "car 010")  # of both parts
    test = open_images(path, split="test")
    assert len(test) == 96 and test.label(0) == 2 and test.read(0)[0, 0, 0] == 10


def test_views_are_in_the_order_of_elevation_and_azimuth(tmp_path: Path) -> None:
    images = open_images(write_files(tmp_path, release()))
    names = images.content_names
    assert len(names) == 96 and names[24 + 15] == "elevation 1, azimuth 15 of 24"
    for index in (0, 1, 23, 24, 95, 96, 96 + 24 * 2 + 7):
        image, view = images.read(index), index % 96
        assert image.shape == (128, 128, 3) and image.dtype == np.uint8
        assert image[0, 0].tolist() == [1 + index // 96, view % 24, view // 24]
        assert image[5, 100].tolist() == [77] * 3 and not image[100, 5].any()
        assert (images.label(index), content(images, index)) == (index // 96, view)


def test_cars_are_ordered_by_number(tmp_path: Path) -> None:
    files = {f"car_{number}_mesh.mat": mat(car(number)) for number in (2, 10, 100)}
    images = open_images(write_files(tmp_path, files))
    assert images.class_names == ("car 2", "car 10", "car 100")
    assert [int(images.read(index)[0, 0, 0]) for index in (0, 96)] == [2, 10]


def test_one_car_is_a_set_without_parts(tmp_path: Path) -> None:
    folder = write_files(tmp_path, release()) / "cars"
    images = open_images(folder / "car_010_mesh.mat")
    assert (len(images), images.class_names, images.read(3)[0, 0, 0]) == (96, ("car 010",), 10)
    with pytest.raises(DataError, match=r"has no test images; it has no parts"):
        open_images(folder / "car_010_mesh.mat", split="test")


@pytest.mark.parametrize(("count", "test"), [(183, 20), (2, 1), (18, 2), (92, 10)])
def test_the_share_of_cars_that_is_held_out(count: int, test: int) -> None:
    assert held_out(count) == test  # round(count · 20/183), and at least one


def test_it_is_packed_in_order_by_any_number_of_threads(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", release())
    packed = load_packed(open_images(path), workers=3, progress=False)
    assert packed.labels is not None and packed.labels.tolist() == [0] * 96 + [1] * 96
    assert packed.contents is not None and packed.contents.tolist() == list(range(96)) * 2
    assert packed.array[96 + 24 + 2, 0, 0].tolist() == [2, 2, 1]
    facts = prepare(path, tmp_path / "out", resolution=8, levels=False, progress=False)
    assert (facts["count"], facts["channels"], facts["part"]) == (192, 3, "train")
    opened = open_images(tmp_path / "out")
    assert opened.content_names == packed.content_names
    assert (opened.label(96 + 30), content(opened, 96 + 30)) == (1, 30)


def test_a_file_is_decoded_once_in_order_and_the_set_can_be_sent_to_a_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads, load = [], cars3d.read_arrays
    monkeypatch.setattr(cars3d, "read_arrays", lambda *given: (loads.append(1), load(*given))[1])
    images = open_images(write_files(tmp_path, release()))
    for index in range(len(images)):
        images.read(index)
    assert len(loads) == 2
    sent = pickle.loads(pickle.dumps(images))
    assert np.array_equal(sent.read(100), images.read(100))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (mat(car(1))[:3000], "the file is damaged, or no MATLAB file"),
        (b"", "the file is damaged, or no MATLAB file"),
        (b"junk" * 100, "the file is damaged, or no MATLAB file"),
        (mat(car(1), "image"), r"holds no im; expected im as uint8 \[128, 128, 3, 24, 4\]"),
        (mat(car(1)[:64]), r"holds im as uint8 \[64, 128, 3, 24, 4\]; expected"),
        (mat(np.zeros((2, 2))), r"holds im as float64 \[2, 2\]; expected"),
    ],
)
def test_a_damaged_car_is_named_and_can_be_skipped(tmp_path: Path, data: bytes, message: str) -> None:
    path = write_files(tmp_path, release() | {"cars/car_002_mesh.mat": data})
    with pytest.raises(DamagedImageError, match=rf"view 4 of .*car_002_mesh\.mat: .*{message}"):
        open_images(path).read(100)
    kept = load_packed(open_images(path, skip_damaged=True), resolution=4, progress=False)
    assert (len(kept), kept.skipped) == (96, 96)


def test_a_newer_matlab_file_is_refused_with_the_remedy(tmp_path: Path) -> None:
    newer = b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + bytes(512)
    path = write_files(tmp_path, {"car_001_mesh.mat": newer})
    with pytest.raises(DataError, match=r"car_001_mesh\.mat is a MATLAB 7\.3 file.*save -v7"):
        open_images(path).read(0)


def test_image_files_beside_names_that_do_not_match_stay_image_files(tmp_path: Path) -> None:
    files = {"car_one_mesh.mat": mat(car(1)), "sprites_1.mat": b"x"} | pngs(["a.png", "b.png"])
    assert len(open_images(write_files(tmp_path, files))) == 2


# LORD's arrays

IMAGES = cifar_images(6, 0)
CLASSES, CONTENTS = np.array([0, 2, 1, 2, 0, 1]), np.array([3, 0, 1, 2, 1, 0])


@pytest.mark.parametrize("column", [False, True])
def test_the_arrays_of_lord(tmp_path: Path, column: bool) -> None:
    classes, contents = (CLASSES[:, None], CONTENTS[:, None]) if column else (CLASSES, CONTENTS)
    np.savez(tmp_path / "cars3d.npz", imgs=IMAGES, classes=classes, contents=contents, n_classes=3)
    images = open_images(tmp_path / "cars3d.npz")  # LORD's files may be one part already, so all is read
    assert images.class_names == ("0", "1", "2")
    assert images.content_names == ("0", "1", "2", "3")
    for index in range(6):
        assert np.array_equal(images.read(index), IMAGES[index])
        assert (images.label(index), content(images, index)) == (CLASSES[index], CONTENTS[index])


def test_the_last_classes_of_the_arrays_are_the_test_images(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", imgs=IMAGES, classes=CLASSES, contents=CONTENTS)
    for split, kept in (("train", [0, 2, 4, 5]), ("test", [1, 3])):
        images = open_images(tmp_path / "a.npz", split=split)  # type: ignore[arg-type]
        assert len(images) == len(kept) and images.class_names == ("0", "1", "2")
        for index, source in enumerate(kept):
            assert np.array_equal(images.read(index), IMAGES[source])
            assert (images.label(index), content(images, index)) == (CLASSES[source], CONTENTS[source])


@pytest.mark.parametrize(
    ("changes", "split", "message"),
    [
        ({"contents": CONTENTS[:5]}, None, r"its contents are int64 of shape \[5\]; expected 6 whole numbers"),
        ({"contents": CONTENTS / 2}, None, "its contents are float64"),
        ({"contents": CONTENTS - 1}, None, "its contents span -1 to 2"),
        ({"classes": CLASSES[:5]}, None, r"its labels are int64 of shape \[5\]; expected 6 whole numbers"),
        ({"imgs": IMAGES / 255}, None, "expected uint8; scale to 0"),
        ({"classes": CLASSES * 0}, "test", "all its images are of one class, and parts share no class"),
        ({"contents": None}, "test", "has no test images; it holds classes, imgs"),
        ({"classes": None}, "train", "has no train images; it holds contents, imgs"),
    ],
)
def test_wrong_arrays_are_named(tmp_path: Path, changes: dict[str, object], split: str | None, message: str) -> None:
    arrays = {"imgs": IMAGES, "classes": CLASSES, "contents": CONTENTS} | changes
    np.savez(tmp_path / "a.npz", **{key: value for key, value in arrays.items() if value is not None})
    with pytest.raises(DataError, match=rf"a\.npz.*{message}"):
        open_images(tmp_path / "a.npz", split=split)  # type: ignore[arg-type]
