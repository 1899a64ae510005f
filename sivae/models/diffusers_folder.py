"""Read and write the folders of diffusers' `AutoencoderKL`, without diffusers.

    config.json                             the architecture, and settings of pipelines
    diffusion_pytorch_model.safetensors     parameters

Reading a folder executes nothing, and takes no more memory than its files.
"""

from __future__ import annotations

import os
import re
import warnings
from pathlib import Path
from typing import Any, NotRequired

import torch

from sivae import files
from sivae.errors import ModelFileError
from sivae.fields import table
from sivae.json_files import read_json
from sivae.models.autoencoder import PIPELINE_KEYS, AutoencoderVAE, Pipeline
from sivae.models.storage import fill, plain_state, read_tensors

CONFIG, WEIGHTS = "config.json", "diffusion_pytorch_model.safetensors"
_CLASS = "AutoencoderKL"
_VERSION = "0.31.0"  # of diffusers, the first with all keys that are written
_PLAIN, _WITH_ATTENTION = ("DownEncoderBlock2D", "UpDecoderBlock2D"), ("AttnDownEncoderBlock2D", "AttnUpDecoderBlock2D")
# The names of attention's layers before diffusers 0.13, which many published folders have.
_EARLIER = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_REMEDY = "fetch the folder again"


class _Config(Pipeline):
    """The keys that a file may have, and leave out."""

    _class_name: NotRequired[str]
    in_channels: NotRequired[int]
    out_channels: NotRequired[int]
    down_block_types: NotRequired[list[str]]
    up_block_types: NotRequired[list[str]]
    block_out_channels: NotRequired[list[int]]
    layers_per_block: NotRequired[int]
    act_fn: NotRequired[str]
    latent_channels: NotRequired[int]
    norm_num_groups: NotRequired[int]
    sample_size: NotRequired[Any]  # a number, or a list of two
    use_quant_conv: NotRequired[bool]
    use_post_quant_conv: NotRequired[bool]
    mid_block_add_attention: NotRequired[bool]


# The values of keys that a file leaves out.
_DEFAULTS: _Config = {
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ["DownEncoderBlock2D"],
    "up_block_types": ["UpDecoderBlock2D"],
    "block_out_channels": [64],
    "layers_per_block": 1,
    "act_fn": "silu",
    "latent_channels": 4,
    "norm_num_groups": 32,
    "sample_size": 32,
    "use_quant_conv": True,
    "use_post_quant_conv": True,
    "mid_block_add_attention": True,
    "scaling_factor": 0.18215,
    "force_upcast": True,
}
_KNOWN = _Config.__required_keys__ | _Config.__optional_keys__


def is_folder(path: Path) -> bool:
    """Whether a folder holds a model of diffusers."""
    return (path / WEIGHTS).is_file() and (path / CONFIG).is_file()


def problem_of(folder: Path) -> str | None:
    """Say why a folder with weights of diffusers is not read; None: it has none, or is read."""
    if (folder / WEIGHTS).is_file():
        missing = f"{folder / CONFIG} is missing; a folder of diffusers has {CONFIG} and {WEIGHTS}; {_REMEDY}"
        return None if is_folder(folder) else missing
    for file in sorted(folder.glob(f"{Path(WEIGHTS).stem}.*")):
        variant = re.fullmatch(r"\.(\w+)\.(?:safetensors|bin)", file.name.removeprefix(Path(WEIGHTS).stem))
        opened = f' with variant="{variant[1]}"' if variant else ""
        return (
            f"{folder} has its weights in {file.name}, expected {WEIGHTS}; open the folder in diffusers{opened} and "
            "write it again by save_pretrained"
        )
    return None


