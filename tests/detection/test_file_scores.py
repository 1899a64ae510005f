"""Scores of image files: a row for each file, with a verdict or the damage."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from sivae.data.images import open_images
from sivae.detection.detector import Detector
from sivae.detection.file_scores import FileScore, score_files, write_file_scores
from sivae.detection.sets import score_set
from sivae.errors import DataError
from sivae.models import ConvVAE
from tests.data.images.samples import write_files
from tests.data.images.test_kinds import HEIC
from tests.detection.samples import DENSITY


def test_every_file_has_a_row(model: ConvVAE, pictures: Path, tmp_path: Path) -> None:
    detector = Detector(model, DENSITY)
    (pictures / "bad.jpg").write_bytes(b"not an image")
    rows = score_files(detector, pictures, progress=False)
    assert [row.name for row in rows] == ["a.png", "b.png", "bad.jpg", "grey.png", "inner/c.png", "notes.txt"]
    assert rows[2].score is None and "bad.jpg is no image" in str(rows[2].problem)
    images = open_images(pictures / "inner")
    alone = score_set(detector, images, 1, title="t", progress=False)["likelihood"][0]
    assert rows[4].score == pytest.approx(alone, rel=1e-5)  # a batch of one, where it was one of four
    values = sorted(row.score for row in rows if row.score is not None)
    write_file_scores(tmp_path / "new" / "scores.csv", rows, values[2])
    lines = [line.split(",") for line in (tmp_path / "new" / "scores.csv").read_text().splitlines()]
    assert lines[0] == ["file", "score", "verdict"] and lines[3] == ["bad.jpg", "", "damaged"]
    verdicts = {line[0]: line[2] for line in lines[1:]}
    assert sorted(verdicts.values()) == ["damaged", "in", "in", "in", "left out", "out"]  # the threshold itself is in
    assert verdicts[max((row for row in rows if row.score is not None), key=lambda row: row.score or 0).name] == "out"


def test_files_that_are_no_readable_images_have_a_row_and_a_line(
    model: ConvVAE, pictures: Path, tmp_path: Path
) -> None:
    write_files(
        pictures, {"photo": (pictures / "a.png").read_bytes(), "p.heic": HEIC, "notes.txt": b"x", "LICENSE": b""}
    )
    (pictures / "gone.png").symlink_to(pictures / "missing")
    said: list[str] = []
    rows = score_files(Detector(model, DENSITY), pictures, progress=False, notice=said.append)
    assert [row.name for row in rows if row.score is not None] == ["a.png", "b.png", "grey.png", "inner/c.png", "photo"]
    assert {row.name: str(row.problem).removeprefix(f"{pictures}/") for row in rows if row.score is None} == {
        "gone.png": "gone.png leads to no file",
        "notes.txt": "notes.txt is no image",
        "p.heic": "p.heic is an image of a kind that Pillow cannot read here",
    }
    assert said == [
        f"{pictures}: left out: 1 .heic (images that Pillow cannot read here), 1 .txt, 1 that cannot be reached "
        "(such as gone.png)"
    ]
    write_file_scores(tmp_path / "scores.csv", rows, None)
    assert "p.heic,,left out" in (tmp_path / "scores.csv").read_text().splitlines()


def test_without_a_threshold_there_is_no_verdict_and_names_are_kept(tmp_path: Path) -> None:
    rows = [FileScore('a "b", c.png', 1.5), FileScore("bad\udcff.png", math.inf)]
    write_file_scores(tmp_path / "scores.csv", rows, None)
    assert (tmp_path / "scores.csv").read_bytes() == (b'file,score,verdict\n"a ""b"", c.png",1.5,\nbad\xff.png,inf,\n')


def test_a_path_without_readable_image_files_is_an_error(model: ConvVAE, pictures: Path, tmp_path: Path) -> None:
    detector = Detector(model, DENSITY)
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.png").touch()
    (tmp_path / "file.txt").touch()
    for path, message in (
        (tmp_path / "none", "there is no such folder"),
        (tmp_path / "empty", "holds no image files that can be read"),
        (tmp_path / "bad", r"none of its 1 image files can be read; .*a\.png is empty"),
        (tmp_path / "file.txt", "neither a folder nor a zip or tar"),
        (pictures / "a.png", "is a single image"),
    ):
        with pytest.raises(DataError, match=message):
            score_files(detector, path, progress=False)
