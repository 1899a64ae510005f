"""The class and the part of a file, from its folders."""

from __future__ import annotations

import pytest

from sivae.data.clouds.layout import part_of_name, places


def test_shapenet_s_folders_are_classes_by_their_numbers() -> None:
    names = ["data/03001627/1a04.ply", "data/03001627/1a05.ply", "data/04379243/1b.ply"]
    assert places(names, "set") == [("chair", None), ("chair", None), ("table", None)]


def test_shapenet_s_models_have_folders_of_their_own() -> None:
    names = [f"03001627/{number:x}/models/model.ply" for number in range(3)]
    assert places(names, "set") == [("chair", None)] * 3


def test_modelnet_s_parts_are_within_the_classes() -> None:
    names = ["ModelNet10/bed/test/bed_1.off", "ModelNet10/bed/train/bed_2.off", "ModelNet10/desk/train/desk_1.off"]
    assert places(names, "set") == [("bed", "test"), ("bed", "train"), ("desk", "train")]


def test_parts_may_be_above_the_classes() -> None:
    assert places(["val/cup/a.npy", "Train/mug/b.npy"], "set") == [("cup", "val"), ("mug", "train")]


def test_files_in_one_folder_are_of_its_class() -> None:
    assert places(["a.ply", "b.ply"], "chairs") == [("chairs", None)] * 2
    assert places(["x/chairs/a.ply", "x/chairs/b.ply"], "set") == [("chairs", None)] * 2


def test_a_folder_for_each_of_many_files_is_no_class() -> None:
    assert places([f"set/{number}/points.npy" for number in range(20)], "x") == [("set", None)] * 20


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("a/train.npy", "train"),
        ("chairs_test.npz", "test"),
        ("val-2.npy", "val"),
        ("restrain.npy", None),
        ("a.npy", None),
    ],
)
def test_the_name_of_an_array_states_its_part(name: str, part: str | None) -> None:
    assert part_of_name(name) == part
