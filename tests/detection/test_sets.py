"""Sets of images: they open from paths, words and runs, and their scores follow the images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sivae.data.images import PackedImages, open_images
from sivae.detection import sets
from sivae.detection.detector import Detector
from sivae.detection.sets import open_set, score_set
from sivae.errors import ConfigError, DataError
from sivae.evaluation.ood import SCORES
from sivae.models import ConvVAE
from sivae.settings.data import DensityData, DigitsData, ImageData, ShapesData
from tests.detection.samples import DENSITY, pixels


def test_test_images_are_taken_where_there_are_some(tmp_path: Path) -> None:
    for part, count in (("train", 4), ("test", 2)):
        for index, image in enumerate(pixels(count)):
            (tmp_path / "set" / part).mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(tmp_path / "set" / part / f"{index}.png")
    assert len(open_set(tmp_path / "set").images) == 2
    assert len(open_set(tmp_path / "set", split="train").images) == 4
    np.save(tmp_path / "flat.npy", pixels(3))
    assert len(open_set(tmp_path / "flat.npy").images) == 3
    assert open_set(ImageData(path=str(tmp_path / "flat.npy"), resolution=8, channels=1, flip=False)).name == "flat.npy"


def test_the_word_digits_and_a_run_s_data_open_without_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert len(open_set("digits").images) == len(open_set(DigitsData(flip=False)).images) == 300
    assert len(open_set(ShapesData(resolution=8)).images) == 20 * 64
    (tmp_path / "digits").mkdir()
    Image.fromarray(pixels(1)[0]).save(tmp_path / "digits" / "a.png")
    assert len(open_set("digits").images) == 1  # a folder of that name comes first
    assert len(open_set(DigitsData(flip=False)).images) == 300


def test_a_path_without_images_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no such file or folder"):
        open_set(tmp_path / "nothing")
    with pytest.raises(DataError, match="holds no files"):
        open_set(tmp_path)
    with pytest.raises(ConfigError, match="is of points, not images"):
        open_set(DensityData(density="rings"))


def test_a_damaged_image_is_an_error_or_is_skipped(model: ConvVAE, pictures: Path) -> None:
    (pictures / "bad.png").write_bytes((pictures / "a.png").read_bytes()[:60])
    detector = Detector(model, DENSITY)
    with pytest.raises(DataError, match=r"bad\.png is damaged"):
        score_set(detector, open_set(pictures).images, 99, title="t", progress=False)
    kept = open_set(pictures, skip_damaged=True).images
    said: list[str] = []
    assert len(score_set(detector, kept, 99, title="t", progress=False, notice=said.append)["kl"]) == 4
    assert len(said) == 1 and said[0].startswith(f"{pictures.name}: damaged images left out: 1 (")
    for file in pictures.rglob("*.png"):
        file.write_bytes(b"x")
    with pytest.raises(DataError, match=r"none of its [0-9]+ images can be read"):
        score_set(detector, open_images(pictures, skip_damaged=True), 99, title="t", progress=False)


def test_a_score_belongs_to_the_image(model: ConvVAE, monkeypatch: pytest.MonkeyPatch) -> None:
    detector = Detector(model, DENSITY, samples=3)
    images = PackedImages(pixels(7))
    found = score_set(detector, images, 100, title="t", progress=False)
    assert list(found) == list(SCORES) and all(len(values) == 7 for values in found.values())
    backwards = PackedImages(pixels(7)[::-1].copy())
    monkeypatch.setattr(sets, "samples_at_once", lambda shape: 2)
    again = score_set(detector, backwards, 100, title="t", progress=False)
    for score in SCORES:
        # Another batch size may round a convolution otherwise, which is float32.
        assert np.allclose(again[score][::-1], found[score], rtol=1e-5)
    other = Detector(model, DENSITY, samples=3, seed=1).of_pixels(pixels(7))
    assert not np.isclose(other["likelihood"], found["likelihood"], rtol=1e-7).any()
    assert np.array_equal(other["kl"], found["kl"])


def test_scored_images_are_spread_over_the_set_and_get_the_model_s_shape(model: ConvVAE) -> None:
    grey = PackedImages(pixels(9, 16, 1))
    found = score_set(Detector(model, DENSITY), grey, 3, title="t", progress=False)
    detector = Detector(model, DENSITY)
    fitted = np.stack([detector.fitted(grey.picture(row), "x") for row in (0, 4, 8)])
    assert fitted.shape == (3, 8, 8, 3)
    assert np.array_equal(found["likelihood"], detector.of_pixels(fitted)["likelihood"])
