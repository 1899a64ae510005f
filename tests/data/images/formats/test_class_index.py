"""Classes that a set of image files states itself are read, and a line says where they are from."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sivae.data.images import ImageSet, open_images
from sivae.errors import DataError
from tests.data.images.formats.test_image_files import WRITERS, classes
from tests.data.images.samples import pngs, write_files

Write = Callable[[dict[str, bytes]], Path]

BUCKETED = [f"0000{number // 3}/img0000{number // 3}00{number % 3}.png" for number in range(7)]  # 3 folders


@pytest.fixture(params=["folder", "zip", "tar"])
def write(request: pytest.FixtureRequest, tmp_path: Path) -> Write:
    return lambda content: WRITERS[request.param](tmp_path, content)


def opened(path: Path) -> tuple[ImageSet, list[str]]:
    said: list[str] = []
    images = open_images(path, notice=said.append)
    return images, [line.removeprefix(f"{path}: ") for line in said]


def stylegan(labels: Any) -> dict[str, bytes]:
    return pngs(BUCKETED) | {"dataset.json": json.dumps({"labels": labels}).encode()}


@pytest.mark.parametrize("one_hot", [False, True])
def test_the_labels_of_stylegan_and_edm(write: Write, one_hot: bool) -> None:
    def label(number: int) -> Any:
        return [float(place == number) for place in range(7)] if one_hot else number

    images, said = opened(write(stylegan([[name, label(6 - number)] for number, name in enumerate(BUCKETED)])))
    assert said == ["labels: dataset.json, 7 classes"]
    assert classes(images) == list("6543210") and images.class_names == tuple("0123456")


def test_labels_of_null_are_no_classes(write: Write) -> None:
    content = {name.replace("0000", "class", 1): data for name, data in stylegan(None).items()}
    images, said = opened(write(content))
    assert images.class_names is None and said == ["labels: none, as dataset.json states none"]


def test_an_outer_folder_and_windows_names_are_followed(tmp_path: Path) -> None:
    content = stylegan([[name.replace("/", "\\"), 1] for name in BUCKETED])
    images, said = opened(write_files(tmp_path / "set", {f"faces/{name}": data for name, data in content.items()}))
    assert said == ["labels: dataset.json, 2 classes"] and classes(images) == ["1"] * 7


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        ([[BUCKETED[0], 0]], "has none for 6 of 7 images, such as 00000/img00000001.png"),
        ([[name, [0.5, 1.5]] for name in BUCKETED], "has [0.5, 1.5] for 00000/img00000000.png, where one class is"),
        ([[name, -1] for name in BUCKETED], "has -1 for 00000/img00000000.png, where one class is expected"),
        ([[name, 2**70] for name in BUCKETED], "has class numbers of 65,536 and more"),
    ],
)
def test_labels_that_are_no_classes_are_none_with_the_reason(tmp_path: Path, labels: Any, reason: str) -> None:
    images, said = opened(write_files(tmp_path, stylegan(labels)))
    assert images.class_names is None
    assert len(said) == 1 and said[0].startswith(f"labels: none, as dataset.json {reason}")


@pytest.mark.parametrize("content", [b"{", b"[" * 100_000, b"\xff", b'{"labels": [["a.png"]]}'])
def test_a_damaged_index_is_named(tmp_path: Path, content: bytes) -> None:
    write_files(tmp_path, pngs(["a.png"]) | {"dataset.json": content})
    with pytest.raises(DataError, match=r"dataset\.json.* mend"):
        open_images(tmp_path)


def test_a_table_of_very_many_columns_is_named(tmp_path: Path) -> None:
    write_files(tmp_path, pngs(["a.png"]) | {"metadata.csv": b"a," * 1001 + b"\n"})
    with pytest.raises(DataError, match=r"metadata\.csv is no table of CSV: it has more than 1,000 columns; mend it"):
        open_images(tmp_path)


def test_other_content_under_the_name_of_an_index_states_nothing(tmp_path: Path) -> None:
    content = pngs(["a/1.png", "b/2.png"]) | {
        "dataset.json": b'{"labels": {"background": 0}}',
        "metadata.csv": b"x\n1\n",
    }
    images, said = opened(write_files(tmp_path, content))
    assert classes(images) == ["a", "b"] and said == ["labels: the folders of the images, 2 classes"]


def rows(kind: str, pairs: dict[str, Any], column: str) -> dict[str, bytes]:
    """Hugging Face's metadata."""
    if kind == "jsonl":
        lines = [json.dumps({"file_name": name, column: label}) for name, label in pairs.items()]
    else:
        lines = [f"file_name,{column}", *(f"{name},{label}" for name, label in pairs.items())]
    return {f"metadata.{kind}": "\n".join(lines).encode()}


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_the_metadata_of_hugging_face(write: Write, kind: str) -> None:
    names = ["x/1.png", "x/2.png", "y/3.png"]
    pairs: dict[str, Any] = {"x/1.png": "dog", "x/2.png": "cat", "y/3.png": "dog"}
    images, said = opened(write(pngs(names) | rows(kind, pairs, "label")))
    assert classes(images) == ["dog", "cat", "dog"] and images.class_names == ("cat", "dog")
    assert said == [f"labels: label in metadata.{kind}, 2 classes"]


