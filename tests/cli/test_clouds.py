"""The verbs of models of point clouds, end to end: files that come out, what is printed, and errors."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sivae.data.clouds import open_clouds, write_ply
from sivae.detection.clouds import CloudDetector
from sivae.models import PointVAE
from sivae.models.storage import save_model
from sivae.settings.presets import preset_config
from sivae.training.run import train
from tests.cli.running import run

POINTS = 30


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An imported model."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models") / "clouds"
    save_model(folder, PointVAE(POINTS, 3, (6, 8), 7, (8,)))
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    generator = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("data")
    np.savez(folder / "clouds.npz", test=generator.normal(size=(6, 40, 3)).astype(np.float32))
    for name in "ab":
        write_ply(folder / f"{name}.ply", torch.from_numpy(generator.normal(size=(40, 3))))
    return folder


def test_samples_are_a_picture_beside_the_model(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, printed, _ = run(capsys, "sample", model, "--count", 3, "--seed", 5)
    assert (code, printed) == (0, f"{model.parent / 'clouds-samples-seed5.png'}\n")
    with Image.open(printed.strip()) as picture:
        assert picture.format == "PNG"


def test_samples_are_files_that_the_readers_read(
    model: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, printed, _ = run(
        capsys, "sample", model, "--count", 11, "--each", tmp_path / "each", "--npz", tmp_path / "all.npz"
    )
    assert code == 0 and f"{tmp_path / 'each'} (11 files)" in printed
    names = sorted(path.name for path in (tmp_path / "each").iterdir())
    assert names == [f"{index:02d}.ply" for index in range(11)]
    stored = np.load(tmp_path / "all.npz")["clouds"]
    assert stored.shape == (11, POINTS, 3) and stored.dtype == np.float32
    again = open_clouds(tmp_path / "each" / "04.ply", part="test", points=POINTS, normalize="none").cloud(0)
    assert np.array_equal(again.numpy(), stored[4])


def test_a_sample_depends_on_the_seed_and_its_position(
    model: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for name, words in (("few", ("--count", 2)), ("many", ("--count", 5)), ("other", ("--count", 2, "--seed", 1))):
        run(capsys, "sample", model, "--npz", tmp_path / f"{name}.npz", *words)
    few, many, other = (np.load(tmp_path / f"{name}.npz")["clouds"] for name in ("few", "many", "other"))
    assert np.allclose(few, many[:2], atol=1e-6)  # products of batches of other sizes round otherwise
    assert not np.allclose(few, other, atol=1e-2)


def test_reconstructions_of_files_and_of_sets(
    model: Path, data: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, printed, _ = run(
        capsys,
        "reconstruct",
        model,
        data / "a.ply",
        data / "b.ply",
        "--out",
        tmp_path / "r.png",
        "--each",
        tmp_path / "e",
    )
    assert code == 0 and "2 clouds of 30 points" in printed and "chamfer" in printed
    assert sorted(path.name for path in (tmp_path / "e").iterdir()) == ["0.ply", "1.ply"]
    code, printed, _ = run(capsys, "reconstruct", model, "--data", data / "clouds.npz", "--count", 4)
    assert code == 0 and "4 clouds of 30 points" in printed
    assert (model.parent / "clouds-reconstructions.png").is_file()


def test_of_a_file_of_several_clouds_the_first_is_taken(
    model: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    several = np.random.default_rng(0).normal(size=(20, POINTS, 3)).astype(np.float32)
    np.save(tmp_path / "one.npy", several[0])
    np.save(tmp_path / "several.npy", several)
    # The first of a class of its own is in the test part, after the others in the order of classes.
    np.savez(tmp_path / "classes.npz", clouds=several, labels=[9] + 19 * [0])
    written = []
    for name in ("one.npy", "several.npy", "classes.npz"):
        each = tmp_path / f"of-{name}"
        code, printed, _ = run(capsys, "reconstruct", model, tmp_path / name, "--each", each)
        assert code == 0 and f"1 cloud of {POINTS} points" in printed
        written.append((each / "0.ply").read_bytes())
    assert written[0] == written[1] == written[2]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on one of the two classes of own.npz, beside that file and other.npz, which has no classes."""
    folder = tmp_path_factory.mktemp("trained")
    x, labels = np.random.default_rng(0).normal(size=(2, 20, 40, 3)).astype(np.float32), np.arange(20) % 2
    np.savez(folder / "own.npz", x_train=x[0], x_test=x[1], y_train=labels, y_test=labels)
    np.savez(folder / "other.npz", x_test=x[1])
    config = preset_config(
        "points-shapes",
        path=str(folder / "own.npz"),
        classes=("1",),
        points=POINTS,
        steps=1,
        batch_size=4,
        widths=(6, 8),
        hidden=7,
        decoder_widths=(8,),
        z_dim=3,
        threads=1,
        device="cpu",
    )
    train(config, folder / "run", progress=False)
    return folder / "run"


