"""Test the standard deviation of the prior, of every model: the networks work in units in which it is not 1."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from sivae.models import VAEModel, build_model
from sivae.models.storage import load_model, save_model
from sivae.settings.presets import preset_config
from sivae.settings.run import RunConfig

SMALL: dict[str, dict[str, Any]] = {
    "mlp": {"hidden": 8, "layers": 1},
    "conv": {"image_size": 8, "channels": 1, "widths": [4, 4], "z_dim": 3, "norm": "none"},
    "style": {"image_size": 8, "channels": 1, "start_channels": 4, "max_channels": 8, "z_dim": 3, "mapping_layers": 1},
    "translation": {"image_size": 8, "channels": 1, "content_dim": 3, "class_dim": 2, "width": 2, "hidden": 4},
    "pointnet": {"points": 5, "z_dim": 3, "widths": [4], "hidden": 4, "decoder_widths": [4], "norm": "none"},
    "autoencoder": {"image_size": 4, "channels": 1, "widths": [2, 4], "latent_channels": 2, "layers": 1, "groups": 2},
}


def pair(name: str, std: float) -> tuple[VAEModel, VAEModel]:
    """A model with a prior of N(0, 1), and one of the same weights and another prior."""
    plain, other = build_model(name, **SMALL[name], prior_std=1.0), build_model(name, **SMALL[name], prior_std=std)
    other.load_state_dict(plain.state_dict())
    return plain.eval(), other.eval()


@pytest.mark.parametrize("name", SMALL)
def test_the_networks_see_other_units(name):
    """z is in units of the prior: posteriors are divided by its standard deviation, latents multiplied by it."""
    plain, other = pair(name, 0.25)
    x = torch.rand(4, *plain.sample_shape)
    (mu, logvar), (scaled_mu, scaled_logvar) = plain.encode(x), other.encode(x)
    assert torch.equal(scaled_mu, mu / 0.25)
    torch.testing.assert_close(scaled_logvar, logvar + 2 * math.log(4))
    z = torch.randn(4, *plain.latent_shape)
    assert torch.equal(other.render(z), plain.render(z * 0.25))


@pytest.mark.parametrize("name", SMALL)
def test_a_model_folder_keeps_it(name, tmp_path):
    _, model = pair(name, 0.25)
    save_model(tmp_path, model)
    z = torch.randn(2, *model.latent_shape)
    assert torch.equal(load_model(tmp_path).eval().render(z), model.render(z))


@pytest.mark.parametrize("name", [name for name in SMALL if name != "pointnet"])
def test_a_prior_of_1_is_described_as_before_there_was_a_choice(name):
    assert "prior_std" not in build_model(name, **SMALL[name]).hyperparameters


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("std", [0.0, -1.0, math.inf, math.nan, "1"])
def test_wrong_values(name, std):
    message = f"prior_std is {std!r}, expected a finite number above 0"
    with pytest.raises(ValueError, match=message):
        build_model(name, **SMALL[name], prior_std=std)


@pytest.mark.parametrize("preset", ["8gaussians", "cifar10"])
def test_runs_have_it_as_a_setting(preset):
    config = preset_config(preset, prior_std=0.5)
    assert RunConfig.from_json(config.to_json()).model.prior_std == 0.5
    sample = {"data_dim": 2} if preset == "8gaussians" else {"image_size": 32, "channels": 3}
    assert config.model.build(**sample).prior_std == 0.5
