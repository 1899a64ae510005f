"""The built-in chairs, tables, planes and lamps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from sivae.data.clouds import open_clouds, write_ply
from sivae.data.clouds.base import Part
from sivae.data.clouds.builtin.draws import Draws
from sivae.data.clouds.builtin.shapes import COUNTS, KINDS
from sivae.errors import DataError


@pytest.mark.parametrize("part", ["train", "test"])
def test_every_class_has_its_shapes(part: Part) -> None:
    shapes = open_clouds("shapes", part=part)
    assert len(shapes) == 4 * COUNTS[part] == len(shapes.names) == len(shapes.labels)
    assert shapes.class_names == KINDS == ("chair", "table", "plane", "lamp")
    assert np.bincount(shapes.labels).tolist() == [COUNTS[part]] * 4
    assert shapes.names[COUNTS[part]] == "table 0"
    assert [shapes.name, open_clouds("shapes:lamp").name] == ["shapes", "shapes:lamp"]
    assert open_clouds("shapes", classes=["lamp", "chair"]).name == "shapes:lamp,chair"


@pytest.mark.parametrize("kind", KINDS)
def test_shapes_stand_upright_and_fill_the_sphere(kind: str) -> None:
    shapes = open_clouds(f"shapes:{kind}", points=512)
    clouds = shapes.batch(range(0, 3000, 100), torch.Generator().manual_seed(0))
    assert clouds.isfinite().all()
    assert (clouds.norm(dim=2).amax(1) <= 0.5 + 1e-6).all()
    assert (clouds.norm(dim=2).amax(1) > 0.4).all()
    spread = clouds.amax(1) - clouds.amin(1)
    if kind != "lamp":  # the same on the left and the right, but for drawers and the choice of points
        assert clouds[..., 0].mean().abs() < 0.02
    if kind == "plane":
        assert (spread[:, 1] < spread[:, [0, 2]].amax(1)).all()


def test_shapes_differ_and_are_the_same_again() -> None:
    first, again = open_clouds("shapes"), open_clouds("shapes")
    for index in (0, 3000, 6000, 9000):
        np.testing.assert_array_equal(first.shape(index), again.shape(index))
        other = first.shape(index + 1)
        assert other.shape != first.shape(index).shape or not np.array_equal(other, first.shape(index))
    assert not np.array_equal(first.shape(0)[:9], open_clouds("shapes", seed=1).shape(0)[:9])
    assert first.fingerprint == again.fingerprint != open_clouds("shapes", seed=1).fingerprint


def test_a_class_alone_has_the_shapes_of_the_whole_set() -> None:
    tables = open_clouds("shapes:table", part="test")
    assert tables.class_names == ("table",)
    np.testing.assert_array_equal(tables.shape(7), open_clouds("shapes", part="test").shape(507))
    both = open_clouds("shapes", classes=["lamp", "chair"])
    assert both.class_names == ("lamp", "chair")
    np.testing.assert_array_equal(both.shape(3001), open_clouds("shapes:chair").shape(1))


def test_test_shapes_are_in_other_cells_than_training_shapes() -> None:
    cells = {
        part: {tuple((Draws(0, 0, part, index).main * 5).astype(int)) for index in range(1000)}
        for part in ("train", "test")
    }
    assert not cells["train"] & cells["test"]
    assert len(cells["train"]) + len(cells["test"]) == 125  # together they are all of the space


def test_wrong_classes_and_seeds_are_refused() -> None:
    with pytest.raises(DataError, match=r"there is no class 'dog'; choose from chair, table, plane, lamp$"):
        open_clouds("shapes:dog")
    with pytest.raises(DataError, match=r"no class 'chair,lamp'; .* by --data shapes --classes chair lamp$"):
        open_clouds("shapes:chair,lamp")
    with pytest.raises(DataError, match=r"classes are lamp, lamp; expected some of chair, .*, each once"):
        open_clouds("shapes", classes=["lamp", "lamp"])
    assert open_clouds("shapes:lamp", classes=["lamp"]).class_names == ("lamp",)
    for classes in (["chair"], ["lamp", "chair"], []):
        with pytest.raises(
            DataError, match=r"shapes:lamp names one class, .*; expected lamp alone; leave the classes out"
        ):
            open_clouds("shapes:lamp", classes=classes)
    with pytest.raises(DataError, match="seed = -1; expected a whole number from 0"):
        open_clouds("shapes", seed=-1)


def test_the_name_comes_before_a_folder_of_that_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shapes").mkdir()
    for row in range(3):
        write_ply(tmp_path / "shapes" / f"{row}.ply", torch.rand(5, 3))
    monkeypatch.chdir(tmp_path)
    assert len(open_clouds("shapes")) == 4 * COUNTS["train"]
    assert len(open_clouds("./shapes")) == 2  # the last of three is the test part
