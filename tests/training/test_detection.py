"""Detectors: which density they take, which images they read, and that a score belongs to its image alone."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sivae.data.images import PackedImages, open_images
from sivae.errors import ConfigError, DataError
from sivae.evaluation.likelihood import PixelDensity
from sivae.evaluation.ood import SCORES
from sivae.models import MLPVAE, ConvVAE
from sivae.objectives import SoftIntroObjective, VAEObjective
from sivae.settings.data import DensityData, DigitsData, ImageData, ShapesData
from sivae.settings.presets import preset_config
from sivae.training import detection
from sivae.training.detection import (
    Detector,
    calibrate,
    comparison,
    density_of,
    detector_of,
    open_set,
    run_of,
    score_set,
    write_set_scores,
)
from sivae.training.file_scores import FileScore, score_files, write_file_scores

_DENSITY = PixelDensity(2.0)


@pytest.fixture(scope="module")
def model() -> ConvVAE:
    torch.manual_seed(0)
    return ConvVAE(image_size=8, channels=3, widths=(8,), z_dim=4).eval()


def pixels(count: int, side: int = 8, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, side, side, channels), dtype=np.uint8)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Four image files of several sizes and colours, one of them in a folder of its own, and a text beside them."""
    folder = tmp_path / "pictures"
    (folder / "inner").mkdir(parents=True)
    for index, (name, image) in enumerate(zip(("b.png", "a.png", "inner/c.png"), pixels(3, 16), strict=True)):
        Image.fromarray(image[: 16 - 4 * index]).save(folder / name)
    Image.fromarray(pixels(1, 8, 1)[0, :, :, 0]).save(folder / "grey.png")
    (folder / "notes.txt").write_text("no image")
    return folder


class TestDetector:
    def test_a_score_belongs_to_the_image(self, model: ConvVAE, monkeypatch: pytest.MonkeyPatch) -> None:
        detector = Detector(model, _DENSITY, samples=3)
        images = PackedImages(pixels(7))
        found = score_set(detector, images, 100, title="t", progress=False)
        assert list(found) == list(SCORES) and all(len(values) == 7 for values in found.values())
        backwards = PackedImages(pixels(7)[::-1].copy())
        monkeypatch.setattr(detection, "samples_at_once", lambda shape: 2)
        again = score_set(detector, backwards, 100, title="t", progress=False)
        for score in SCORES:
            # Another batch size may round a convolution otherwise, which is float32.
            assert np.allclose(again[score][::-1], found[score], rtol=1e-5)
        other = Detector(model, _DENSITY, samples=3, seed=1).of_pixels(pixels(7))
        assert not np.isclose(other["likelihood"], found["likelihood"], rtol=1e-7).any()
        assert np.array_equal(other["kl"], found["kl"])

    def test_kl_spares_the_decoder(self, model: ConvVAE, monkeypatch: pytest.MonkeyPatch) -> None:
        whole = Detector(model, _DENSITY).of_pixels(pixels(3))

        def refuse(z: torch.Tensor, condition: object = None) -> torch.Tensor:
            raise AssertionError("decoded")

        monkeypatch.setattr(model, "decode", refuse)
        found = Detector(model, _DENSITY, "kl").of_pixels(pixels(3))
        assert list(found) == ["kl"] and np.array_equal(found["kl"], whole["kl"])

    def test_images_are_spread_over_the_set_and_brought_to_the_model_s_shape(self, model: ConvVAE) -> None:
        grey = PackedImages(pixels(9, 16, 1))
        found = score_set(Detector(model, _DENSITY), grey, 3, title="t", progress=False)
        detector = Detector(model, _DENSITY)
        fitted = np.stack([detector.fitted(grey.picture(row), "x") for row in (0, 4, 8)])
        assert fitted.shape == (3, 8, 8, 3)
        assert np.array_equal(found["likelihood"], detector.of_pixels(fitted)["likelihood"])

    def test_models_that_cannot(self, model: ConvVAE) -> None:
        with pytest.raises(ConfigError, match="makes points, not images"):
            Detector(MLPVAE(hidden=4), _DENSITY)
        with pytest.raises(ConfigError, match="knows 3 classes, and an image from elsewhere is of none"):
            Detector(ConvVAE(image_size=8, channels=1, widths=(8,), z_dim=4, condition_dim=3), _DENSITY)
        with pytest.raises(ConfigError, match="score = 'fid': expected one of kl, elbo, likelihood"):
            Detector(model, _DENSITY, "fid")  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match="samples = 0"):
            Detector(model, _DENSITY, samples=0)

    def test_the_digest_is_of_the_weights(self, model: ConvVAE) -> None:
        torch.manual_seed(0)
        same = ConvVAE(image_size=8, channels=3, widths=(8,), z_dim=4)
        assert Detector(same, _DENSITY).digest() == Detector(model, _DENSITY).digest()
        with torch.no_grad():
            next(same.parameters()).view(-1)[0] += 1
        assert Detector(same, _DENSITY).digest() != Detector(model, _DENSITY).digest()


