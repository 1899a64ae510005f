"""A mixture that is fitted to the latents of a run, as the prior of its model."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from sivae.data import get_density
from sivae.data.images import open_images
from sivae.data.images.base import spread
from sivae.errors import ConfigError
from sivae.models import AutoencoderVAE, StyleVAE
from sivae.models.pixels import from_uint8
from sivae.models.priors import MixturePrior
from sivae.models.storage import save_model
from sivae.pretrained import from_pretrained
from sivae.settings.presets import preset_config
from sivae.training import fitted_prior
from sivae.training.fitted_prior import fit_prior
from sivae.training.run import train
from sivae.training.tasks.points import PointsTask
from tests.cli.running import run


@pytest.fixture
def points(tmp_path: Path, no_pictures: None, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a run on points, too short to have learned anything."""
    monkeypatch.setattr(PointsTask, "evaluate", lambda *_: {"nothing": 1.0})
    short = {"steps": 1, "hidden": 8, "layers": 1, "batch_size": 64, "threads": 1, "prior_std": 2.0}
    train(preset_config("8gaussians", **short), tmp_path / "run", progress=False)
    return tmp_path / "run"


def test_one_gaussian_has_the_mean_and_the_variance_of_the_latents(points: Path) -> None:
    found = fit_prior(points, components=1, count=20_000)
    assert (found.step, found.fitted, found.measured) == (1, 18_000, 2_000)
    before = from_pretrained(points)
    x = get_density("8gaussians").sample(200_000)
    with torch.no_grad():
        mu, logvar = before.encode(x)
    variance = mu.var(0) + logvar.exp().mean(0)  # of draws from the posteriors
    prior = found.model.prior
    assert isinstance(prior, MixturePrior)
    # Five standard deviations of a mean and of a variance of 18,000 values, which are nearly normal.
    assert ((prior.mu[0] - mu.mean(0)).abs() < 5 * (variance / 18_000).sqrt()).all()
    assert ((prior.logvar[0] - variance.log()).abs() < 5 * (2 / 18_000) ** 0.5).all()
    assert found.log_prob > found.log_prob_before
    for name, tensor in before.state_dict().items():
        assert torch.equal(found.model.state_dict()[name], tensor)
    assert found.model.prior_std == 2.0


def test_the_fit_is_a_function_of_the_seed(points: Path) -> None:
    first, again, other = (
        fit_prior(points, components=4, count=500, seed=seed).model.state_dict() for seed in (1, 1, 2)
    )
    assert all(torch.equal(tensor, again[name]) for name, tensor in first.items())
    assert not torch.equal(first["prior.mu"], other["prior.mu"])


def test_a_fitted_prior_can_be_fitted_again(points: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "fit-prior", points, "--components", 3, "--count", 100, "--out", tmp_path / "model")
    assert code == 0 and str(tmp_path / "model") in out and "10 other latents" in out
    assert len(from_pretrained(tmp_path / "model").prior.logits) == 3
    assert from_pretrained(tmp_path / "model").sample(5).isfinite().all()
    code, *_ = run(capsys, "fit-prior", points, "--components", 2, "--count", 100, "--out", tmp_path / "model")
    assert code == 0 and len(from_pretrained(tmp_path / "model").prior.logits) == 2


def test_what_cannot_be_fitted_is_named(points: Path) -> None:
    with pytest.raises(ConfigError, match="components = 91: expected no more than the 90 latents"):
        fit_prior(points, components=91, count=100)
    with pytest.raises(ConfigError, match="components = 0: expected 1 to 10,000"):
        fit_prior(points, components=0)
    with pytest.raises(ConfigError, match="count = 2: expected 3 samples or more"):
        fit_prior(points, count=2, components=1)


