"""sivae translate, end to end: the grid, the single files and their names, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import sivae
from sivae.cli.translate import file_names
from sivae.data.images import PackedImages
from sivae.data.images.builtin.shapes import open_shapes
from sivae.evaluation.translation import example_rows
from sivae.figures.grids import to_rgb
from sivae.models import ConvVAE
from sivae.models.pixels import from_uint8
from sivae.models.storage import save_model
from sivae.models.translation import TranslationVAE
from sivae.settings.presets import preset_config
from tests.cli.running import run

_CELL = 98  # with the padding beside it


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on shapes, a model of colour, one of another kind, four image files and two data sets."""
    folder = tmp_path_factory.mktemp("translate")
    torch.manual_seed(0)
    (folder / "run" / "checkpoints").mkdir(parents=True)
    save_model(folder / "run" / "checkpoints" / "5", _model(channels=3, image_size=8))
    (folder / "run" / "config.json").write_text(preset_config("translation-shapes", resolution=8).to_json())
    save_model(folder / "colour", _model(channels=3, image_size=16))
    save_model(folder / "conv", ConvVAE(image_size=8, channels=1, widths=(8,), z_dim=4))
    rng = np.random.default_rng(0)
    for name in ("a", "b", "c", "d"):
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(folder / f"{name}.png")
    np.save(folder / "plain.npy", rng.integers(0, 256, (5, 16, 16, 3), dtype=np.uint8))
    (folder / "empty").mkdir()
    return folder


def _model(**shape: int) -> TranslationVAE:
    """One whose images differ, though it is not trained."""
    model = TranslationVAE(**shape, content_dim=4, class_dim=4, width=4, hidden=8)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
    return model


def _pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def _cells(path: Path, rows: int, columns: int, side: int) -> np.ndarray:
    """The images of a grid, [rows, columns, side, side, 3], from the lower right corner on."""
    drawn, factor = _pixels(path), 96 // side
    return np.stack(
        [
            np.stack(
                [
                    drawn[top : top + 96 : factor, left : left + 96 : factor]
                    for left in range(drawn.shape[1] - columns * _CELL, drawn.shape[1], _CELL)
                ]
            )
            for top in range(drawn.shape[0] - rows * _CELL, drawn.shape[0], _CELL)
        ]
    )


def _check_grid(path: Path, model: Path, contents: np.ndarray, classes: np.ndarray) -> None:
    """The picture is that of these images, uint8 [N, H, W, C] both."""
    loaded = sivae.from_pretrained(model)
    assert isinstance(loaded, TranslationVAE)
    given = [from_uint8(torch.from_numpy(images)) for images in (contents, classes)]
    cells = _cells(path, len(contents) + 1, len(classes) + 1, loaded.sample_shape[1])
    assert (cells[0, 0] == 255).all()
    assert (cells[1:, 0] == to_rgb(given[0])).all() and (cells[0, 1:] == to_rgb(given[1])).all()
    for row, content in enumerate(given[0]):
        made = loaded.translate(content.expand(len(classes), -1, -1, -1), given[1])
        # Decoded in a batch of another size, a value may round to the other of two levels.
        assert np.abs(cells[row + 1, 1:].astype(int) - to_rgb(made)).max() <= 1


