"""Folders of diffusers' `AutoencoderKL` are read and written; a damaged or another one is an error with a reason.

With diffusers installed, its own class writes the folders that are read, and opens those that are written.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

import sivae
from sivae.errors import ModelFileError
from sivae.models import AutoencoderVAE
from sivae.models.autoencoder import PIPELINE_KEYS
from sivae.models.diffusers_folder import CONFIG, WEIGHTS, is_folder
from sivae.models.storage import load_model, save_model
from tests.models.diffusers_layouts import SMALL, inputs, weights
from tests.models.diffusers_samples import RECORD, folder_of, write_weights
from tests.models.test_autoencoder import tiny

needs_diffusers = pytest.mark.skipif(
    importlib.util.find_spec("diffusers") is None, reason="diffusers is not installed, whose class opens the folders"
)
# Two orders of summation in some 50 layers, by dtype, relative to the output. In float32 with torch's random weights:
# those of the formula have groups of a small variance, which amplify the rounding of either program.
AGREE = {torch.float32: 1e-5, torch.float64: 1e-12}


def opened_by_diffusers(folder: Path) -> Any:
    from diffusers import AutoencoderKL

    model, found = AutoencoderKL.from_pretrained(folder, output_loading_info=True, local_files_only=True)
    assert not any(found.values()), found  # missing, unexpected or mismatched
    return model.eval()


def assert_agree(mine: AutoencoderVAE, theirs: Any, name: str, dtype: torch.dtype) -> None:
    mine, theirs = mine.to(dtype), theirs.to(dtype)
    x, z = (tensor.to(dtype) for tensor in inputs(SMALL[name]))
    with torch.no_grad():
        posterior, (mu, logvar) = theirs.encode(x).latent_dist, mine.encode(x)
        pairs = [(mu, posterior.mean), (logvar, posterior.logvar), (mine.decode(z), theirs.decode(z).sample)]
    for one, other in pairs:
        assert (one - other).norm() <= AGREE[dtype] * other.norm()


def with_weights(model: nn.Module, dtype: torch.dtype) -> None:
    """Give a model of float32 torch's random weights, and leave one of float64 those of the formula."""
    torch.manual_seed(0)
    for module in model.modules() if dtype == torch.float32 else ():
        if isinstance(module, nn.Conv2d | nn.Linear | nn.GroupNorm):
            module.reset_parameters()