def test_only_line_ends_divide_metadata(tmp_path: Path) -> None:
    lines = [f'{{"file_name": "x/{row}.png", "label": "{name}"}}' for row, name in enumerate(("a\u2028b", "c\x85d"))]
    content = pngs(["x/0.png", "x/1.png"]) | {"metadata.jsonl": "\r\n".join(lines).encode()}
    images, _ = opened(write_files(tmp_path, content))
    assert classes(images) == ["a\u2028b", "c\x85d"]


def test_metadata_beside_each_part_counts_the_classes_of_all(tmp_path: Path) -> None:
    content = pngs(["train/1.png", "train/2.png", "test/3.png"])
    content |= {f"train/{name}": data for name, data in rows("csv", {"1.png": 10, "2.png": 2}, "label").items()}
    content |= {f"test/{name}": data for name, data in rows("csv", {"3.png": 11}, "label").items()}
    images, said = opened(write_files(tmp_path, content))
    assert [images.label(0), images.label(1)] == [10, 2] and said[-1] == "labels: label in metadata.csv, 12 classes"
    assert open_images(tmp_path, split="test").label(0) == 11


def test_metadata_without_a_column_of_classes_states_nothing(tmp_path: Path) -> None:
    pairs = {"a/1.png": "a photo", "b/2.png": "another"}
    images, _ = opened(write_files(tmp_path, pngs(list(pairs)) | rows("csv", pairs, "caption")))
    assert images.class_names == ("a", "b")


@pytest.mark.parametrize(
    ("ending", "sides"),
    [
        (".cls", {"0": b"3\n", "1": b"0"}),
        (".json", {"0": b'{"label": 3, "caption": "x"}', "1": b'{"label": 0}'}),
    ],
)
def test_the_files_of_webdataset_beside_the_images(write: Write, ending: str, sides: dict[str, bytes]) -> None:
    content = pngs(["0.png", "1.large.png"]) | {f"{key}{ending}": data for key, data in sides.items()}
    images, said = opened(write(content))
    assert [images.label(0), images.label(1)] == [3, 0]
    assert said[-1] == f"labels: {ending} beside the images, 4 classes"


def test_files_beside_the_images_without_a_class_state_nothing(tmp_path: Path) -> None:
    content = pngs(["a/0.png", "b/1.png"]) | {"a/0.json": b'{"caption": "x"}', "b/1.json": b'{"label": 0}'}
    assert open_images(write_files(tmp_path, content)).class_names == ("a", "b")


def test_the_fingerprint_follows_the_stated_classes(tmp_path: Path) -> None:
    prints = set()
    for number in range(2):
        labels = [[name, number] for name in BUCKETED]
        prints.add(open_images(write_files(tmp_path / "set", stylegan(labels))).fingerprint)
    prints.add(open_images(write_files(tmp_path / "set", stylegan(None))).fingerprint)
    assert len(prints) == 3
