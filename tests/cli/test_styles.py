"""The verbs on style-based models: truncation, mixing, every resolution, and what works as on other models."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import avg_pool2d

import sivae
from sivae.evaluation.image_metrics import mse
from sivae.figures.grids import image_grid, to_rgb
from sivae.models import ConvVAE, StyleVAE
from sivae.models.latent import generate, prior_noise
from sivae.models.pixels import unit_range
from sivae.models.storage import save_model
from sivae.models.style import Truncation
from tests.cli.running import run

FIXTURE = Path(__file__).resolve().parents[1] / "fixtures" / "official_style128.pth"
RANGE = (-1.0, 1.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Style-based models, in colour, in grey and half grown; one of another kind; image files and a data set."""
    folder = tmp_path_factory.mktemp("models")
    for name, channels in (("colour", 3), ("grey", 1), ("growing", 3)):
        model = _lively(channels)
        if name == "growing":
            model.grow(1, 0.5)
        save_model(folder / name, model)
    save_model(folder / "conv", ConvVAE(image_size=16, channels=3, widths=(8,), z_dim=6))
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(folder / f"{name}.png")
    np.savez(folder / "set.npz", images=rng.integers(0, 256, (5, 16, 16, 3), dtype=np.uint8))
    return folder


def _lively(channels: int) -> StyleVAE:
    """A model of 16 x 16 images that differ, though it is not trained, and that fill their range."""
    torch.manual_seed(0)
    model = StyleVAE(16, channels, start_channels=4, max_channels=8, z_dim=6, mapping_layers=2)
    with torch.no_grad():
        model.average_style.normal_()
        for layer in model.decoder.exits:
            layer.weight.mul_(10)  # type: ignore[operator]
    return model


