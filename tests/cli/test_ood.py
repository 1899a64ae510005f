"""sivae ood, end to end: what it writes and prints, and that a mistake is reported in one line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sivae.method.kl_average import ErrorAverage
from sivae.models import MLPVAE, ConvVAE
from sivae.models.storage import save_model
from sivae.settings.presets import preset_config
from sivae.training.checkpoint import save_checkpoint
from tests.cli.running import run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's checkpoint, models of three kinds, two data sets, and a folder of files."""
    folder = tmp_path_factory.mktemp("ood")
    torch.manual_seed(0)
    grey = ConvVAE(image_size=8, channels=1, widths=(8,), z_dim=4, norm="group")
    (folder / "run" / "checkpoints").mkdir(parents=True)
    save_model(folder / "run" / "checkpoints" / "5", grey)
    (folder / "run" / "config.json").write_text(preset_config("digits", beta_rec=2.0, beta_kl=0.5).to_json())
    save_model(folder / "model", ConvVAE(image_size=8, channels=3, widths=(8,), z_dim=4))
    save_model(folder / "classes", ConvVAE(image_size=8, channels=1, widths=(8,), z_dim=4, condition_dim=3))
    save_model(folder / "points", MLPVAE(hidden=4, layers=1))
    rng = np.random.default_rng(0)
    np.save(folder / "noise.npy", rng.integers(0, 256, (30, 8, 8), dtype=np.uint8))
    np.save(folder / "rgb.npy", rng.integers(0, 256, (12, 10, 10, 3), dtype=np.uint8))
    (folder / "files").mkdir()
    for name in ("a", "b"):
        Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8)).save(folder / "files" / f"{name}.png")
    (folder / "empty").mkdir()
    return folder


