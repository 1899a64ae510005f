"""`sivae prepare`, end to end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sivae.data.images import open_images
from tests.cli.running import run
from tests.data.images.samples import pngs, write_files


@pytest.fixture
def source(tmp_path: Path) -> Path:
    names = ["train/a/1.png", "train/b/2.png", "train/b/3.png", "test/a/4.png"]
    return write_files(tmp_path / "photos", pngs(names, height=12, width=10))


def test_it_packs_and_says_what(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = (str(source), str(tmp_path / "out"), "--resolution", "8", "--crop", "center")
    code, out, err = run(capsys, "prepare", *words)
    assert code == 0, err
    assert out == f"{tmp_path / 'out'}: 3 images of 8×8×3, 2 classes\n  lower resolutions beside them: 4\n"
    assert err.splitlines() == [
        f"sivae: {source}: reading its train images, not the test images",
        f"sivae: {source}: labels: the folders of the images, 2 classes",
        "sivae: photos: images of 10×10 are resized to 8×8",
        f"sivae: next: sivae train PRESET --data {tmp_path / 'out'}; sivae presets lists them",
    ]
    assert open_images(tmp_path / "out").read(0).shape == (8, 8, 3)
    code, again, err = run(capsys, "prepare", *words)
    assert (code, again) == (0, out)
    assert "out is finished; nothing is left to prepare\n" in err


def test_its_options_reach_the_images(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (source / "test" / "a" / "5.png").write_bytes(b"broken")
    options = "--resolution 4 --crop 1,2,6,6 --channels 1 --split test --workers 1 --skip-damaged --quiet"
    code, out, err = run(capsys, "prepare", str(source), str(tmp_path / "out"), *options.split())
    assert code == 0, err
    assert "1 image of 4×4×1, 2 classes, 1 damaged skipped" in out
    assert "skipped: " in out and "5.png is no image" in out
    facts = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert (facts["part"], facts["made_from"]["crop"]) == ("test", [1, 2, 6, 6])


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ("", 2, "name the images and the folder to create: sivae prepare SRC DEST"),
        ("photos", 2, "name the images and the folder to create"),
        ("photos out", 2, "give the height and width of the packed images: --resolution 256"),
        ("photos out --resolution x", 2, "'x' is not a whole number"),
        ("photos out --resolution 0", 1, "resolution = 0: expected 1 to 16384 pixels"),
        ("photos out --resolution 8", 1, "is 10×12 (width × height), not square; cut squares out with --crop center"),
        (
            "photos out --resolution 8 --crop middle",
            2,
            "crop = 'middle': expected center (the largest square in the middle), or TOP,LEFT,HEIGHT",
        ),
        ("photos out --resolution 8 --split dev", 2, "--split: invalid choice: 'dev'"),
        ("photos out --resolution 8 --crop center --workers 0", 1, "workers = 0: expected 1 or more"),
        ("missing out --resolution 8", 1, "missing: there is no such file or folder"),
        ("photos out --resolutoin 8", 2, "unknown: --resolutoin 8; did you mean --resolution?"),
    ],
)
def test_a_mistake_is_one_line(
    source: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: str,
    code: int,
    message: str,
) -> None:
    monkeypatch.chdir(source.parent)
    came, out, err = run(capsys, "prepare", *words.split())
    assert (came, out) == (code, "")
    lines = [line for line in err.splitlines() if "reading its train images" not in line and "labels: " not in line]
    assert len(lines) == 1 and lines[0].startswith("sivae: ") and message in lines[0]
    assert not Path("out").exists()