def _drawn(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def _model(path: Path) -> StyleVAE:
    model = sivae.from_pretrained(path)
    assert isinstance(model, StyleVAE)
    return model


def _assert_at(drawn: np.ndarray, place: tuple[int, int], image: Tensor) -> None:
    """The image stands at a place, enlarged to 96 pixels."""
    top, left = place
    step = 96 // image.shape[-1]
    cell = drawn[top : top + 96 : step, left : left + 96 : step].astype(int)
    # Decoded in another batch, a value may round to the other of two levels.
    assert np.abs(cell - to_rgb(image[None], RANGE)[0]).max() <= 1


class TestTruncation:
    def test_samples_are_drawn_towards_the_average(
        self, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        out = tmp_path / "grid.png"
        model = _model(folder / "colour")
        words = ("--count", 4, "--out", out, "--truncation", 0.4)
        for more, truncation in (((), Truncation(0.4)), (("--cutoff", 2), Truncation(0.4, 2))):
            assert run(capsys, "sample", folder / "colour", *words, *more) == (0, f"{out}\n", "")
            with torch.no_grad():
                images = model.render(prior_noise(0, 4, 6), truncation=truncation)
            expected = image_grid(images, value_range=RANGE)
            assert np.abs(_drawn(out).astype(int) - expected).max() <= 1
            plain = image_grid(torch.cat(list(generate(model, 4, seed=0))), value_range=RANGE)
            assert np.abs(plain.astype(int) - expected).max() > 20

    def test_a_sweep_has_a_row_for_each_sample(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        psis = (-0.5, 0, 1)
        out = folder / "colour-truncation-seed3.png"
        words = ("--seed", 3, "--count", 2, "--truncation", *psis)
        assert run(capsys, "sample", folder / "colour", *words) == (0, f"{out}\n", "")
        drawn = _drawn(out)
        assert drawn.shape[1] == 3 * 98 + 2
        above = drawn.shape[0] - 2 * 98 - 2
        z = prior_noise(3, 2, 6)
        for column, psi in enumerate(psis):
            with torch.no_grad():
                images = _model(folder / "colour").render(z, truncation=float(psi))
            for row, image in enumerate(images):
                _assert_at(drawn, (above + 2 + 98 * row, 2 + 98 * column), image)

    def test_files_go_beside_the_model(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        _, printed, _ = run(capsys, "sample", folder / "grey", "--count", 1, "--truncation", 0.7)
        assert printed == f"{folder / 'grey-samples-truncated-seed0.png'}\n"


class TestMix:
    def test_rows_give_the_coarse_styles_and_columns_the_fine_ones(
        self, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        out = tmp_path / "mix.png"
        model = _model(folder / "colour")
        words = ("--rows", 2, "--columns", 3, "--seed", 5, "--out", out)
        for more, first, truncation in ((), 3, None), (("--first", 1, "--truncation", 0.5), 1, 0.5):
            assert run(capsys, "mix", folder / "colour", *words, *more) == (0, f"{out}\n", "")
            drawn = _drawn(out)
            left, above = drawn.shape[1] - 4 * 98 - 2, drawn.shape[0] - 3 * 98 - 2
            fine, coarse = prior_noise(5, 5, 6).split([3, 2])
            with torch.no_grad():
                for column in range(3):
                    image = model.render(fine[column : column + 1], truncation=truncation)[0]
                    _assert_at(drawn, (above + 2, left + 98 * (column + 1) + 2), image)
                for row in range(2):
                    z = coarse[row : row + 1]
                    top = above + 98 * (row + 1) + 2
                    _assert_at(drawn, (top, left + 2), model.render(z, truncation=truncation)[0])
                    for column in range(3):
                        mixed = model.render(z, truncation=truncation, mixing=(fine[column : column + 1], first))[0]
                        _assert_at(drawn, (top, left + 98 * (column + 1) + 2), mixed)
            assert (drawn[above : above + 98, left + 2 : left + 98] == 255).all()

    def test_image_files_are_mixed_both_ways(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        code, printed, err = run(capsys, "mix", folder / "colour", folder / "a.png", folder / "b.png")
        assert (code, printed, err) == (0, f"{folder / 'colour-mixing.png'}\n", "")
        drawn = _drawn(folder / "colour-mixing.png")
        left, above = drawn.shape[1] - 3 * 98 - 2, drawn.shape[0] - 3 * 98 - 2
        files = np.stack([_drawn(folder / "a.png"), _drawn(folder / "b.png")])
        again = _model(folder / "colour").reconstruct(torch.from_numpy(files).permute(0, 3, 1, 2) / 127.5 - 1)
        for index in range(2):  # an image mixed with itself is its reconstruction
            place = (above + 98 * (index + 1) + 2, left + 98 * (index + 1) + 2)
            _assert_at(drawn, place, again[index])


class TestEveryLod:
    @pytest.mark.parametrize(("name", "sides"), [("colour", (4, 8, 16)), ("growing", (4, 8))])
    def test_reconstructions_at_each_resolution_up_to_the_models(
        self, name: str, sides: tuple[int, ...], folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        out = tmp_path / "all.png"
        words = (folder / "a.png", folder / "b.png", "--every-lod", "--out", out)
        code, printed, err = run(capsys, "reconstruct", folder / name, *words)
        assert (code, err) == (0, "")
        model = _model(folder / name)
        largest = sides[-1]
        files = np.stack([_drawn(folder / "a.png"), _drawn(folder / "b.png")])
        if largest == 8:
            files = np.stack(
                [np.asarray(Image.fromarray(file).resize((8, 8), Image.Resampling.LANCZOS)) for file in files]
            )
        x = torch.from_numpy(files).permute(0, 3, 1, 2) / 127.5 - 1
        drawn = _drawn(out)
        left, top = drawn.shape[1] - 2 * 98 - 2, 2
        for lod, side in enumerate(sides):
            assert f"2 images at {side} x {side}" in printed
            small = avg_pool2d(x, largest // side)
            stage = {} if side == largest else {"lod": lod}
            with torch.no_grad():
                again = _at(model, small, **stage)
            for images in (small, again):
                for index, image in enumerate(images):
                    _assert_at(drawn, (top, left + 2 + 98 * index), image)
                top += 98
            top += 12
            error = float(mse(unit_range(again.double(), RANGE), unit_range(small.double(), RANGE)).mean())
            assert f"{error:.4g}"[:5] in printed

    def test_of_a_data_set_too(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        code, printed, _ = run(capsys, "reconstruct", folder / "grey", "--data", folder / "set.npz", "--every-lod")
        assert code == 0 and "5 images at 4 x 4" in printed
        assert printed.endswith(f"{folder / 'grey-reconstructions-every-lod.png'}\n")


def _at(model: StyleVAE, x: Tensor, lod: int | None = None) -> Tensor:
    """Reconstructions at a stage, or at the model's own with its blending."""
    other = StyleVAE(**{**model.hyperparameters, **({} if lod is None else {"lod": lod, "blend": 1.0})})
    other.load_state_dict(model.state_dict())
    return other.reconstruct(x)


@pytest.mark.parametrize("name", ["colour", "grey", "growing"])
def test_paths_lead_between_two_images_in_their_range(
    name: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "path.png"
    words = (folder / "a.png", folder / "b.png", "--steps", 3, "--out", out)
    assert run(capsys, "interpolate", folder / name, *words) == (0, f"{out}\n", "")
    model = _model(folder / name)
    with Image.open(folder / "a.png") as picture:
        original = picture.resize(model.sample_shape[:0:-1], Image.Resampling.LANCZOS)
        pixels = np.atleast_3d(np.array(original.convert("L" if name == "grey" else "RGB")))
    x = torch.from_numpy(pixels).permute(2, 0, 1)[None] / 127.5 - 1
    drawn = _drawn(out)
    _assert_at(drawn, (2, 2), x[0])
    _assert_at(drawn, (2, 98 + 2 + 12 + 2), model.reconstruct(x)[0])


def test_an_official_checkpoint_serves_every_verb(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for words, weights in (((), "averaged"), (("--as-trained",), "as trained")):
        code, printed, _ = run(capsys, "import-checkpoint", FIXTURE, "--out", weights[:2], *words)
        assert code == 0
        found = dict(line.split(maxsplit=1) for line in printed.splitlines())
        assert found["format"] == "official style" and found["weights"] == weights
        assert (found["image_size"], found["iteration"]) == ("128", "123")
    rng = np.random.default_rng(0)
    np.savez("set.npz", images=rng.integers(0, 256, (3, 128, 128, 3), dtype=np.uint8))
    Image.fromarray(rng.integers(0, 256, (128, 128, 3), dtype=np.uint8)).save("a.png")
    assert run(capsys, "sample", "av", "--count", 2, "--out", "s.png")[0] == 0
    assert run(capsys, "sample", "av", "--count", 2, "--truncation", 0, 1, "--out", "t.png")[0] == 0
    assert run(capsys, "mix", "av", "--rows", 1, "--columns", 2, "--out", "m.png")[0] == 0
    assert run(capsys, "reconstruct", "av", "a.png", "--every-lod", "--out", "r.png")[0] == 0
    code, printed, _ = run(capsys, "evaluate", "av", "--data", "set.npz", "--json")
    metrics = json.loads(printed)
    assert code == 0 and 0 < metrics["mse"] < 1 and metrics["kl"] > 0
    assert metrics["mse"] != json.loads(run(capsys, "evaluate", "as", "--data", "set.npz", "--json")[1])["mse"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("sample conv --truncation 0.7", "--truncation is for a style-based model; this one is 'conv'"),
        ("sample conv --truncation 0 1", "--truncation is for a style-based model; this one is 'conv'"),
        ("mix conv", "sivae mix is for a style-based model; this one is 'conv'"),
        ("reconstruct conv a.png --every-lod", "--every-lod is for a style-based model; this one is 'conv'"),
        ("sample colour --cutoff 2", "--cutoff goes with --truncation PSI"),
        ("sample colour --truncation", "--truncation: expected at least one argument"),
        ("sample colour --truncation nan", "--truncation nan: expected numbers"),
        ("sample colour --truncation half", "'half' is not a number"),
        ("sample colour --truncation 1 --cutoff 0", "--cutoff: 0 is too small; expected at least 1"),
        ("sample colour --truncation 0 1 --columns 3", "--columns is not for a sweep"),
        ("sample colour --truncation 0 1 --each all", "--each is not for a sweep"),
        ("sample colour --truncation 0 1 --npz a.npz", "--npz is not for a sweep"),
        ("sample colour --truncation 0 1 --count 1000", "1,000 samples at 2 values has more than 1,024 images"),
        ("mix colour --rows 0", "--rows: 0 is too small; expected at least 1"),
        ("mix colour --rows 99 --columns 99", "99 by 99 images are too many for a picture"),
        ("mix colour --first 0", "--first 0: expected 1 to 5, as this model has 6 style inputs"),
        ("mix growing --first 4", "--first 4: expected 1 to 3, as this model has 4 style inputs"),
        ("mix colour a.png b.png --rows 2", "--rows is for samples, not for image files"),
        ("mix", "name a run's folder"),
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