def test_the_classes_of_a_run_are_taken_of_its_own_data_alone(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, count in (("own.npz", 10), ("other.npz", 20)):
        data = trained.parent / name
        code, printed, _ = run(capsys, "reconstruct", trained, "--data", data, "--count", 100)
        assert code == 0 and f"{count} clouds of {POINTS} points" in printed


def test_interpolations_are_a_picture_an_animation_and_files(
    model: Path, data: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = ("--steps", 3, "--gif", tmp_path / "path.gif", "--frames", 4, "--each", tmp_path / "each")
    code, printed, _ = run(capsys, "interpolate", model, "--seeds", 1, 2, *words)
    assert code == 0
    assert printed.splitlines() == [
        str(model.parent / "clouds-interpolation-seeds1-2.png"),
        str(tmp_path / "path.gif"),
        f"{tmp_path / 'each'} (3 files)",
    ]
    with Image.open(tmp_path / "path.gif") as animation:
        assert animation.n_frames > 1  # type: ignore[attr-defined]
    code, _, _ = run(capsys, "interpolate", model, data / "a.ply", data / "b.ply", "--out", tmp_path / "i.png")
    assert code == 0 and (tmp_path / "i.png").is_file()


def test_an_imported_model_is_measured_on_clouds(model: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, printed, _ = run(capsys, "evaluate", model, "--data", data / "clouds.npz", "--json")
    assert code == 0
    found = json.loads(printed)
    assert list(found) == ["seed", "measured_on", "chamfer", "kl", "voxel_jsd", "mmd", "coverage", "one_nn"]
    assert found["measured_on"] == "6 test clouds of clouds.npz"
    code, printed, _ = run(capsys, "evaluate", model, "--data", data / "clouds.npz")
    assert code == 0 and "Chamfer distance to the reconstruction" in printed


def test_two_sets_of_clouds_are_compared(
    model: Path, data: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    far = np.random.default_rng(1).normal(size=(8, 40, 3)) * (1.0, 0.02, 0.02)  # needles
    np.savez(tmp_path / "far.npz", test=far)
    code, printed, _ = run(
        *(capsys, "ood", model, "--in", data / "clouds.npz", "--against", tmp_path / "far.npz"),
        *("--out", tmp_path / "ood", "--beta-rec", 1, "--beta-kl", 0.2, "--k", 3),
    )
    assert code == 0 and "AUROC" in printed
    content = json.loads((tmp_path / "ood" / "ood.json").read_text())
    assert content["density"]["kind"] == "chamfer" and content["in"] == {"data": "clouds.npz", "clouds": 6}
    assert set(content["metrics"]) == {"kl", "elbo", "likelihood"}
    assert {path.name for path in (tmp_path / "ood").iterdir()} == {"ood.json", "ood.csv", "ood.png"}
    code, printed, _ = run(
        capsys, "ood", model, "--in", data / "clouds.npz", "--against", tmp_path / "far.npz", "--by", "kl"
    )
    assert code == 0 and (model.parent / "clouds-ood" / "ood.json").is_file()


def test_a_folder_that_cannot_be_made_is_an_error_before_the_scoring(
    model: Path, data: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(CloudDetector, "of_clouds")
    taken = tmp_path / "taken"
    taken.touch()
    clouds = data / "clouds.npz"
    code, _, err = run(
        *(capsys, "ood", model, "--in", clouds, "--against", clouds, "--out", taken),
        *("--beta-rec", 1, "--beta-kl", 1),
    )
    assert code == 1 and str(taken) in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("sample MODEL --class 1", "--class is for models of images; leave it out"),
        ("sample MODEL --truncation 0.5", "--truncation is for models of images; leave it out"),
        ("reconstruct MODEL --data DATA/clouds.npz --every-lod", "--every-lod is for models of images; leave it out"),
        ("reconstruct MODEL DATA", "is a folder; name files in it, or give the folder by --data"),
        ("reconstruct MODEL DATA/none.ply", "none.ply does not exist"),
        ("interpolate MODEL DATA/a.ply DATA/b.ply --crop center", "--crop is for models of images; leave it out"),
        ("ood MODEL --score DATA", "--score is for models of images; compare two sets of clouds by --against PATH"),
        ("ood MODEL --against DATA/clouds.npz", "is a model without a run; name clouds like its own by --in PATH"),
        ("evaluate MODEL", "is a model without a run; name the clouds to measure it on by --data PATH"),
        ("evaluate MODEL --data DATA/clouds.npz --fid-weights x", "FID, KID and LPIPS compare images"),
        ("evaluate MODEL --data DATA/clouds.npz --crop center", "--crop is for models of images; leave it out"),
        ("evaluate MODEL --data DATA/clouds.npz --skip-damaged", "--skip-damaged is for models of images"),
        ("evaluate RUN --crop center", "--crop is for models of images; leave it out"),
        ("evaluate RUN --skip-damaged", "--skip-damaged is for models of images; leave it out"),
        ("mix MODEL", "this model makes point clouds, and this verb is for images"),
    ],
)
def test_what_does_not_fit_is_an_error(
    words: str, message: str, model: Path, trained: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"MODEL": model, "RUN": trained, "DATA": data}
    for name, place in places.items():
        words = words.replace(name, str(place))
    code, printed, err = run(capsys, *words.split())
    assert code in (1, 2) and printed == "" and message in err  # 1 where the data is at fault