class TestDensity:
    def test_it_is_that_of_the_training_unless_asked_for_otherwise(self) -> None:
        objective = SoftIntroObjective(beta_rec=2.0, beta_kl=0.5)
        assert density_of(objective) == PixelDensity(4.0)
        assert density_of(objective, beta_kl=1.0) == PixelDensity(2.0)
        assert density_of(objective, sigma=0.5) == PixelDensity(2.0)
        assert density_of(VAEObjective(beta_rec=1.0, beta_kl=0.5, kind="l1")) == PixelDensity(2.0, "l1")

    def test_assumptions_are_told(self) -> None:
        told: list[str] = []
        assert density_of(None, notice=told.append) == PixelDensity(1.0)
        assert density_of(None, beta_rec=3.0, notice=told.append) == PixelDensity(3.0)
        assert "assuming beta_rec = 1 and beta_kl = 1" in told[0] and "assuming beta_kl = 1" in told[1]
        assert density_of(None, beta_rec=3.0, beta_kl=1.0, notice=told.append) == PixelDensity(3.0)
        assert len(told) == 2

    def test_what_makes_no_density(self) -> None:
        with pytest.raises(ConfigError, match="sigma takes the place of beta_rec and beta_kl"):
            density_of(None, sigma=1.0, beta_rec=1.0)
        with pytest.raises(ConfigError, match=r"beta_kl is 0\.0, .* choose its width by sigma"):
            density_of(VAEObjective(beta_rec=1.0, beta_kl=0.0))
        with pytest.raises(ConfigError, match="sigma is nan"):
            density_of(None, sigma=math.nan)

    def test_a_run_is_found_from_its_folder_and_from_its_checkpoints(self, tmp_path: Path) -> None:
        (tmp_path / "checkpoints" / "10").mkdir(parents=True)
        assert run_of(tmp_path) is None
        (tmp_path / "config.json").write_text(preset_config("digits").to_json())
        for folder in (tmp_path, tmp_path / "checkpoints" / "10"):
            config = run_of(folder)
            assert config is not None and config.preset == "digits"


