"""The comparison of Soft-IntroVAE and a VAE on images: its trainings, and what its page says of them."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from PIL import Image

from sivae.errors import FeaturesError
from sivae.reproduce import image_methods
from sivae.reproduce.experiment import Settings, Trained
from sivae.settings.run import RunConfig
from sivae.training.folder import read_summary
from sivae.training.run import train

_TINY = {
    "widths": (4,),
    "z_dim": 2,
    "resolution": 8,
    "batch_size": 16,
    "precision": "fp32",
    "log_every": 1,
    "checkpoint_every": 1,
}


SETTINGS = Settings(data="digits", steps=2, device="cpu", changes=_TINY)


def trained(out: Path) -> dict[str, Trained]:
    runs = {}
    for one in image_methods.trainings(SETTINGS):
        folder = out / "runs" / one.name
        train(one.config, folder, progress=False)
        config = RunConfig.read(folder / "config.json")
        runs[one.name] = Trained(one.name, config, folder, read_summary(folder), divergence=None, went_back=False)
    return runs


def test_both_methods_are_measured_drawn_and_classified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = trained(tmp_path)
    assert list(runs) == ["vae-seed0", "soft-intro-seed0"]
    assert [run.config.objective.name for run in runs.values()] == ["vae", "soft-intro"]

    def not_installed(*_: object, **__: object) -> dict[str, float]:
        raise FeaturesError("the weights of EfficientNet-Lite0 are not installed")

    monkeypatch.setattr("sivae.evaluation.against.compare_samples", not_installed)
    report = image_methods.report(SETTINGS, runs, tmp_path)
    text = "\n".join(body for _, body in report.sections)
    assert "2 iterations of batch 16" in report.about and "on digits" in report.about
    assert "KID |" not in text and "not installed" in text
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert min(sheet.size) > 300
    for method in ("vae", "soft-intro"):
        (values,) = report.numbers[method]
        assert values["mse"] == runs[f"{method}-seed0"].metric("mse")
        assert math.isclose(sum(values["shares"]), 1.0) and values["rarest_class"] == min(values["shares"])
        assert 0.1 <= values["sure_of_samples"] <= 1.0
    accuracy = float(text.split("finds the class of ")[1].split("%")[0])
    assert accuracy > 85  # guessing finds a tenth


def test_kid_is_measured_during_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_methods, "_PASSES", 1)  # of the classifier, which is not looked at here
    values = iter(range(1, 9))
    monkeypatch.setattr(
        "sivae.evaluation.against.compare_samples", lambda *_, **__: {"kid_effnet_lite0": 0.5 / next(values)}
    )
    runs = trained(tmp_path)
    report = image_methods.report(SETTINGS, runs, tmp_path)
    assert report.figures == ["sheet.png", "kid.png"]
    # At the end, and at the checkpoint before it: that of the end is not measured again.
    for method, kids in (("vae", [0.25, 0.5]), ("soft-intro", [0.125, 0.5 / 3])):
        (found,) = report.numbers[method]
        assert found["kid_effnet_lite0"] == kids[-1]
        assert [(one["step"], one["kid"]) for one in found["progress"]] == list(zip((1, 2), kids, strict=True))
    assert "| KID |" in "".join(body for _, body in report.sections)
    with Image.open(tmp_path / "kid.png") as picture:
        assert min(picture.size) > 300
