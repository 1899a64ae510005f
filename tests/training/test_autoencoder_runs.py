"""Runs of the model `autoencoder`: exact resume, every verb on the result, and what does not apply to it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import sivae
from sivae.errors import ConfigError
from sivae.models import AutoencoderVAE
from sivae.settings.presets import preset_config
from sivae.settings.run import RunConfig
from sivae.training.fitted_prior import fit_prior
from sivae.training.initial import InitialWeights
from sivae.training.run import train
from tests.cli.running import run
from tests.training.runs import assert_resumes_exactly, made_once, train_until

_TINY: dict[str, Any] = {
    "path": "digits",
    "resolution": 8,
    "channels": 1,
    "flip": False,
    "device": "cpu",
    "threads": 1,
    "seed": 3,
    "latent_channels": 2,
    "downsample": 4,
    "widths": (4, 8),
    "groups": 2,
    "steps": 8,
    "batch_size": 16,
    "log_every": 2,
    "checkpoint_every": 4,
    "sample_every": 8,
    "precision": "fp32",
}
_PIPELINE = {"scaling_factor": 0.18215, "shift_factor": 0.1, "force_upcast": False}
_VARIANTS: dict[str, dict[str, Any]] = {
    "soft-intro, averaged, in parts": {"ema_half_life": 40.0, "accumulate": 2, "prior_std": 0.5},
    "vae, mixture, bf16, checkpointed": {
        "objective": "vae",
        "prior": "mixture",
        "prior_components": 3,
        "precision": "bf16",
        "checkpoint_activations": True,
    },
}


def _config(**changes: Any) -> RunConfig:
    return preset_config("autoencoder-small", **{**_TINY, **changes})


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Runs without a stop, by variant."""
    return made_once(tmp_path_factory, lambda variant: _config(**_VARIANTS[variant]))


@pytest.mark.parametrize("variant", _VARIANTS)
def test_a_stopped_run_resumes_exactly(variant: str, whole: Callable[[str], Path], tmp_path: Path) -> None:
    assert_resumes_exactly(6, _config(**_VARIANTS[variant]), tmp_path / "run", whole(variant))


