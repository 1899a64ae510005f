"""encode, end to end: the latents that it writes for every kind of model, what it prints, and what it refuses."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import sivae
from sivae import files
from sivae.evaluation.latents import write_latents
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


def test_latents_say_where_they_are_from_and_which_ones_they_replace(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    words = ("set.npz", "--out", tmp_path / "out")
    for _ in range(2):  # the same latents again replace nothing else
        code, _, err = run(capsys, "encode", "vae", *words)
        assert code == 0 and "replaced" not in err and "resized to 8 x 8" in err
    content = about(tmp_path / "out")
    assert content["model_folder"] == str(folder / "vae") and content["data_path"] == str(folder / "set.npz")
    assert content["raw_weights"] is False and content["split"] is None
    assert content["pipeline"] == {"scaling_factor": 1.0, "force_upcast": True}  # as the folder has them
    code, _, err = run(capsys, "encode", "conv", *words)
    assert code == 0
    assert f"latents of {folder / 'set.npz'} by {folder / 'vae'} in {tmp_path / 'out'} are replaced" in err


def test_each_part_has_a_folder_of_its_own(folder, tmp_path, capsys):
    shutil.copytree(folder / "conv", tmp_path / "conv")
    for words in ((), ("--split", "train"), ("--split", "test")):
        assert run(capsys, "encode", tmp_path / "conv", "digits", *words)[0] == 0
    names = {"conv", "conv-latents", "conv-latents-train", "conv-latents-test"}
    assert {file.name for file in tmp_path.iterdir()} == names


def test_latents_can_be_written_to_the_working_folder(folder, tmp_path, capsys, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    code, _, err = run(capsys, "encode", folder / "conv", folder / "set.npz", "--out", ".")
    assert code == 0, err
    assert (tmp_path / "here" / "mu.npy").is_file()


def test_what_a_killed_command_left_is_deleted_and_what_another_one_writes_is_not(folder, tmp_path, capsys):
    left, written, other = (tmp_path / f".tmp-{name}" for name in ("out-0123abcd", "out-00000000", "out-2-0123abcd"))
    for path in (left, written, other):
        path.mkdir()
        (path / "mu.npy").write_bytes(b"part")
    with files.locked(written, "writes to"):
        assert run(capsys, "encode", folder / "conv", folder / "set.npz", "--out", tmp_path / "out")[0] == 0
    assert {file.name for file in tmp_path.iterdir()} == {"out", written.name, other.name}


def test_without_locks_nothing_of_another_command_is_deleted(folder, tmp_path, capsys, monkeypatch):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, "no locks")

    left = tmp_path / ".tmp-out-0123abcd"
    left.mkdir()
    monkeypatch.setattr("fcntl.flock", no_locks)
    code, _, err = run(capsys, "encode", folder / "vae", folder / "set.npz", "--out", tmp_path / "out")
    assert code == 0, err
    assert left.is_dir()


@pytest.mark.parametrize("count", [19, 21])
def test_another_number_of_samples_than_of_names_leaves_no_folder(count, folder, tmp_path):
    model = sivae.from_pretrained(folder / "conv")
    batches = [(torch.rand(count, 1, 8, 8), None)]
    with pytest.raises(ValueError, match=f"write_latents: {count} samples came, expected 20, as many as names"):
        write_latents(tmp_path / "out", model, batches, [str(i) for i in range(20)])
    assert not list(tmp_path.iterdir())


def test_ctrl_c_gives_no_advice_about_a_training(folder, tmp_path, capsys, monkeypatch):
    def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("sivae.evaluation.latents.write_latents", stopped)
    code, _, err = run(capsys, "encode", folder / "conv", folder / "set.npz", "--out", tmp_path / "out")
    assert code == 130 and "sivae: stopped; run the command again" in err


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
    for value, number in ((torch.inf, 0), (1e30, 5)):  # a mean; a variance of exp(1e30)
        with torch.no_grad():
            model.encoder.head.bias[number] = value
        save_model(tmp_path / "model", model)
        code, _, err = run(capsys, "encode", tmp_path / "model", folder / "set.npz", "--out", tmp_path / "out")
        assert code == 2 and "or its variance, is not finite; take an earlier model" in err
        assert [file.name for file in tmp_path.iterdir()] == ["model"]
        with torch.no_grad():
            model.encoder.head.bias.zero_()


def test_a_kill_or_an_error_while_a_folder_is_replaced_loses_neither(folder, tmp_path, monkeypatch):
    out = tmp_path / "out"
    out.mkdir()
    (out / "old").touch()
    rename = os.rename

    def fails_for_the_new(source, target):
        if Path(target) == out and not (Path(source) / "old").exists():
            raise OSError(errno.EIO, "broken")
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", fails_for_the_new)
        with pytest.raises(OSError, match="broken"), files.atomic_folder(out) as temporary:
            (temporary / "new").touch()
    assert [file.name for file in tmp_path.iterdir()] == ["out"] and (out / "old").exists()

    def killed(*_, **__):
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", killed)
        with pytest.raises(SystemExit), files.atomic_folder(out) as temporary:
            (temporary / "new").touch()
    assert (out / "new").exists()


def test_a_link_to_a_folder_stays_a_link(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with files.atomic_folder(tmp_path / "link") as temporary:
        (temporary / "new").touch()
    assert {path.name for path in tmp_path.iterdir()} == {"real", "link"}
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real" / "new").exists()