def write_folder(folder: str | os.PathLike[str], model: AutoencoderVAE, *, scaling_factor: float | None = None) -> None:
    """Write a folder that `diffusers.AutoencoderKL.from_pretrained` opens, whole or not at all.

    The latents of diffusers are in the units of the networks: those of the model times its `prior_std`. So the written
    `scaling_factor`, by which pipelines multiply them, is 1 / prior_std, or that of the model's `pipeline` where
    prior_std is 1. A learned prior has no place in the folder: it is left out, with a warning.

    Args:
        folder: is made; a folder that holds such a model and nothing else is replaced.
        model: on any device.
        scaling_factor: written instead, more than 0; None: as above.

    Raises:
        ModelFileError: `folder` holds other files.
        ValueError: the scaling factor is out of range.
        OSError: the folder cannot be written.
    """
    folder = Path(os.path.abspath(folder))
    asked = {} if scaling_factor is None else table({"scaling_factor": scaling_factor}, Pipeline)
    if not files.holds_only(folder, {CONFIG, WEIGHTS}):
        raise ModelFileError(
            f"{folder} holds other files than {CONFIG} and {WEIGHTS}; choose another folder, or empty it"
        )
    if model.prior is not None:
        warnings.warn(f"{folder}: the learned prior is left out, as diffusers has no place for it", stacklevel=3)
    folder.parent.mkdir(parents=True, exist_ok=True)
    tensors = {
        _their_name(name): tensor for name, tensor in plain_state(model).items() if not name.startswith("prior.")
    }
    with files.atomic_folder(folder) as temporary:
        files.write_json(temporary / CONFIG, _config_of(model) | asked)
        files.write_safetensors(temporary / WEIGHTS, tensors, {"format": "pt"})


def read_folder(folder: Path) -> AutoencoderVAE:
    """Read a folder of diffusers.

    Its settings for pipelines are kept in the model's hyperparameter `pipeline`. Latents are in the units of the
    networks, as those of diffusers: `scaling_factor` is not applied.

    Returns:
        The model in float32, on the CPU, in eval mode.

    Raises:
        ModelFileError: a file is missing, damaged, or of another class or architecture.
    """
    path, config = folder / CONFIG, _config_in(folder)
    unknown = [key for key in config if key not in _KNOWN and not key.startswith("_")]
    if unknown:
        warnings.warn(
            f"{path}: {', '.join(unknown)[:200]} is not known to diffusers' {_CLASS}, and is ignored, as there",
            stacklevel=3,
        )
    try:
        with torch.device("meta"):
            model = AutoencoderVAE(**_hyperparameters(config))
    except (ValueError, TypeError, RuntimeError, OverflowError) as error:
        raise _refused(path, error) from None
    tensors = {_current_name(name): tensor for name, tensor in read_tensors(folder / WEIGHTS, _REMEDY).items()}
    fill(model, tensors, str(folder / WEIGHTS), {name: _their_name(name) for name in model.state_dict()})
    for name, tensor in model.state_dict().items():
        if not bool(tensor.isfinite().all()):
            raise ModelFileError(f"{folder / WEIGHTS}: {_their_name(name)} has values that are not finite; {_REMEDY}")
    return model


def read_hyperparameters(folder: Path) -> dict[str, Any]:
    """Read the arguments of :class:`AutoencoderVAE` that make the model of a folder of diffusers.

    Raises:
        ModelFileError: config.json is missing, damaged, or of another class or architecture.
    """
    try:
        return _hyperparameters(_config_in(folder))
    except ValueError as error:
        raise _refused(folder / CONFIG, error) from None


def _config_in(folder: Path) -> _Config:
    try:
        return read_json(folder / CONFIG, _Config, error=ModelFileError, remedy=_REMEDY)
    except FileNotFoundError:
        raise ModelFileError(
            f"{folder / CONFIG} is missing; a folder of diffusers has {CONFIG} and {WEIGHTS}"
        ) from None


def _refused(path: Path, error: Exception) -> ModelFileError:
    return (
        error if isinstance(error, ModelFileError) else ModelFileError(f"{path}: {' '.join(str(error).split())[:300]}")
    )


