"""sample, reconstruct and interpolate, end to end: the files they write, what they print, and what they refuse."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import sivae
from sivae.cli.generation import ImageModel
from sivae.evaluation.image_metrics import mse
from sivae.figures.grids import image_grid, to_rgb
from sivae.models import MLPVAE, ConvVAE
from sivae.models.latent import generate, lerp, prior_noise, slerp
from sivae.models.pixels import to_uint8
from sivae.models.storage import save_model
from tests.cli.running import run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three models, two image files and a data set."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    save_model(folder / "rgb", _lively(ConvVAE(image_size=16, channels=3, widths=(8,), z_dim=6)))
    save_model(
        folder / "digits",
        _lively(ConvVAE(image_size=8, channels=1, widths=(8,), z_dim=6, norm="group", condition_dim=3)),
    )
    save_model(folder / "points", MLPVAE(hidden=4, layers=1))
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(folder / "a.png")
    Image.fromarray(rng.integers(0, 256, (20, 40), dtype=np.uint8)).save(folder / "b.png")
    np.savez(folder / "set.npz", images=rng.integers(0, 256, (20, 8, 8), dtype=np.uint8), labels=np.arange(20) % 3)
    return folder


def _lively(model: ConvVAE) -> ConvVAE:
    """A model whose images differ, though it is not trained."""
    with torch.no_grad():
        for layer in model.decoder.modules():
            if isinstance(layer, nn.Linear):
                layer.weight.mul_(4)
    return model


def _pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def _samples(path: Path, count: int, seed: int, labels: Sequence[int] | None = None) -> torch.Tensor:
    model = sivae.from_pretrained(path)
    condition = None if labels is None else torch.eye(3)[list(labels)]
    return torch.cat(list(generate(model, count, seed=seed, condition=condition)))


class TestSample:
    def test_by_default_a_grid_goes_beside_the_model(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        code, out, err = run(capsys, "sample", folder / "rgb")
        assert (code, out, err) == (0, f"{folder / 'rgb-samples-seed0.png'}\n", "")
        assert (_pixels(folder / "rgb-samples-seed0.png") == image_grid(_samples(folder / "rgb", 64, 0))).all()

    def test_count_columns_and_seed_are_taken(
        self, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        out = tmp_path / "new" / "grid.png"
        words = ("--count", 10, "--columns", 5, "--seed", 3, "--out", out)
        assert run(capsys, "sample", folder / "rgb", *words) == (0, f"{out}\n", "")
        assert (_pixels(out) == image_grid(_samples(folder / "rgb", 10, 3), columns=5)).all()

    def test_single_files_and_an_array(self, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        each, npz = tmp_path / "each", tmp_path / "all.npz"
        code, out, _ = run(capsys, "sample", folder / "rgb", "--count", 11, "--each", each, "--npz", npz)
        assert (code, out) == (0, f"{npz}\n{each} (11 files)\n")
        assert sorted(tmp_path.iterdir()) == [npz, each]
        expected = to_uint8(_samples(folder / "rgb", 11, 0)).permute(0, 2, 3, 1).numpy()
        assert [path.name for path in sorted(each.iterdir())] == [f"{index:02d}.png" for index in range(11)]
        assert all((_pixels(path) == expected[index]).all() for index, path in enumerate(sorted(each.iterdir())))
        with np.load(npz, allow_pickle=False) as arrays:
            assert list(arrays) == ["images"]
            assert (arrays["images"] == expected).all() and arrays["images"].dtype == np.uint8

    def test_classes_come_in_turn_or_one_alone(
        self, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        out, npz = tmp_path / "grid.png", tmp_path / "all.npz"
        assert run(capsys, "sample", folder / "digits", "--count", 7, "--out", out, "--npz", npz)[0] == 0
        turns = [0, 1, 2, 0, 1, 2, 0]
        expected = _samples(folder / "digits", 7, 0, turns)
        assert (_pixels(out) == image_grid(expected, columns=3)).all()
        with np.load(npz, allow_pickle=False) as arrays:
            assert arrays["labels"].tolist() == turns and arrays["images"].shape == (7, 8, 8, 1)
        assert run(capsys, "sample", folder / "digits", "--count", 4, "--class", 2, "--out", out)[0] == 0
        assert (_pixels(out) == image_grid(_samples(folder / "digits", 4, 0, [2] * 4))).all()

    def test_of_very_many_the_picture_shows_the_first(
        self, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("sivae.cli.sample.IMAGES_IN_PICTURE", 9)
        out = tmp_path / "grid.png"
        assert run(capsys, "sample", folder / "rgb", "--count", 30, "--out", out)[1] == f"{out} (the first 9)\n"
        assert (_pixels(out) == image_grid(_samples(folder / "rgb", 9, 0))).all()

    def test_by_default_the_weights_are_averaged(
        self, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[bool] = []
        original = sivae.from_pretrained

        def recorded(path: Path, *, averaged: bool = True) -> Any:
            asked.append(averaged)
            return original(path, averaged=averaged)

        monkeypatch.setattr(sivae, "from_pretrained", recorded, raising=False)
        for words in ([], ["--raw-weights"]):
            run(capsys, "sample", folder / "rgb", "--count", 1, "--out", tmp_path / "a.png", *words)
        assert asked == [True, False]


class TestReconstruct:
    def test_files_are_shown_over_their_reconstructions(
        self, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        out = tmp_path / "pairs.png"
        code, printed, err = run(
            capsys, "reconstruct", folder / "rgb", folder / "a.png", folder / "b.png", "--out", out
        )
        assert (code, err) == (0, "")
        with Image.open(folder / "b.png") as picture:
            square = picture.crop((10, 0, 30, 20)).resize((16, 16), Image.Resampling.LANCZOS).convert("RGB")
        originals = torch.from_numpy(np.stack([_pixels(folder / "a.png"), np.asarray(square)])).permute(0, 3, 1, 2)
        again = sivae.from_pretrained(folder / "rgb").reconstruct(originals.float() / 255)
        drawn = _pixels(out)
        left = drawn.shape[1] - 2 * 98 - 2
        for index in range(2):
            for images, top in ((originals.float() / 255, 2), (again, 100)):
                cell = drawn[top : top + 96 : 6, left + 2 + 98 * index : left + 98 + 98 * index : 6]
                # Reconstructed in another layout or batch, a value may round to the other of two levels.
                assert np.abs(cell.astype(int) - to_rgb(images)[index]).max() <= 1
        error = float(mse(again.clamp(0, 1), originals.double() / 255).mean())
        assert "2 images at 16 x 16" in printed
        for word in ("mse", f"{error:.4f}"[:5], "psnr", "ssim", str(out)):
            assert word in printed

    def test_a_crop_replaces_the_square_in_the_middle(
        self, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        drawn = []
        for crop in ("center", "0,10,20,20", "0,0,20,20"):
            out = tmp_path / f"{crop}.png"
            words = ("reconstruct", folder / "rgb", folder / "b.png", "--crop", crop, "--out", out)
            assert run(capsys, *words)[0] == 0
            drawn.append(out.read_bytes())
        assert drawn[0] == drawn[1] != drawn[2]

    def test_a_data_set_gives_images_and_classes(
        self, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        first, second, other = (tmp_path / f"{name}.png" for name in ("first", "second", "other"))
        for out, seed in ((first, 0), (second, 0), (other, 1)):
            words = ("--data", folder / "set.npz", "--count", 5, "--seed", seed, "--out", out)
            code, printed, _ = run(capsys, "reconstruct", folder / "digits", *words)
            assert code == 0 and "5 images at 8 x 8" in printed
        assert first.read_bytes() == second.read_bytes() != other.read_bytes()
        _, printed, _ = run(
            capsys, "reconstruct", folder / "digits", "--data", folder / "set.npz", "--count", 99, "--out", first
        )
        assert "20 images" in printed  # all there are


class TestInterpolate:
    @pytest.mark.parametrize(("words", "path"), [([], slerp), (["--linear"], lerp)])
    def test_between_seeds(
        self, words: list[str], path: Any, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        out = tmp_path / "path.png"
        code, printed, err = run(
            capsys, "interpolate", folder / "rgb", "--seeds", 1, 2, "--steps", 5, "--out", out, *words
        )
        assert (code, printed, err) == (0, f"{out}\n", "")
        z = path(prior_noise(1, 1, 6)[0], prior_noise(2, 1, 6)[0], 5)
        with torch.no_grad():
            expected = image_grid(sivae.from_pretrained(folder / "rgb").decode(z), columns=5)
        drawn = _pixels(out)[: len(expected)]
        assert np.abs(drawn.astype(int) - expected).max() <= 1

    def test_a_seed_is_the_first_image_that_sample_draws(self, folder: Path) -> None:
        assert torch.equal(prior_noise(7, 64, 6)[0], prior_noise(7, 1, 6)[0])

    def test_between_images_with_an_animation(
        self, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        out, gif = tmp_path / "path.png", tmp_path / "path.gif"
        words = ("--steps", 3, "--out", out, "--gif", gif, "--frames", 4)
        code, printed, _ = run(capsys, "interpolate", folder / "rgb", folder / "a.png", folder / "b.png", *words)
        assert (code, printed) == (0, f"{out}\n{gif}\n")
        drawn = _pixels(out)
        assert (drawn[2:98:6, 2:98:6] == _pixels(folder / "a.png")).all()
        x = torch.from_numpy(_pixels(folder / "a.png").copy()).permute(2, 0, 1)[None].float() / 255
        start = to_rgb(sivae.from_pretrained(folder / "rgb").reconstruct(x))[0].astype(int)
        assert np.abs(drawn[2:98:6, 114:210:6] - start).max() <= 1
        with Image.open(gif) as picture:
            assert picture.n_frames == 6

    def test_names_have_both_ends(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        _, printed, _ = run(capsys, "interpolate", folder / "digits", "--seeds", 1, 2, "--class", 0, "--steps", 2)
        assert printed == f"{folder / 'digits-interpolation-seeds1-2.png'}\n"
        _, printed, _ = run(capsys, "interpolate", folder / "rgb", folder / "a.png", folder / "b.png", "--steps", 2)
        assert printed == f"{folder / 'rgb-interpolation-a-b.png'}\n"


def test_files_of_a_run_go_into_its_folder_and_not_into_its_checkpoints() -> None:
    def place(source: str) -> str:
        opened = ImageModel(MLPVAE(hidden=1, layers=1), torch.device("cpu"), Path(source))
        return str(opened.beside("samples-seed0.png"))

    assert place("runs/digits") == "runs/digits/samples-seed0.png"
    assert place("runs/digits/checkpoints/000500") == "runs/digits/samples-seed0-step500.png"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("sample", "name a run's folder, one of its checkpoints, or an imported model's folder"),
        ("sample points", "this model makes points, not images"),
        ("reconstruct points a.png", "this model makes points, not images"),
        ("interpolate points --seeds 1 2", "this model makes points, not images"),
        ("sample rgb --count 0", "--count: 0 is too small; expected at least 1"),
        ("sample rgb --columns 0", "--columns: 0 is too small; expected at least 1"),
        ("sample rgb --seed -1", "--seed: -1 is not a seed; expected 0 to 2^63 - 1"),
        ("sample rgb --out grid.jpg", "--out: 'grid.jpg' does not end in .png"),
        ("sample rgb --npz all.npy", "--npz: 'all.npy' does not end in .npz"),
        ("sample rgb --class 1", "--class 1: this model knows no classes"),
        ("sample digits --class 3", "--class 3: this model knows the classes 0 to 2"),
        ("sample rgb --device abacus", "device = 'abacus': sivae computes on cpu or cuda"),
        ("sample rgb --clas 1", "unknown: --clas 1; did you mean --class?"),
        ("reconstruct rgb", "name files of images or clouds, or a data set by --data PATH, and not both"),
        (
            "reconstruct rgb a.png --data set.npz",
            "name files of images or clouds, or a data set by --data PATH, and not both",
        ),
        ("reconstruct rgb a.png --split test", "--split goes with --data, not with files"),
        ("reconstruct rgb a.png --count 3", "--count goes with --data, not with files"),
        ("reconstruct digits a.png", "no class is given, and the model knows 0 to 2; choose one by --class N"),
        ("interpolate rgb", "name two files of images or clouds, or two samples by --seeds N N"),
        ("interpolate rgb a.png", "name two files of images or clouds, or two samples by --seeds N N"),
        (
            "interpolate rgb a.png b.png --seeds 1 2",
            "name two files of images or clouds, or two samples by --seeds N N",
        ),
        ("interpolate rgb --seeds 1 2 3", "name two files of images or clouds, or two samples by --seeds N N"),
        ("interpolate rgb --seeds 1 2 --steps 1", "--steps: 1 is too small; expected at least 2"),
        ("interpolate rgb --seeds 1 2 --frames 9", "--frames goes with --gif FILE"),
        ("interpolate rgb --seeds 1 2 --gif a.png", "--gif: 'a.png' does not end in .gif"),
        ("interpolate rgb --seeds 1", "--seeds: expected 2 arguments"),
        ("interpolate digits --seeds 1 2", "no class is given, and the model knows 0 to 2"),
    ],
)
def test_a_mistake_is_one_line(
    words: str, message: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    before = sorted(folder.rglob("*"))
    code, out, err = run(capsys, *words.split())
    assert (code, out) == (2, "")
    assert err.startswith("sivae: ") and err.count("\n") == 1
    assert message in err
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("reconstruct rgb nothing.png", "nothing.png: No such file or directory; check the path"),
        ("reconstruct rgb .", ". is a folder; name image files in it, or give the folder by --data"),
        ("interpolate rgb a.png .", ". is a folder; name image files in it"),
        ("interpolate rgb a.png b.png c.png", "one argument too many: c.png; expected RUN_OR_MODEL A B"),
        ("reconstruct rgb a.png set.npz rgb/model.json", "rgb/model.json is no image that can be read"),
        ("reconstruct rgb set.npz", "set.npz is no image that can be read"),
        ("reconstruct rgb --data nowhere", "nowhere: there is no such file or folder"),
        ("reconstruct rgb --data set.npz --split test", "has no test images"),
        ("sample nowhere", "nowhere"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_line(
    words: str, message: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    code, out, err = run(capsys, *words.split())
    assert code in (1, 2) and out == ""
    assert err.startswith("sivae: ") and err.count("\n") == 1 and "Traceback" not in err
    assert message in err