def test_files_make_a_grid_and_single_files(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, each = tmp_path / "new" / "grid.png", tmp_path / "each"
    files = [folder / f"{name}.png" for name in "abc"]
    words = ("--content", *files[:2], "--class", *files, "--out", out, "--separate", each)
    assert run(capsys, "translate", folder / "colour", *words) == (0, f"{out}\n{each} (6 files)\n", "")
    pixels = np.stack([_pixels(file) for file in files])
    _check_grid(out, folder / "colour", pixels[:2], pixels)
    assert {path.name for path in each.iterdir()} == {f"{one}-as-{other}.png" for one in "ab" for other in "abc"}
    assert (_pixels(each / "b-as-c.png") == _cells(out, 2, 3, 16)[1, 2]).all()


def test_a_run_is_shown_on_its_own_test_images(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = folder / "run" / "translation-seed3.png"
    assert run(capsys, "translate", folder / "run", "--count", 4, "--seed", 3) == (0, f"{out}\n", "")
    test = open_shapes("test", resolution=8)
    rows = example_rows(len(test), test.labels, test.contents, 4, 3)
    _check_grid(out, folder / "run", *(test.array[of] for of in rows))
    first = out.read_bytes()
    run(capsys, "translate", folder / "run", "--count", 4, "--seed", 3)
    assert out.read_bytes() == first
    assert run(capsys, "translate", folder / "run", "--split", "train")[0] == 0


def test_a_data_set_gives_images_and_names(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, each = tmp_path / "grid.png", tmp_path / "each"
    words = ("--data", "shapes", "--count", 3, "--out", out, "--separate", each)
    assert run(capsys, "translate", folder / "colour", *words)[0] == 0
    shapes = open_shapes("test", resolution=16)
    assert shapes.contents is not None and shapes.labels is not None
    contents, classes = example_rows(len(shapes), shapes.labels, shapes.contents, 3, 0)
    _check_grid(out, folder / "colour", shapes.array[contents], shapes.array[classes])
    assert shapes.class_names is not None
    endings = {f"-as-{shapes.class_names[label].replace(' ', '-')}.png" for label in shapes.labels[classes]}
    assert {f"-as-{path.name.split('-as-')[1]}" for path in each.iterdir()} == endings and len(endings) == 3
    assert all(path.name.startswith("row-") for path in each.iterdir())

    words = ("--data", folder / "plain.npy", "--count", 9, "--out", out, "--separate", each)
    assert run(capsys, "translate", folder / "colour", *words)[1] == f"{out}\n{each} (25 files)\n"
    assert (each / "image-0-as-image-4.png").exists()


@pytest.mark.parametrize(
    ("contents", "classes", "names"),
    [
        (["a", "b"], ["c"], ["a-as-c", "b-as-c"]),
        (["a", "a", "A"], ["c"], ["a-as-c", "a-as-c-2", "A-as-c-3"]),
        (["a", "a-as-b"], ["b-as-c", "c"], ["a-as-b-as-c", "a-as-c", "a-as-b-as-b-as-c", "a-as-b-as-c-2"]),
        (["../../etc/passwd"], ["C:\\x"], ["etc-passwd-as-C-x"]),
        (["..", ""], ["\0\n"], ["image-as-image", "image-as-image-2"]),
        (["row 1, turned 90°"], ["тест\udcff"], ["row-1-turned-90-as-тест"]),
    ],
)
def test_names_are_safe_and_each_there_once(contents: list[str], classes: list[str], names: list[str]) -> None:
    assert file_names(contents, classes) == [f"{name}.png" for name in names]


def test_a_long_name_still_makes_a_file(tmp_path: Path) -> None:
    (name,) = file_names(["ß" * 400], ["本" * 400])
    PackedImages(np.zeros((1, 2, 2, 3), np.uint8)).picture(0).save(tmp_path / name)
    assert len(name.encode()) < 230  # a temporary name beside it is a little longer


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("translate", "name a run's folder, one of its checkpoints, or an imported model's folder"),
        (
            "translate conv --content a.png --class b.png",
            "sivae translate is for a translation model; this one is 'conv', which does not separate class and "
            "content; train one by sivae train translation-shapes",
        ),
        ("translate colour --content a.png", "--content goes with --class IMAGE ...; name image files by both"),
        ("translate colour --class a.png", "--class goes with --content IMAGE ..."),
        ("translate colour --content a.png --class b.png --data x", "--data is for images of a data set"),
        ("translate colour --content a.png --class b.png --seed 0", "--seed is for images of a data set"),
        ("translate colour --count 0", "--count: 0 is too small; expected at least 1"),
        ("translate colour --count 99", "99 by 99 images are too many for a picture; at most 1,024 go into one"),
        ("translate colour --seed -1", "--seed: -1 is not a seed; expected 0 to 2^63 - 1"),
        ("translate colour --out grid.jpg", "--out: 'grid.jpg' does not end in .png"),
        ("translate colour --contents a.png", "unknown: --contents a.png; did you mean --content?"),
        ("translate colour", "is a model without a run; name images by --content and --class, or by --data PATH"),
        ("translate colour --content nothing.png --class a.png", "nothing.png: No such file or directory"),
        ("translate colour --content plain.npy --class a.png", "plain.npy is no image that can be read"),
        ("translate colour --data nowhere", "nowhere: there is no such file or folder"),
        ("translate colour --data plain.npy --split test", "has no test images"),
        ("translate colour --data empty", "empty"),
        ("translate nowhere", "nowhere"),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(
    words: str, message: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    before = sorted(folder.rglob("*"))
    code, out, err = run(capsys, *words.split())
    assert code in (1, 2) and out == ""
    assert err.startswith("sivae: ") and err.count("\n") == 1 and "Traceback" not in err
    assert message in err
    assert sorted(folder.rglob("*")) == before