def test_one_of_a_few_latents_is_held_out(points: Path) -> None:
    for count in (3, 5, 10, 19, 20):
        found = fit_prior(points, components=1, count=count)
        assert (found.fitted, found.measured) == (count - max(1, count // 10), max(1, count // 10))
        assert math.isfinite(found.log_prob) and math.isfinite(found.log_prob_before)


def test_a_fit_that_does_not_fit_into_memory_is_refused_before_anything_is_encoded(
    points: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fitted_prior, "available_memory", lambda: 4 * (2 * (3 * 500 + 6 * 4) + 6 * 500 * 4))
    fit_prior(points, components=4, count=500)
    monkeypatch.setattr(PointsTask, "batch", None)
    with pytest.raises(
        ConfigError, match=r"latents of 2 values takes 60.3 kB, more than the 60.2 kB free; give a small"
    ):
        fit_prior(points, components=4, count=501)


def test_variances_far_from_0_are_exact_in_float32() -> None:
    """Without centering the difference of squares of 1e4 would err by 10, relative to a variance of 1."""
    latents = torch.randn(400, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 1e4
    prior = fitted_prior._fitted(latents.float().numpy(), 1, 0)
    # Values of 1e4 are multiples of 2^-10 in float32, and scikit-learn adds 1e-6.
    torch.testing.assert_close(prior.logvar[0].double().exp(), latents.var(0, correction=0), rtol=2**-9, atol=1e-6)


def test_a_folder_that_cannot_be_written_is_refused_before_the_fit(
    points: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fitted_prior, "fit_prior", None)
    code, _, err = run(capsys, "fit-prior", points, "--out", points)
    assert code == 1 and "holds other files than a model's; choose another folder" in err


def test_a_fit_that_makes_the_prior_worse_is_not_recommended(points: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "fit-prior", points, "--components", 9, "--count", 10)  # a Gaussian for each latent
    assert code == 0 and "fits worse than the prior before; give fewer --components, or a larger --count" in err


def test_a_run_without_the_files_of_its_loss_can_be_fitted(tmp_path: Path, no_pictures: None) -> None:
    small = {"steps": 1, "widths": (4,), "z_dim": 3, "precision": "fp32", "threads": 1}
    train(preset_config("digits", **small), tmp_path / "run", progress=False)
    config = tmp_path / "run" / "config.json"
    content = json.loads(config.read_text())
    content["objective"] |= {"perceptual": str(tmp_path / "gone.pth"), "kind": None}
    config.write_text(json.dumps(content))
    assert fit_prior(tmp_path / "run", components=1, count=20).measured == 2


def test_a_model_of_images_samples_its_fitted_prior(
    tmp_path: Path, no_pictures: None, capsys: pytest.CaptureFixture[str]
) -> None:
    small = {"steps": 1, "widths": (4,), "z_dim": 3, "precision": "fp32", "threads": 1}
    train(preset_config("digits", **small), tmp_path / "run", progress=False)
    code, out, err = run(capsys, "fit-prior", tmp_path / "run", "--components", 2, "--count", 50)
    assert code == 0 and out.splitlines()[-1] == str(tmp_path / "run" / "fitted-prior")
    assert "next: sivae sample" in err
    code, out, _ = run(capsys, "sample", tmp_path / "run" / "fitted-prior", "--count", 4)
    assert code == 0 and Path(out.strip()).is_file()


def test_a_folder_of_diffusers_gets_a_prior_of_a_data_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    vae = tmp_path / "vae"
    torch.manual_seed(0)
    AutoencoderVAE(8, 1, (4, 8), 2, layers=1, groups=2).save_pretrained(vae)
    code, _, err = run(capsys, "fit-prior", vae)
    assert code == 2 and "is a model without training samples; name images to encode by --data PATH" in err
    code, out, err = run(capsys, "fit-prior", vae, "--data", "digits", "--components", 2, "--count", 50)
    assert code == 0, err
    assert "log density of 5 other latents" in out and out.splitlines()[-1] == str(tmp_path / "vae-fitted-prior")
    model, before = from_pretrained(tmp_path / "vae-fitted-prior"), from_pretrained(vae)
    assert len(model.prior.logits) == 2
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in before.state_dict().items())
    images = open_images("digits")  # its part train, as the help says
    pixels = torch.from_numpy(np.stack([images.read_square(row, 8, 1) for row in spread(len(images), 50)]))
    with torch.no_grad():
        mu, logvar = (one.flatten(1) for one in before.encode(from_uint8(pixels, (-1.0, 1.0))))
    weights = model.prior.logits.detach().softmax(0)
    mean = (weights[:, None] * model.prior.mu.detach()).sum(0)
    # Six standard deviations of a mean of 45 draws, in 32 values.
    assert ((mean - mu.mean(0)).abs() < 6 * (mu.var(0) + logvar.exp().mean(0)).div(45).sqrt()).all()


def test_a_model_of_styles_is_refused_with_data_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_model(tmp_path / "model", StyleVAE(8, 1, z_dim=4, start_channels=4, max_channels=4, mapping_layers=1))
    code, _, err = run(capsys, "fit-prior", tmp_path / "model", "--data", "digits")
    assert code == 2 and "'style' has the standard prior alone" in err


def test_a_model_with_the_standard_prior_alone_is_refused(tmp_path: Path) -> None:
    config = preset_config("translation-shapes", steps=1)
    (tmp_path / "config.json").write_text(config.to_json())
    with pytest.raises(ConfigError, match="'translation' has the standard prior alone"):
        fit_prior(tmp_path)