@needs_diffusers
@pytest.mark.parametrize("dtype", AGREE)
@pytest.mark.parametrize("name", SMALL)
def test_a_folder_of_diffusers_has_its_outputs(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    from diffusers import AutoencoderKL

    theirs = AutoencoderKL(**SMALL[name]).eval()
    theirs.load_state_dict(weights(RECORD[name]["shapes"]))
    with_weights(theirs, dtype)
    theirs.save_pretrained(tmp_path / "theirs")
    assert_agree(sivae.from_pretrained(tmp_path / "theirs"), theirs, name, dtype)


@needs_diffusers
@pytest.mark.parametrize("dtype", AGREE)
@pytest.mark.parametrize("name", SMALL)
def test_diffusers_opens_a_written_folder(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    model = sivae.from_pretrained(folder_of(name, tmp_path / "first"))
    with_weights(model, dtype)
    model.save_pretrained(tmp_path / "again")
    theirs = opened_by_diffusers(tmp_path / "again")
    assert_agree(model, theirs, name, dtype)
    assert {key: theirs.config[key] for key in SMALL[name]} == SMALL[name]


@pytest.mark.parametrize("name", SMALL)
def test_a_written_folder_is_the_one_that_was_read(name: str, tmp_path: Path) -> None:
    pipeline = {"scaling_factor": 0.13025, "shift_factor": 0.1, "force_upcast": False}
    folder = folder_of(name, tmp_path / "first", **pipeline)
    model = sivae.from_pretrained(folder)
    assert isinstance(model, AutoencoderVAE) and not model.training
    assert model.hyperparameters["pipeline"] == pipeline
    model.save_pretrained(tmp_path / "again")
    before, after = (json.loads((path / CONFIG).read_text()) for path in (folder, tmp_path / "again"))
    assert after | before == after | {"_diffusers_version": before["_diffusers_version"]}
    first, again = (load_file(path / WEIGHTS) for path in (folder, tmp_path / "again"))
    assert {key: list(value.shape) for key, value in again.items()} == RECORD[name]["shapes"]
    assert all(torch.equal(again[key], value) for key, value in first.items())
    with safe_open(tmp_path / "again" / WEIGHTS, "pt") as file:
        assert file.metadata() == {"format": "pt"}  # as other programs expect
    save_model(tmp_path / "model", model)  # a folder of sivae keeps the same
    assert load_model(tmp_path / "model").hyperparameters == model.hyperparameters


def test_a_config_without_settings_of_pipelines_has_those_of_diffusers(tmp_path: Path) -> None:
    model = sivae.from_pretrained(folder_of("f4", tmp_path / "first"))
    model.save_pretrained(tmp_path / "again")
    written = json.loads((tmp_path / "again" / CONFIG).read_text())
    assert (written["scaling_factor"], written["force_upcast"]) == (0.18215, True)
    assert not {"shift_factor", "latents_mean", "latents_std"} & set(written)


@needs_diffusers
def test_diffusers_has_the_same_settings_of_pipelines_before_and_after(tmp_path: Path) -> None:
    before = opened_by_diffusers(folder_of("f4", tmp_path / "first")).config
    sivae.from_pretrained(tmp_path / "first").save_pretrained(tmp_path / "again")
    after = opened_by_diffusers(tmp_path / "again").config
    assert {key: after[key] for key in PIPELINE_KEYS} == {key: before[key] for key in PIPELINE_KEYS}


def test_the_scaling_factor_is_that_of_the_prior(tmp_path: Path) -> None:
    model = tiny(prior_std=4.0, prior="mixture", pipeline={"scaling_factor": 0.5, "shift_factor": 0.1})
    with pytest.warns(UserWarning, match="folder: the learned prior is left out"):
        model.save_pretrained(tmp_path / "folder")
    written = json.loads((tmp_path / "folder" / CONFIG).read_text())
    assert written["scaling_factor"] == 0.25 and "shift_factor" not in written  # it would be in other units
    again = sivae.from_pretrained(tmp_path / "folder")
    assert again.prior is None
    x = torch.rand(1, 1, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(again.eval().encode(x)[0], 4.0 * model.eval().encode(x)[0])


def test_weights_in_half_precision_and_with_earlier_names_are_read(tmp_path: Path) -> None:
    earlier = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    folder = folder_of("f16", tmp_path / "folder")
    tensors = {}
    for name, tensor in weights(RECORD["f16"]["shapes"]).items():
        for now, then in earlier.items():
            name = name.replace(f".{now}.", f".{then}.")
        tensors[name] = tensor.half()
    assert sum(name.endswith(".query.weight") for name in tensors) == 2 + 2 + 3
    write_weights(folder, tensors)
    model = sivae.from_pretrained(folder)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    layer = model.decoder.mid_block.attentions[0].to_out[0]
    assert torch.equal(layer.weight, tensors["decoder.mid_block.attentions.0.proj_attn.weight"].float())


def test_a_folder_with_other_files_is_not_replaced(tmp_path: Path) -> None:
    model = tiny()
    model.save_pretrained(tmp_path / "folder")
    tiny(1).save_pretrained(tmp_path / "folder")  # a model alone is
    assert not torch.equal(
        sivae.from_pretrained(tmp_path / "folder").encoder.conv_in.weight, model.encoder.conv_in.weight
    )
    (tmp_path / "folder" / "notes.txt").write_text("mine")
    with pytest.raises(ModelFileError, match=r"folder holds other files than config.json and .*; choose another"):
        model.save_pretrained(tmp_path / "folder")
    assert (tmp_path / "folder" / "notes.txt").read_text() == "mine" and is_folder(tmp_path / "folder")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"_class_name": "VQModel"}, "config.json: _class_name is 'VQModel', expected 'AutoencoderKL'"),
        ({"_class_name": None}, "config.json: _class_name is None, expected 'AutoencoderKL'"),
        ({"act_fn": "relu"}, "act_fn is 'relu', expected 'silu'"),
        ({"out_channels": 4}, "out_channels is 4, expected 3"),
        ({"use_post_quant_conv": False}, "use_post_quant_conv is False, expected True"),
        ({"down_block_types": ["DownEncoderBlock2D"] * 2}, "down_block_types and up_block_types are .* 3 widths"),
        ({"up_block_types": ["AttnUpDecoderBlock2D"] * 3}, "down_block_types and up_block_types are"),
        ({"block_out_channels": "wide"}, "config.json is damaged: block_out_channels"),
        ({"block_out_channels": [8, 16, 33]}, "groups is 4, which does not divide the width 33"),
        ({"block_out_channels": [8, 16, 64]}, r"has shape \[.*\], expected \[.*\]"),
        ({"scaling_factor": "abc"}, 'config.json is damaged: scaling_factor = "abc": expected a finite number; fetch'),
        ({"scaling_factor": 0.0}, "scaling_factor = 0.0: it must be more than 0"),
        ({"latents_mean": [0.1, "b"]}, 'latents_mean = "b": expected a finite number'),
        ({"force_upcast": 1}, "force_upcast = 1: expected true or false"),
        ({"sample_size": [16, 32]}, r"sample_size is \[16, 32\], expected the side of square images"),
        ({"sample_size": "x"}, "sample_size is x, expected the side of square images"),
        ({"sample_size": 10**9}, "image_size is 1000000000, expected at most"),
        ({"layers_per_block": 10**9}, "layers is 1000000000, expected at most 16"),
        ({"layers_per_block": 3}, "lacks .*; it is damaged, or belongs to another model"),
        ({"mid_block_add_attention": False}, "holds .*attentions.*, which this model does not have"),
    ],
)
def test_folders_of_another_architecture(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=message):
        sivae.from_pretrained(folder_of("f4", tmp_path, **changes))