@pytest.mark.parametrize("variant", _VARIANTS)
def test_every_verb_takes_the_run(
    variant: str, whole: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, data = whole(variant), ("--data", "digits", "--count", 6)
    model = sivae.from_pretrained(folder)
    assert model.latent_shape == (2, 2, 2) and model.sample_shape == (1, 8, 8)
    for words in (
        ("sample", folder, "--count", 4, "--out", tmp_path / "samples.png"),
        ("interpolate", folder, "--seeds", 1, 2, "--out", tmp_path / "path.png", "--gif", tmp_path / "path.gif"),
        ("reconstruct", folder, *data, "--out", tmp_path / "again.png"),
        ("ood", folder, "--against", "digits", "--count", 6, "--k", 2),
        ("evaluate", folder),
        ("encode", folder, "digits", "--split", "test", "--out", tmp_path / "latents"),
        ("fit-prior", folder, "--components", 2, "--count", 50, "--out", tmp_path / "model"),
        ("sample", tmp_path / "model", "--count", 4),
    ):
        code, printed, err = run(capsys, *words)
        assert code == 0, (words, printed, err)
    assert {file.name for file in tmp_path.iterdir()} == {
        *("samples.png", "path.png", "path.gif", "again.png", "latents", "model", "model-samples-seed0.png")
    }


def test_every_verb_takes_a_folder_of_diffusers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "vae"
    AutoencoderVAE(8, 1, (4, 8), 2, layers=1, groups=2).save_pretrained(folder)
    for words in (
        ("sample", folder, "--count", 4),
        ("interpolate", folder, "--seeds", 1, 2),
        ("reconstruct", folder, "--data", "digits", "--count", 6),
        ("ood", folder, "--in", "digits", "--against", "digits", "--count", 6, "--by", "kl"),
        ("encode", folder, "digits", "--split", "test"),
    ):
        code, printed, err = run(capsys, *words)
        assert code == 0, (words, printed, err)
    assert {file.name for file in folder.iterdir()} == {"config.json", "diffusion_pytorch_model.safetensors"}
    assert {file.name for file in tmp_path.iterdir()} == {
        *("vae", "vae-samples-seed0.png", "vae-interpolation-seeds1-2.png", "vae-reconstructions.png", "vae-ood"),
        "vae-latents-test",
    }
    code, _, err = run(capsys, "evaluate", folder)
    assert code == 2 and "holds a model of diffusers, and is not a run's folder" in err


def test_a_plain_vae_has_the_small_weight_of_published_autoencoders() -> None:
    assert _config(objective="vae").objective.beta_kl == 1e-6
    assert _config().objective.beta_kl == 0.1


@pytest.mark.parametrize(
    ("changes", "widths", "side"),
    [({}, [4, 8, 8], 2), ({"downsample": 1, "widths": (6,)}, [6], 8), ({"downsample": 8}, [4, 8, 8, 8], 1)],
)
def test_the_last_width_is_that_of_all_further_resolutions(
    changes: dict[str, Any], widths: list[int], side: int
) -> None:
    model = _config(**changes).model.build(image_size=8, channels=1)
    assert model.hyperparameters["widths"] == widths
    assert model.latent_shape == (2, side, side)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"growth": "grow"}, "this preset's model does not grow"),
        ({"kind": "bce"}, "expected one of mse, l1, gaussian; the model 'autoencoder' has no sigmoid"),
        ({"conditional": True}, "conditional = True: it has no effect with the model 'autoencoder'"),
        ({"z_dim": 4}, "z_dim = 4: it has no effect with the model 'autoencoder'"),
        ({"downsample": 3}, "downsample = 3: it must be one of 1, 2, 4"),
        ({"downsample": 2, "widths": (4, 8, 8)}, r"widths = \[4, 8, 8\]: downsample = 2 makes 2 resolutions, expected"),
        ({"layers": 100}, "layers = 100: it must be from 1 to 16"),
        ({"attention_stages": (-1,)}, r"attention_stages = \(-1,\): it must be numbers from 0"),
    ],
)
def test_settings_that_do_not_apply(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        _config(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resolution": 10}, "image_size is 10, expected a multiple of 4"),
        ({"groups": 3}, "groups is 3, which does not divide the width 4"),
        ({"attention_stages": (3,)}, r"attention_stages is \(3,\), expected different numbers from 0 to 2"),
    ],
)
def test_settings_that_do_not_fit_are_refused_before_anything_is_written(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        train(_config(**changes), tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


@pytest.mark.filterwarnings("ignore:.*the learned prior is left out")
def test_a_folder_of_diffusers_is_fine_tuned_with_a_frozen_encoder(tmp_path: Path) -> None:
    torch.manual_seed(0)
    first = AutoencoderVAE(image_size=32, channels=1, widths=(4, 8, 8), latent_channels=2, layers=1, groups=2)
    first.take_carried({"pipeline": _PIPELINE})
    first.save_pretrained(tmp_path / "vae")
    config = _config(init_from=str(tmp_path / "vae"), freeze="encoder", objective="vae", ema_half_life=40.0)
    model = config.model.build(image_size=8, channels=1)
    words = InitialWeights.read(str(tmp_path / "vae")).load_into(model)
    assert "layers taken" in words and "new here" not in words and "only there" not in words
    train_until(6, config, tmp_path / "run")
    shutil.rmtree(tmp_path / "vae")  # a resumed run needs it no more
    train(None, tmp_path / "run", resume=True, progress=False)
    after = sivae.from_pretrained(tmp_path / "run", averaged=False)
    assert isinstance(after, AutoencoderVAE)
    for name, tensor in first.state_dict().items():
        assert torch.equal(after.state_dict()[name], tensor) == name.startswith("encoder."), name
    for tuned in (after, fit_prior(tmp_path / "run", components=1, count=20).model):
        assert isinstance(tuned, AutoencoderVAE)
        tuned.save_pretrained(tmp_path / "tuned")
        written = json.loads((tmp_path / "tuned" / "config.json").read_text())
        assert {key: written[key] for key in _PIPELINE} == _PIPELINE
        assert written["sample_size"] == 8


def test_settings_of_pipelines_come_with_a_whole_encoder_alone() -> None:
    source = _config().model.build(image_size=8, channels=1)
    source.take_carried({"pipeline": _PIPELINE})
    for same in (True, False):
        model = _config(**({} if same else {"latent_channels": 3})).model.build(image_size=8, channels=1)
        words = InitialWeights("there", source).load_into(model)
        assert model.hyperparameters.get("pipeline") == (_PIPELINE if same else None)
        assert ("pipeline kept, and may not fit its latents for long, as the encoder trains" in words) == same


def test_a_run_has_the_networks_of_the_folder_of_diffusers_that_it_starts_from(tmp_path: Path) -> None:
    folder = str(tmp_path / "vae")
    AutoencoderVAE(16, 3, (6, 12), 5, layers=2, groups=3, attention=False, quant_convs=False).save_pretrained(folder)
    for preset in ("autoencoder-small", "autoencoder-f8"):
        config = preset_config(preset, init_from=folder, attention_stages=(1,))
        model = config.model.build(image_size=8, channels=3)
        assert model.hyperparameters == {
            "image_size": 8,
            "channels": 3,
            "widths": [6, 12],
            "latent_channels": 5,
            "layers": 2,
            "groups": 3,
            "attention": False,
            "attention_stages": [1],  # was asked for
            "quant_convs": False,
        }
    (tmp_path / "vae" / "config.json").write_text("{")
    with pytest.raises(ConfigError, match=r"init_from: .*config.json is damaged"):
        preset_config("autoencoder-f8", init_from=folder)
