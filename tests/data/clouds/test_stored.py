"""Sets of point clouds in folders, archives and arrays."""

from __future__ import annotations

import io
import pickle
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from sivae.data.clouds import open_clouds, write_ply
from sivae.data.clouds.base import Part
from sivae.errors import DataError, NoSuchSplitError

OFF = b"OFF\n4 2 0\n0 0 0\n1 0 0\n1 1 0\n0 1 0\n3 0 1 2\n3 0 2 3\n"


def points(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(*shape, 3)).astype(np.float32)


def npy(array: np.ndarray) -> bytes:
    content = io.BytesIO()
    np.save(content, array)
    return content.getvalue()


def npz(**arrays: np.ndarray) -> bytes:
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)  # type: ignore[arg-type]
    return content.getvalue()


def ply(folder: Path, seed: int, count: int = 20) -> bytes:
    write_ply(folder / "one.ply", torch.from_numpy(points(seed, count)))
    content = (folder / "one.ply").read_bytes()
    (folder / "one.ply").unlink()
    return content


def as_folder(path: Path, files: Mapping[str, bytes]) -> Path:
    for name, content in files.items():
        (path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (path / "set" / name).write_bytes(content)
    return path / "set"


def as_zip(path: Path, files: Mapping[str, bytes]) -> Path:
    with zipfile.ZipFile(path / "set.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path / "set.zip"


def as_tar(path: Path, files: Mapping[str, bytes]) -> Path:
    with tarfile.open(path / "set.tar.gz", "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path / "set.tar.gz"


Pack = Callable[[Path, Mapping[str, bytes]], Path]
PACKED = pytest.mark.parametrize("pack", [as_folder, as_zip, as_tar])


@PACKED
def test_every_kind_of_file_is_read_from_folders_and_archives(pack: Pack, tmp_path: Path) -> None:
    stored = {seed: points(seed, 20) for seed in range(4)}
    files = {
        "bed/train/a.ply": ply(tmp_path, 0),
        "bed/train/b.npy": npy(stored[1].astype(">f8")),
        "bed/train/c.npz": npz(points=stored[2]),
        "desk/train/d.npy": npy(np.asfortranarray(np.stack([stored[3], stored[0]]))),
        "desk/train/e.off": OFF,
        "desk/test/f.npy": npy(stored[1]),
        "README.txt": b"of no interest",
    }
    clouds = open_clouds(pack(tmp_path, files), points=20, normalize="none")
    assert clouds.class_names == ("bed", "desk")
    assert clouds.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert [name.rpartition("/")[2] for name in clouds.names] == [
        "a.ply", "b.npy", "c.npz", "d.npy[0]", "d.npy[1]", "e.off",
    ]  # fmt: skip
    for index, seed in enumerate((0, 1, 2, 3, 0)):
        np.testing.assert_array_equal(clouds.cloud(index), stored[seed])
    surface = clouds.cloud(5, torch.Generator().manual_seed(0))
    assert surface.shape == (20, 3)
    assert 0.0 <= surface.min() <= surface.max() <= 1.0


def test_the_test_part_is_the_last_tenth_of_each_class_by_name(tmp_path: Path) -> None:
    files = {f"{kind}/{number:02}.off": OFF for kind in ("03001627", "04379243") for number in range(30)}
    folder = as_folder(tmp_path, files)
    train, test = open_clouds(folder), open_clouds(folder, part="test")
    assert train.class_names == test.class_names == ("chair", "table")
    assert list(test.names) == [f"{kind}/{number}.off" for kind in ("03001627", "04379243") for number in (27, 28, 29)]
    assert sorted([*train.names, *test.names]) == sorted(files)
    assert train.fingerprint != test.fingerprint


def test_a_validation_part_stands_for_a_missing_test_part(tmp_path: Path) -> None:
    folder = as_folder(tmp_path, {"train/a.off": OFF, "val/b.off": OFF})
    assert list(open_clouds(folder, part="test").names) == ["val/b.off"]
    assert list(open_clouds(folder / "train" / "a.off", part="test").names) == ["a.off"]
    only = as_folder(tmp_path / "other", {"train/a.off": OFF})
    with pytest.raises(
        NoSuchSplitError, match="has no test shapes; it has train; put the test shapes into a folder or"
    ):
        open_clouds(only, part="test")
    arrays = npz(x_train=points(0, 4, 9), y_train=np.arange(4), x_val=points(1, 2, 9), y_val=np.array([3, 1]))
    found = open_clouds(as_folder(tmp_path / "arrays", {"a.npz": arrays}), part="test", points=9, normalize="none")
    assert [found.class_names[label] for label in found.labels] == ["1", "3"]
    np.testing.assert_array_equal(found.cloud(0), points(1, 2, 9)[1])


def test_an_array_named_val_alone_is_no_part(tmp_path: Path) -> None:
    folder = as_folder(tmp_path, {"a.npz": npz(points=points(0, 10, 9), val=np.zeros((10, 4)))})
    assert len(open_clouds(folder)) == 9


@pytest.mark.parametrize("part", ["train", "test"])
def test_shapes_of_neither_part_are_named(part: Part, tmp_path: Path) -> None:
    said: list[str] = []
    files = {name: npy(points(0, 5, 9)) for name in ("train.npy", "test.npy")}
    assert len(open_clouds(as_folder(tmp_path / "a", files), part=part, points=9, notice=said.append)) == 5
    assert said == []
    more = {name: npy(points(0, 5, 9)) for name in ("extra.npy", "x.npy", "y.npy")} | {
        "val/1.off": OFF,
        "val/2.off": OFF,
    }
    both = as_folder(tmp_path / "b", files | more)
    assert len(open_clouds(both, part=part, points=9, notice=said.append)) == 5
    assert said == [
        f"{both}: left out: shapes of extra.npy (5), x.npy (5), y.npy (5) and 1 more; only those of the parts train "
        "and test are read; move the others into a folder of such a name"
    ]
    said.clear()
    (both / "x.npy").unlink()
    (both / "test.npy").unlink()
    assert len(open_clouds(both, part="train", points=9, notice=said.append)) == 5
    assert len(said) == 1
    assert "shapes of extra.npy (5) and y.npy (5);" in said[0]  # those of val are the test part


def test_classes_are_chosen_by_name_or_number_in_the_given_order(tmp_path: Path) -> None:
    folder = as_folder(tmp_path, {f"{kind}/{n}.off": OFF for kind in ("02691156", "02958343", "cup") for n in range(3)})
    chosen = open_clouds(folder, classes=["Cup", "02691156"])
    assert chosen.class_names == ("cup", "airplane")
    assert chosen.labels.tolist() == [0, 0, 1, 1]
    assert chosen.names[0].startswith("cup/")
    with pytest.raises(DataError, match=r"has the classes airplane, car, cup; .*, not dog"):
        open_clouds(folder, classes=["dog", "cup"])


@PACKED
def test_arrays_of_many_clouds_have_labels_and_parts(pack: Pack, tmp_path: Path) -> None:
    files = {
        "train.npz": npz(points=points(0, 4, 9), labels=np.array([10, 2, 2, 2])),
        "both.npz": npz(x_train=points(1, 2, 9), y_train=np.array([2, 10]), test=points(2, 3, 9)),
        "test.npy": npy(points(3, 2, 9)),
        "test-labels.npy": npy(np.array([[10], [2]])),
    }
    found = open_clouds(pack(tmp_path, files), points=9, normalize="none")
    assert found.class_names == ("2", "10", "set")
    assert list(found.names) == [
        "both.npz[0]",
        *(f"train.npz[{row}]" for row in (1, 2, 3)),
        "both.npz[1]",
        "train.npz[0]",
    ]
    np.testing.assert_array_equal(found.cloud(1), points(0, 4, 9)[1])
    test = open_clouds(tmp_path / ("set" if pack is as_folder else found.name), part="test", points=9)
    assert test.class_names == ("2", "10", "set")
    assert test.labels.tolist() == [0, 1, 2, 2, 2]


def test_points_may_have_normals_and_be_in_rows(tmp_path: Path) -> None:
    cloud = points(0, 12)
    wide, tall = np.concatenate([cloud, cloud], 1), np.stack([points(1, 40).T, points(2, 40).T])
    folder = as_folder(tmp_path, {"train/a.npy": npy(wide), "train/b.npy": npy(tall)})
    np.testing.assert_array_equal(
        open_clouds(folder / "train" / "a.npy", part="test", points=12, normalize="none").cloud(0), cloud
    )
    found = open_clouds(folder, points=40, normalize="none")
    np.testing.assert_array_equal(found.cloud(2), points(2, 40))


def test_all_damaged_files_are_counted_when_the_set_is_opened(tmp_path: Path) -> None:
    damaged = {"train/b.off": OFF[:-3], "train/c.ply": b"ply"}
    folder = as_folder(tmp_path, {"train/a.off": OFF} | damaged)
    with pytest.raises(DataError, match=r"train/b.off is damaged: .*; fetch it again, or remove it \(2 of 3 shapes"):
        open_clouds(folder)


class Bomb:
    """An object that would fail the test if it were unpickled."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return pytest.fail, ("was unpickled",)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.npy", npy(np.array([Bomb()], dtype=object)), "it holds objects, not numbers"),
        ("a.npy", pickle.dumps(Bomb()), "holds no point clouds"),
        ("a.npy", npy(np.zeros((5, 2))), r"has the shape \[5, 2\]"),
        ("a.npy", npy(np.zeros((5,))), r"has the shape \[5\]"),
        ("a.npy", npy(np.zeros((0, 3))), r"has the shape \[0, 3\]"),
        ("a.npy", npy(np.zeros((5, 3)))[:-1], "too few for float64"),
        ("a.npy", npy(np.zeros((2_000_000, 1, 3), np.int8)), "2,000,000 clouds, more than 1,000,000"),
        ("a.npy", npy(np.zeros((5, 3), complex)), "complex128, expected real numbers"),
        ("a.npz", npz(points=np.array([Bomb()], dtype=object)), "it holds objects, not numbers"),
        ("a.npz", npz(a=np.zeros((5, 3)), b=np.zeros((5, 3))), "has the arrays a, b, and none named points"),
        ("a.npz", npz(points=points(0, 2, 5), labels=np.array([1])), "labels are int64 of shape"),
        ("a.npz", npz(points=np.zeros((5_000_000, 3))), "claims to unpack to 120.0 MB, more than 250 times"),
        ("a.npz", b"PK", "is no zip archive"),
        ("a.npy", npy(np.array([[0x7F800001] * 3], np.uint32).view(np.float32)), "a coordinate is not finite"),
        ("a.off", b"", "does not begin with OFF"),
        ("a.ply", b"", "does not begin with ply"),
        ("a.ply", b"ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nproperty float y\nproperty float z\n"
         b"end_header\n1 inf 2\n", "a coordinate is not finite"),
    ],
)  # fmt: skip
@PACKED
@pytest.mark.filterwarnings("error")
def test_hostile_files_are_refused_by_name(pack: Pack, name: str, content: bytes, reason: str, tmp_path: Path) -> None:
    path = pack(tmp_path, {f"train/{name}": content})
    with pytest.raises(DataError, match=rf"(?s)train/{name}.*{reason}"):
        open_clouds(path)


def test_other_paths_are_refused_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"does not exist; name a folder, .*, or 'shapes'"):
        open_clouds(tmp_path / "missing")
    (tmp_path / "a.obj").write_text("v 1 2 3")
    with pytest.raises(DataError, match=r"no file of point clouds by its name; expected .ply, .off, .npy, .npz"):
        open_clouds(tmp_path / "a.obj")
    with pytest.raises(DataError, match=r"holds a.obj, and no point clouds; .* convert other kinds to .ply"):
        open_clouds(tmp_path)
    with pytest.raises(DataError, match="part = 'validation': expected train or test"):
        open_clouds(tmp_path, part="validation")  # type: ignore[arg-type]
    with pytest.raises(NoSuchSplitError, match="no class has two shapes; add shapes"):
        open_clouds(as_folder(tmp_path / "b", {"a.off": OFF}))


def test_a_set_that_states_no_parts_says_which_of_its_tenths_is_read(tmp_path: Path) -> None:
    (tmp_path / "clouds.npy").write_bytes(npy(points(0, 20, 8)))
    for part, count in (("train", 18), ("test", 2)):
        said: list[str] = []
        assert len(open_clouds(tmp_path / "clouds.npy", part=part, points=8, notice=said.append)) == count
        words = "no folders or files named train or test, so the last tenth of each class is the test part; read: the"
        assert len(said) == 1 and f"{words} {part} part, {count} of 20 shapes" in said[0]


def test_clouds_of_fewer_points_are_said_to_be_filled_up(tmp_path: Path) -> None:
    (tmp_path / "clouds-train.npy").write_bytes(npy(points(0, 20, 8)))
    for count, words in (
        (8, []),
        (9, ["clouds-train.npy: 20 of 20 clouds have fewer than 9 points; random ones of them are repeated"]),
    ):
        said: list[str] = []
        open_clouds(tmp_path / "clouds-train.npy", points=count, notice=said.append)
        assert [one for one in said if "repeated" in one] == words


@pytest.mark.parametrize("name", ["digits", "mnist-5k"])
def test_built_in_images_are_no_clouds(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=f"{name}: these are built-in images, expected point clouds; name a folder"):
        open_clouds(name)
