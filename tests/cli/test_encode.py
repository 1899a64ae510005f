"""encode, end to end: the latents that it writes for every kind of model, what it prints, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import sivae
from sivae.models import MLPVAE, AutoencoderVAE, ConvVAE, PointVAE
from sivae.models.pixels import from_uint8
from sivae.models.storage import save_model
from tests.cli.running import run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models, a set of 20 grey images in three classes, and a folder of images."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    AutoencoderVAE(8, 1, (4, 8), 2, layers=1, groups=2).save_pretrained(folder / "vae")
    save_model(folder / "conv", ConvVAE(8, 1, (4,), 3, norm="group"))
    save_model(folder / "classes", ConvVAE(8, 1, (4,), 3, norm="group", condition_dim=3))
    save_model(folder / "points", MLPVAE(hidden=4, layers=1))
    save_model(folder / "clouds", PointVAE(16, 3, (8,), 8, (8,)))
    rng = np.random.default_rng(0)
    np.savez(folder / "set.npz", images=rng.integers(0, 256, (20, 8, 8), dtype=np.uint8), labels=np.arange(20) % 3)
    (folder / "files" / "cats").mkdir(parents=True)
    for name in ("b", "a"):
        pixels = rng.integers(0, 256, (8, 12), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "files" / "cats" / f"{name}.png")
    return folder


def about(out: Path) -> dict[str, object]:
    content: dict[str, object] = json.loads((out / "latents.json").read_text())
    return content


def test_latents_are_those_of_the_images_in_their_order(folder, tmp_path, capsys):
    code, printed, err = run(capsys, "encode", folder / "vae", folder / "set.npz", "--out", tmp_path / "out")
    assert code == 0, err
    mu, logvar = (np.load(tmp_path / "out" / f"{name}.npy", mmap_mode="r") for name in ("mu", "logvar"))
    assert mu.shape == logvar.shape == (20, 2, 4, 4) and mu.dtype == np.float32
    with np.load(folder / "set.npz") as file:
        images, labels = file["images"], file["labels"]
    model = sivae.from_pretrained(folder / "vae")
    with torch.no_grad():
        expected = model.encode(from_uint8(torch.from_numpy(images)[..., None], (-1.0, 1.0)))
    assert torch.equal(torch.from_numpy(np.array(mu)), expected[0])
    assert torch.equal(torch.from_numpy(np.array(logvar)), expected[1])
    assert np.array_equal(np.load(tmp_path / "out" / "labels.npy"), labels)
    names = json.loads((tmp_path / "out" / "names.json").read_text())
    assert len(names) == 20 and names[3].startswith("image 3 of ")
    content = about(tmp_path / "out")
    assert content["count"] == 20 and content["latent_shape"] == [2, 4, 4] and content["classes"] == ["0", "1", "2"]
    draws = expected[0] + (0.5 * expected[1]).exp() * torch.randn(1000, *mu.shape)
    assert content["std"] == pytest.approx(float(draws.std()), rel=0.01)  # of 640,000 draws: 0.1 %
    assert printed.splitlines()[0].startswith("latents of 20 images: 2 x 4 x 4 values each, of standard deviation")
    assert printed.splitlines()[-1] == str(tmp_path / "out")


def test_image_files_have_their_names_and_are_cropped(folder, tmp_path, capsys):
    words = ("encode", folder / "conv", folder / "files", "--out", tmp_path / "out", "--crop", "center")
    assert run(capsys, *words)[0] == 0
    names = json.loads((tmp_path / "out" / "names.json").read_text())
    assert [Path(name).name for name in names] == ["a.png", "b.png"]
    assert np.load(tmp_path / "out" / "mu.npy").shape == (2, 3)
    assert about(tmp_path / "out")["crop"] == "center"
    # a folder of latents alone is replaced, one with other files is not
    assert run(capsys, *words)[0] == 0
    (tmp_path / "out" / "notes.txt").write_text("mine")
    code, _, err = run(capsys, *words)
    assert code == 2 and "holds other files than latents; choose another folder" in err


def test_a_model_of_clouds_encodes_clouds(folder, tmp_path, capsys):
    code, printed, err = run(capsys, "encode", folder / "clouds", "shapes:chair", "--out", tmp_path / "out")
    assert code == 0, err
    count = about(tmp_path / "out")["count"]
    assert f"latents of {count:,} clouds: 3 values each" in printed
    assert np.load(tmp_path / "out" / "mu.npy").shape == (count, 3)
    code, _, err = run(capsys, "encode", folder / "clouds", "shapes", "--crop", "center")
    assert code == 2 and "--crop is for models of images" in err


def test_a_conditional_model_takes_the_images_classes_or_one(folder, tmp_path, capsys):
    made = {}
    for name, words in {"own": (), "one": ("--class", 2)}.items():
        assert run(capsys, "encode", folder / "classes", folder / "set.npz", "--out", tmp_path / name, *words)[0] == 0
        made[name] = np.load(tmp_path / name / "mu.npy")
    same = (made["own"] == made["one"]).all(1)
    assert np.array_equal(same, np.arange(20) % 3 == 2)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("conv",), "name a data set, as for sivae train --data"),
        (("points", "set.npz"), "this model makes points, not images"),
        (("conv", "missing"), "missing"),
        (("conv", "set.npz", "--class", "1"), "this model knows no classes"),
    ],
)
def test_what_cannot_be_encoded(words, message, folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    code, _, err = run(capsys, "encode", *words, "--out", tmp_path / "out")
    assert code != 0 and message in err
    assert not (tmp_path / "out").exists()


def test_latents_that_are_not_finite_leave_no_folder(folder, tmp_path, capsys):
    model = ConvVAE(8, 1, (4,), 3, norm="group")
    with torch.no_grad():
        model.encoder.head.bias[0] = torch.inf
    save_model(tmp_path / "model", model)
    code, _, err = run(capsys, "encode", tmp_path / "model", folder / "set.npz", "--out", tmp_path / "out")
    assert code == 2 and "is not finite; take an earlier model" in err
    assert [file.name for file in tmp_path.iterdir()] == ["model"]
