"""Detectors: their scores, the images and models that they accept, and the density that they use."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from sivae.detection.detector import Detector, density_of
from sivae.errors import ConfigError
from sivae.evaluation.likelihood import PixelDensity
from sivae.models import MLPVAE, ConvVAE
from sivae.objectives import SoftIntroObjective, VAEObjective
from tests.detection.samples import DENSITY, pixels


def test_kl_spares_the_decoder(model: ConvVAE, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Detector(model, DENSITY).of_pixels(pixels(3))

    def refuse(z: torch.Tensor, condition: object = None) -> torch.Tensor:
        raise AssertionError("decoded")

    monkeypatch.setattr(model, "decode", refuse)
    found = Detector(model, DENSITY, "kl").of_pixels(pixels(3))
    assert list(found) == ["kl"] and np.array_equal(found["kl"], whole["kl"])


def test_models_and_settings_that_do_not_fit_are_refused(model: ConvVAE) -> None:
    with pytest.raises(ConfigError, match="makes points, not images"):
        Detector(MLPVAE(hidden=4), DENSITY)
    with pytest.raises(ConfigError, match="conditional on 3 classes"):
        Detector(ConvVAE(image_size=8, channels=1, widths=(8,), z_dim=4, condition_dim=3), DENSITY)
    with pytest.raises(ConfigError, match="score = 'fid': expected one of kl, elbo, likelihood"):
        Detector(model, DENSITY, "fid")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="samples = 0"):
        Detector(model, DENSITY, samples=0)


def test_the_digest_is_of_the_weights(model: ConvVAE) -> None:
    torch.manual_seed(0)
    same = ConvVAE(image_size=8, channels=3, widths=(8,), z_dim=4)
    assert Detector(same, DENSITY).digest() == Detector(model, DENSITY).digest()
    with torch.no_grad():
        next(same.parameters()).view(-1)[0] += 1
    assert Detector(same, DENSITY).digest() != Detector(model, DENSITY).digest()


def test_the_density_is_that_of_the_training_unless_the_arguments_say_otherwise() -> None:
    objective = SoftIntroObjective(beta_rec=2.0, beta_kl=0.5)
    assert density_of(objective) == PixelDensity(4.0)
    assert density_of(objective, beta_kl=1.0) == PixelDensity(2.0)
    assert density_of(objective, sigma=0.5) == PixelDensity(2.0)
    assert density_of(VAEObjective(beta_rec=1.0, beta_kl=0.5, kind="l1")) == PixelDensity(2.0, "l1")


def test_assumed_weights_are_reported() -> None:
    notices: list[str] = []
    assert density_of(None, notice=notices.append) == PixelDensity(1.0)
    assert density_of(None, beta_rec=3.0, notice=notices.append) == PixelDensity(3.0)
    assert "assuming beta_rec = 1 and beta_kl = 1" in notices[0] and "assuming beta_kl = 1" in notices[1]
    assert density_of(None, beta_rec=3.0, beta_kl=1.0, notice=notices.append) == PixelDensity(3.0)
    assert len(notices) == 2


def test_weights_that_make_no_density_are_refused() -> None:
    with pytest.raises(ConfigError, match="sigma replaces beta_rec and beta_kl"):
        density_of(None, sigma=1.0, beta_rec=1.0)
    with pytest.raises(ConfigError, match=r"beta_kl is 0\.0, .* choose its width by sigma"):
        density_of(VAEObjective(beta_rec=1.0, beta_kl=0.0))
    with pytest.raises(ConfigError, match="sigma is nan"):
        density_of(None, sigma=math.nan)