def _hyperparameters(config: _Config) -> dict[str, Any]:
    if (name := config.get("_class_name")) != _CLASS:
        raise ValueError(f"_class_name is {name!r}, expected {_CLASS!r}, the only class of diffusers that is read")
    given: dict[str, Any] = {**_DEFAULTS, **config}
    widths, channels = given["block_out_channels"], given["in_channels"]
    down, up = given["down_block_types"], given["up_block_types"]
    stages = {index: None for index, kind in enumerate(down) if kind == _WITH_ATTENTION[0]}
    expected = [
        [kinds[side] for kinds in (_WITH_ATTENTION if index in stages else _PLAIN for index in range(len(widths)))]
        for side in (0, 1)
    ]
    if [down, up[::-1]] != expected:
        raise ValueError(
            f"down_block_types and up_block_types are {str(down)[:80]} and {str(up)[:80]}, expected {_PLAIN[0]} or "
            f"{_WITH_ATTENTION[0]} for each of {len(widths)} widths, and the same of the decoder in reverse"
        )
    for key, value, only in (
        ("act_fn", given["act_fn"], "silu"),
        ("out_channels", given["out_channels"], channels),
        ("use_post_quant_conv", given["use_post_quant_conv"], given["use_quant_conv"]),
    ):
        if value != only:
            raise ValueError(f"{key} is {value!r}, expected {only!r}, the only value that is read beside the others")
    pipeline = {key: given[key] for key in PIPELINE_KEYS if given.get(key) is not None}
    return {
        "image_size": _side(given["sample_size"], 1 << (len(widths) - 1)),
        "channels": channels,
        "widths": widths,
        "latent_channels": given["latent_channels"],
        "layers": given["layers_per_block"],
        "groups": given["norm_num_groups"],
        "attention": given["mid_block_add_attention"],
        "attention_stages": list(stages),
        "quant_convs": given["use_quant_conv"],
        "pipeline": pipeline,
    }


def _side(size: Any, multiple: int) -> int:
    """The largest side of images that the networks take up to the `sample_size`, which is but a hint to pipelines."""
    height, *others = size if isinstance(size, list) and size else [size]
    if type(height) is not int or height < 1 or any(other != height for other in others):
        raise ValueError(f"sample_size is {str(size)[:80]}, expected the side of square images, a whole number")
    return max(multiple, height // multiple * multiple)


def _pipeline_of(model: AutoencoderVAE) -> Pipeline:
    """The settings of pipelines. Those of other units than the model's are left out: a shift, or values of channels."""
    pipeline: Pipeline = model.hyperparameters.get("pipeline", {})
    if model.prior_std == 1.0 and pipeline:
        return pipeline
    mine: Pipeline = {"scaling_factor": 1.0 / model.prior_std}
    if "force_upcast" in pipeline:
        mine["force_upcast"] = pipeline["force_upcast"]
    return mine


def _config_of(model: AutoencoderVAE) -> dict[str, Any]:
    own = model.hyperparameters
    kinds = [_WITH_ATTENTION if index in own["attention_stages"] else _PLAIN for index in range(len(own["widths"]))]
    return {
        "_class_name": _CLASS,
        "_diffusers_version": _VERSION,
        "act_fn": "silu",
        "block_out_channels": own["widths"],
        "down_block_types": [down for down, _ in kinds],
        "in_channels": own["channels"],
        "latent_channels": own["latent_channels"],
        "layers_per_block": own["layers"],
        "mid_block_add_attention": own["attention"],
        "norm_num_groups": own["groups"],
        "out_channels": own["channels"],
        "sample_size": own["image_size"],
        "up_block_types": [up for _, up in reversed(kinds)],
        "use_post_quant_conv": own["quant_convs"],
        "use_quant_conv": own["quant_convs"],
        **_pipeline_of(model),
    }


def _their_name(name: str) -> str:
    """The name in diffusers of a tensor of the model."""
    return re.sub(r"^(encoder|decoder)\.(?=(post_)?quant_conv\.)", "", name)


def _current_name(name: str) -> str:
    """The name in today's diffusers of a tensor in a file."""
    return re.sub(
        rf"(?<=\.attentions\.)(\d+)\.({'|'.join(_EARLIER)})\.", lambda found: f"{found[1]}.{_EARLIER[found[2]]}.", name
    )