def test_two_sets_make_a_table_a_figure_and_rows(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, printed, err = run(capsys, "ood", folder / "run", "--against", folder / "rgb.npy", "--count", 20, "--k", 2)
    assert (code, err) == (0, "")
    place = folder / "run" / "ood"
    assert sorted(file.name for file in place.iterdir()) == ["ood.csv", "ood.json", "ood.png"]
    content = json.loads((place / "ood.json").read_text())
    assert content["density"]["sigma"] == pytest.approx((0.5 / (2 * 2.0)) ** 0.5)  # the run's betas
    assert (content["in"], content["samples"]) == ({"data": "digits", "images": 20}, 2)
    assert content["out"] == {"data": "rgb.npy", "images": 12}  # colour, and grey is what the model takes
    assert "in digits (20 images), out rgb.npy (12 images)" in printed and str(place / "ood.png") in printed
    for score, found in content["metrics"].items():
        assert score in printed
        assert list(found) == ["auroc", "aupr", "fpr95"]
        assert f"{found['auroc']['value']:.3f} (" in printed
    assert len((place / "ood.csv").read_text().splitlines()) == 33


def test_grey_images_suit_a_model_of_colour_and_assumptions_are_printed(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--in", folder / "rgb.npy", "--against", folder / "noise.npy", "--by", "kl", "--out", tmp_path / "x")
    code, _, err = run(capsys, "ood", folder / "model", *words)
    assert code == 0
    assert err.count("\n") == 1 and "assuming beta_rec = 1 and beta_kl = 1" in err
    assert list(json.loads((tmp_path / "x" / "ood.json").read_text())["metrics"]) == ["kl"]
    code, _, err = run(capsys, "ood", folder / "model", *words, "--sigma", 0.1)
    assert (code, err) == (0, "")


def test_a_deviation_that_the_run_learned_is_that_of_its_checkpoint(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    average = ErrorAverage()
    average.observe(torch.tensor(0.3**2))
    (tmp_path / "config.json").write_text(preset_config("digits", kind="gaussian").to_json())
    model = ConvVAE(image_size=8, channels=1, widths=(8,), z_dim=4, norm="group")
    path = save_checkpoint(tmp_path / "checkpoints", 5, model, {"error_average": average.state()})
    words = ("--against", folder / "rgb.npy", "--count", 5, "--k", 1)
    code, _, err = run(capsys, "ood", tmp_path, *words, "--beta-rec", 1, "--beta-kl", 1)
    assert code == 0 and "learned the deviation 0.3; with beta_rec = 1 and beta_kl = 1 that of p(x|z) is 0.3" in err
    content = json.loads((tmp_path / "ood" / "ood.json").read_text())
    assert content["density"]["sigma"] == pytest.approx(0.3)
    (path / "state.pt").unlink()  # the model can still be read
    assert run(capsys, "ood", tmp_path, *words, "--by", "kl")[0] == 0
    code, _, err = run(capsys, "ood", path, *words)
    assert code == 2 and "give the deviation by --sigma" in err


def test_a_threshold_is_calibrated_and_used(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, table = tmp_path / "threshold.json", tmp_path / "scores.csv"
    source = folder / "run" / "checkpoints" / "5"
    code, printed, _ = run(capsys, "ood", source, "--calibrate", path, "--quantile", 0.9, "--count", 50, "--k", 2)
    assert code == 0
    stored = json.loads(path.read_text())
    assert (stored["quantile"], stored["images"], stored["samples"]) == (0.9, 50, 2)
    assert f"{path}: likelihood {stored['threshold']:.6g}, the quantile 0.9 of 50 images" in printed
    words = ("--score", folder / "files", "--threshold", path, "--csv", table)
    code, printed, err = run(capsys, "ood", folder / "run", *words)
    assert (code, err) == (0, "")
    rows = [line.split(",") for line in table.read_text().splitlines()[1:]]
    out = [name for name, score, verdict in rows if verdict == "out"]
    assert out == [name for name, score, _ in rows if float(score) > stored["threshold"]]
    assert f"2 images scored by likelihood, out of distribution {len(out)}" in printed and str(table) in printed
    code, _, err = run(capsys, "ood", folder / "model", *words)
    assert code == 2 and "was calibrated for another model" in err


def test_a_figure_never_goes_into_a_set_of_images(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(folder.rglob("*"))
    for place in ("files", "files/ood"):
        words = ("ood", folder / "run", "--against", folder / "files", "--out", folder / place)
        code, _, err = run(capsys, *words)
        assert code == 2 and "and the figure would become one of them; choose another folder" in err
    assert sorted(folder.rglob("*")) == before


def test_the_crop_decides_what_is_scored_and_stays_with_the_threshold(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tables = {}
    for crop in ("center", "0,0,9,9", "0,3,9,9"):
        table = tmp_path / "scores.csv"
        run(capsys, "ood", folder / "run", "--score", folder / "files", "--crop", crop, "--csv", table)
        tables[crop] = table.read_text()
    assert len(set(tables.values())) == 3
    path = tmp_path / "threshold.json"
    run(capsys, "ood", folder / "run", "--calibrate", path, "--crop", "0,0,8,8", "--count", 20)
    assert json.loads(path.read_text())["crop"] == "0,0,8,8"
    run(capsys, "ood", folder / "run", "--score", folder / "files", "--threshold", path, "--csv", table)
    by_threshold = [row.split(",")[1] for row in table.read_text().splitlines()]
    run(capsys, "ood", folder / "run", "--score", folder / "files", "--crop", "0,0,8,8", "--csv", table)
    assert [row.split(",")[1] for row in table.read_text().splitlines()] == by_threshold


def test_scores_go_beside_the_model_and_damaged_files_are_printed(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "good.png").write_bytes((folder / "files" / "a.png").read_bytes())
    (tmp_path / "bad.png").write_bytes(b"no image")
    code, printed, err = run(capsys, "ood", folder / "run", "--score", tmp_path, "--by", "elbo")
    assert code == 0 and "1 image scored by elbo" in printed
    assert "bad.png is no image that can be read" in err and err.count("\n") == 1
    assert (folder / "run" / "ood-scores.csv").read_text().splitlines()[1] == "bad.png,,damaged"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("ood --against noise.npy", "name a run's folder, one of its checkpoints, or an imported model's folder"),
        ("ood run", "name what to do: --against PATH compares with images of another kind"),
        ("ood points --against noise.npy", "this model makes points, not images"),
        (
            "ood classes --in noise.npy --against rgb.npy",
            "this model is conditional on 3 classes, and an image out of distribution belongs to none",
        ),
        ("ood model --against noise.npy", "is a model without a run; name images like its own by --in PATH"),
        ("ood run --score kl", "--score names a folder of images; the kind of score is --by kl"),
        ("ood run --score files --against noise.npy", "--against is for two sets of images, and --score for a folder"),
        ("ood run --score files --calibrate a.json", "--calibrate is for two sets of images"),
        ("ood run --score files --threshold a.json --k 3", "--k is given by the file of --threshold"),
        ("ood run --against noise.npy --threshold a.json", "--threshold goes with --score FOLDER"),
        ("ood run --against noise.npy --quantile 0.9", "--quantile goes with --calibrate FILE.json"),
        ("ood run --out noise.npy", "--out noise.npy is where to write; name the images of another kind by --against"),
        ("ood run --calibrate a.json --out-split test", "--against-split goes with --against PATH"),
        ("ood run --score files --threshold a.json --crop center", "--crop is given by the file of --threshold"),
        ("ood run --calibrate a.txt", "'a.txt' does not end in .json"),
        ("ood run --calibrate new/a.json --quantile 2", "--quantile 2: expected more than 0 and at most 1"),
        ("ood run --against noise.npy --k 0", "--k: 0 is too small; expected at least 1"),
        ("ood run --against noise.npy --count 0", "--count: 0 is too small; expected at least 1"),
        ("ood run --against noise.npy --by fid", "--by: invalid choice: 'fid'"),
        ("ood run --against noise.npy --sigma 0", "sigma is 0.0, expected a finite number above 0"),
        ("ood run --against noise.npy --sigma 1 --beta-kl 1", "sigma replaces beta_rec and beta_kl"),
        ("ood run --in_ noise.npy", "did you mean --in?"),
    ],
)
def test_a_mistake_is_one_line(
    words: str, message: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    before = sorted(folder.rglob("*"))
    code, out, err = run(capsys, *words.split())
    assert (code, out) == (2, "")
    assert message in err
    assert "Traceback" not in err
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("ood run --against nowhere", "nowhere: there is no such file or folder"),
        ("ood run --against empty", "empty holds no files"),
        ("ood run --score empty", "empty holds no image files"),
        ("ood run --score files --threshold none.json", "none.json: there is no such file"),
        ("ood run --in noise.npy --in-split test --against rgb.npy", "has no test images"),
    ],
)
def test_data_that_cannot_be_used_is_one_line(
    words: str, message: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    code, out, err = run(capsys, *words.split())
    assert (code, out) == (1, "")
    assert message in err and err.count("\n") == 1 and "Traceback" not in err