class TestSets:
    def test_test_images_are_taken_where_there_are_some(self, tmp_path: Path) -> None:
        for part, count in (("train", 4), ("test", 2)):
            for index, image in enumerate(pixels(count)):
                (tmp_path / "set" / part).mkdir(parents=True, exist_ok=True)
                Image.fromarray(image).save(tmp_path / "set" / part / f"{index}.png")
        assert len(open_set(tmp_path / "set").images) == 2
        assert len(open_set(tmp_path / "set", split="train").images) == 4
        np.save(tmp_path / "flat.npy", pixels(3))
        assert len(open_set(tmp_path / "flat.npy").images) == 3
        assert (
            open_set(ImageData(path=str(tmp_path / "flat.npy"), resolution=8, channels=1, flip=False)).name
            == "flat.npy"
        )

    def test_digits_are_a_word_and_a_run_s_data(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        assert len(open_set("digits").images) == len(open_set(DigitsData(flip=False)).images) == 300
        assert len(open_set(ShapesData(resolution=8)).images) == 20 * 64
        (tmp_path / "digits").mkdir()
        Image.fromarray(pixels(1)[0]).save(tmp_path / "digits" / "a.png")
        assert len(open_set("digits").images) == 1  # what is there comes first
        assert len(open_set(DigitsData(flip=False)).images) == 300

    def test_sets_that_are_none(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="there is no such file or folder"):
            open_set(tmp_path / "nothing")
        with pytest.raises(DataError, match="holds no files"):
            open_set(tmp_path)
        with pytest.raises(ConfigError, match="is of points, not images"):
            open_set(DensityData(density="rings"))

    def test_a_damaged_image_is_an_error_or_left_out(self, model: ConvVAE, pictures: Path) -> None:
        (pictures / "bad.png").write_bytes((pictures / "a.png").read_bytes()[:60])
        detector = Detector(model, _DENSITY)
        with pytest.raises(DataError, match=r"bad\.png is damaged"):
            score_set(detector, open_set(pictures).images, 99, title="t", progress=False)
        kept = open_set(pictures, skip_damaged=True).images
        assert len(score_set(detector, kept, 99, title="t", progress=False)["kl"]) == 4
        for file in pictures.rglob("*.png"):
            file.write_bytes(b"x")
        with pytest.raises(DataError, match="none of its images can be read"):
            score_set(detector, open_images(pictures, skip_damaged=True), 99, title="t", progress=False)

    def test_a_comparison_and_its_rows(self, model: ConvVAE, tmp_path: Path) -> None:
        detector = Detector(model, _DENSITY, "elbo", samples=2)
        inside, outside = detector.of_pixels(pixels(6)), detector.of_pixels(np.zeros((4, 8, 8, 3), np.uint8))
        threshold = calibrate(detector, inside, 0.5, "noise")
        content = comparison(detector, ("noise", "black"), inside, outside, threshold=threshold)
        assert json.loads(json.dumps(content, allow_nan=False)) == content
        assert list(content["metrics"]) == list(SCORES) and content["positive"] == "out"
        assert content["metrics"]["elbo"]["auroc"]["value"] == 0.0  # black is easier than noise
        assert content["threshold"]["found"] == 0.0
        write_set_scores(tmp_path / "rows.csv", {"in": inside, "out": outside})
        lines = (tmp_path / "rows.csv").read_text().splitlines()
        assert lines[0] == "set,kl,elbo,likelihood" and len(lines) == 11
        assert [float(word) for word in lines[1].split(",")[1:]] == [inside[score][0] for score in SCORES]


class TestThreshold:
    def test_it_brings_back_the_detector(self, model: ConvVAE, tmp_path: Path) -> None:
        detector = Detector(model, _DENSITY, "likelihood", samples=3, seed=5)
        scores = detector.of_pixels(pixels(20))
        threshold = calibrate(detector, scores, 0.9, "noise")
        assert threshold.threshold == np.sort(scores["likelihood"])[17] and threshold.images == 20
        assert detector_of(model, threshold, tmp_path / "t.json") == detector

    def test_another_model_s_is_refused(self, model: ConvVAE, tmp_path: Path) -> None:
        detector = Detector(model, _DENSITY)
        threshold = calibrate(detector, detector.of_pixels(pixels(2)), 0.9, "noise")
        other = ConvVAE(image_size=8, channels=3, widths=(8,), z_dim=4)
        with pytest.raises(ConfigError, match=r"t\.json was calibrated for another model or checkpoint"):
            detector_of(other, threshold, tmp_path / "t.json")
        with pytest.raises(ConfigError, match="quantile is 2"):
            calibrate(detector, detector.of_pixels(pixels(2)), 2, "noise")


class TestFiles:
    def test_every_file_has_a_row(self, model: ConvVAE, pictures: Path, tmp_path: Path) -> None:
        detector = Detector(model, _DENSITY)
        (pictures / "bad.jpg").write_bytes(b"not an image")
        rows = score_files(detector, pictures, progress=False)
        assert [row.name for row in rows] == ["a.png", "b.png", "bad.jpg", "grey.png", "inner/c.png"]
        assert rows[2].score is None and "bad.jpg is no image" in str(rows[2].problem)
        images = open_images(pictures / "inner")
        alone = score_set(detector, images, 1, title="t", progress=False)["likelihood"][0]
        assert rows[4].score == pytest.approx(alone, rel=1e-5)  # a batch of one, where it was one of four
        values = sorted(row.score for row in rows if row.score is not None)
        write_file_scores(tmp_path / "new" / "scores.csv", rows, values[2])
        lines = [line.split(",") for line in (tmp_path / "new" / "scores.csv").read_text().splitlines()]
        assert lines[0] == ["file", "score", "verdict"] and lines[3] == ["bad.jpg", "", "damaged"]
        verdicts = {line[0]: line[2] for line in lines[1:]}
        assert sorted(verdicts.values()) == ["damaged", "in", "in", "in", "out"]  # the threshold itself is in
        assert (
            verdicts[max((row for row in rows if row.score is not None), key=lambda row: row.score or 0).name] == "out"
        )

    def test_without_a_threshold_there_is_no_verdict_and_names_are_kept(self, tmp_path: Path) -> None:
        rows = [FileScore('a "b", c.png', 1.5), FileScore("bad\udcff.png", math.inf)]
        write_file_scores(tmp_path / "scores.csv", rows, None)
        assert (tmp_path / "scores.csv").read_bytes() == (
            b'file,score,verdict\n"a ""b"", c.png",1.5,\nbad\xff.png,inf,\n'
        )

    def test_folders_that_hold_nothing_to_score(self, model: ConvVAE, pictures: Path, tmp_path: Path) -> None:
        detector = Detector(model, _DENSITY)
        (tmp_path / "empty").mkdir()
        (tmp_path / "bad").mkdir()
        (tmp_path / "bad" / "a.png").touch()
        (tmp_path / "file.txt").touch()
        for path, message in (
            (tmp_path / "none", "there is no such folder"),
            (tmp_path / "empty", "holds no image files"),
            (tmp_path / "bad", r"none of its 1 image files can be read; .*a\.png is empty"),
            (tmp_path / "file.txt", "neither a folder nor a zip or tar"),
            (pictures / "a.png", "is a single image"),
        ):
            with pytest.raises(DataError, match=message):
                score_files(detector, path, progress=False)