@pytest.mark.parametrize(("size", "side"), [([32, 32], 32), (17, 16), (2, 4), (512, 512)])
def test_the_images_have_the_sample_size_as_far_as_the_networks_take_it(size: Any, side: int, tmp_path: Path) -> None:
    assert sivae.from_pretrained(folder_of("f4", tmp_path, sample_size=size)).sample_shape == (3, side, side)


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    folder = folder_of("f4", tmp_path)
    tensors = weights(RECORD["f4"]["shapes"])
    tensors["quant_conv.bias"][0] = torch.nan
    write_weights(folder, tensors)
    with pytest.raises(ModelFileError, match=r"safetensors: quant_conv.bias has values that are not finite; fetch"):
        sivae.from_pretrained(folder)


def test_settings_of_pipelines_in_code_are_checked() -> None:
    with pytest.raises(ValueError, match=r'AutoencoderVAE: pipeline.scaling_factor = "abc": expected a finite number'):
        tiny(pipeline={"scaling_factor": "abc"})


def test_unknown_keys_are_announced_and_ignored_as_diffusers_does(tmp_path: Path) -> None:
    folder = folder_of("f4", tmp_path, norm_type="layer", double_z=False, _name_or_path="somewhere")
    with pytest.warns(UserWarning, match="config.json: norm_type, double_z is not known to diffusers' AutoencoderKL"):
        sivae.from_pretrained(folder)


def test_folders_without_a_readable_model(tmp_path: Path) -> None:
    (tmp_path / "pipeline").mkdir()
    folder = folder_of("f4", tmp_path / "pipeline" / "vae")
    with pytest.raises(ModelFileError, match=r"is a pipeline of diffusers; name the folder of its autoencoder, .*vae"):
        sivae.from_pretrained(folder.parent)
    (folder / WEIGHTS).write_bytes(b"short")
    with pytest.raises(ModelFileError, match=r"diffusion_pytorch_model.safetensors cannot be read .* fetch the folder"):
        sivae.from_pretrained(folder)
    (folder / WEIGHTS).rename(folder / "diffusion_pytorch_model.bin")
    with pytest.raises(ModelFileError, match=r"has its weights in diffusion_pytorch_model.bin, expected .*safetensors"):
        sivae.from_pretrained(folder)
    (folder / "diffusion_pytorch_model.bin").rename(folder / "diffusion_pytorch_model.fp16.safetensors")
    with pytest.raises(
        ModelFileError, match=r'fp16.safetensors, expected .* in diffusers with variant="fp16" and write'
    ):
        sivae.from_pretrained(folder)
    with pytest.raises(ModelFileError, match=r"is a pipeline of diffusers; name the folder of its autoencoder, .*vae"):
        sivae.from_pretrained(folder.parent)


def test_a_folder_without_a_config(tmp_path: Path) -> None:
    folder = folder_of("f4", tmp_path / "vae")
    (folder / CONFIG).unlink()
    with pytest.raises(ModelFileError, match=r"config.json is missing; a folder of diffusers has config.json and"):
        sivae.from_pretrained(folder)
