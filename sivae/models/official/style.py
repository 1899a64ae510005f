"""Import the authors' style-based checkpoints.

They are `{"models": {tables of tensors by network}, "auxiliary": …, "iteration": …}`. Each network is stored twice: as
trained and, with the suffix `_s`, averaged over the training.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sivae.errors import ModelFileError
from sivae.models.reading import checked_tensors, described
from sivae.models.storage import fill
from sivae.models.style import StyleVAE

FORMAT = "official style"

_ENCODER, _DECODER, _TO_LATENT, _TO_STYLE = "discriminator", "generator", "mapping_tl", "mapping_fl"
_NETWORKS = (_ENCODER, _DECODER, _TO_LATENT, _TO_STYLE)
_AVERAGE = "dlatent_avg"
_TRANSPOSED_FROM = 128  # pixels of a block's output, from which on its first convolution is stored transposed


def recognises(content: Any) -> bool:
    """Return whether a checkpoint has the tables of this format."""
    tables = content.get("models") if isinstance(content, Mapping) else None
    return isinstance(tables, Mapping) and {_ENCODER, _DECODER} <= {str(name).removesuffix("_s") for name in tables}


def convert(content: Any, where: str, *, averaged: bool = True) -> tuple[StyleVAE, dict[str, Any]]:
    """Build the model of a recognized checkpoint.

    Args:
        content: as read.
        where: the file, for errors.
        averaged: read the averaged networks.

    Returns:
        The model, and `averaged` with the iteration that the checkpoint names.

    Raises:
        ModelFileError: a tensor is missing, unknown, or of another shape than the others imply.
    """
    tables = content["models"]
    suffix = "_s" if averaged else ""
    tensors: dict[str, Tensor] = {}
    for network in (*_NETWORKS, _AVERAGE):
        name = network if network == _AVERAGE else network + suffix
        table = tables.get(name)
        if not isinstance(table, Mapping):
            other = "the averaged networks" if averaged else "the networks as trained"
            raise ModelFileError(f"{where} lacks the table {name!r} ({described(tables)}), so it does not hold {other}")
        for key, value in checked_tensors(table, f"{where}, {name}").items():
            tensors[f"{network}.{key}"] = value
    hyperparameters = _hyperparameters(tensors, where)
    try:
        with torch.device("meta"):
            model = StyleVAE(**hyperparameters)
    except ValueError as error:
        raise ModelFileError(f"{where} holds a network that is not supported: {error}") from None
    for key in [key for key in tensors if key.endswith(".blur.weight")]:
        _check_blur(tensors.pop(key), f"{where}: {key}")
    names = official_names(model)
    shapes = {names[name]: (name, tensor.shape) for name, tensor in model.state_dict().items()}
    for key, (name, shape) in shapes.items():
        if key in tensors:
            tensors[key] = _as_ours(tensors[key], name, shape)
    fill(model, tensors, where, names)
    iteration = content.get("iteration")
    details: dict[str, Any] = {"averaged": averaged}
    return model, details if not isinstance(iteration, int) else {**details, "iteration": iteration}


def official_names(model: StyleVAE) -> dict[str, str]:
    """Map the names of a model's parameters and buffers to those in the authors' tables, after the network's name."""

    def official(name: str) -> str:
        if name == "average_style":
            return f"{_AVERAGE}.buff"
        network, part, rest = name.split(".", 2) if name.count(".") > 1 else (*name.split("."), "")
        theirs = _ENCODER if network == "encoder" else _DECODER
        if part == "constant":
            return f"{theirs}.const"
        if part == "mapping":
            mapping = _TO_LATENT if network == "encoder" else _TO_STYLE
            _, index, leaf = rest.split(".")
            return f"{mapping}.map_blocks.{index}.fc.{leaf}"
        index, leaf = rest.split(".", 1)
        if part in ("entrances", "exits"):
            layer = "from_rgb" if part == "entrances" else "to_rgb"
            return f"{theirs}.{layer}.{index}.{layer}.{leaf}"
        block = "encode_block" if network == "encoder" else "decode_block"
        numbered = re.sub(r"^(conv|bias|style|noise_weight)([12])", r"\1_\2", leaf)
        return f"{theirs}.{block}.{index}.{numbered}"

    return {name: official(name) for name in model.state_dict()}


def _as_ours(tensor: Tensor, name: str, shape: torch.Size) -> Tensor:
    block = re.fullmatch(r"decoder\.blocks\.(\d+)\.conv1\.weight", name)
    if block and 4 << int(block[1]) >= _TRANSPOSED_FROM and tensor.dim() == 4:
        return tensor.transpose(0, 1).flip(2, 3)
    flat = [size for size in tensor.shape if size != 1]
    # The authors store biases and the constant with extra dimensions of 1.
    return tensor.reshape(shape) if flat == [size for size in shape if size != 1] else tensor


def _check_blur(kernel: Tensor, where: str) -> None:
    line = torch.tensor([1.0, 2.0, 1.0])
    expected = torch.outer(line, line) / 16.0
    if kernel.shape[1:] != (1, 3, 3) or not torch.allclose(kernel.float(), expected.expand_as(kernel), atol=1e-6):
        raise ModelFileError(
            f"{where} is not the blur [1 2 1] x [1 2 1] / 16; networks with another blur are not supported"
        )


def _hyperparameters(tensors: Mapping[str, Tensor], where: str) -> dict[str, Any]:
    def count(pattern: str) -> int:
        found = [int(match[1]) for match in (re.match(pattern, name) for name in tensors) if match]
        return max(found, default=-1) + 1

    def size(name: str, dimensions: int, axis: int) -> int:
        if name not in tensors:
            raise ModelFileError(
                f"{where} lacks {name}; it is damaged, or holds another network ({described(tensors)})"
            )
        if tensors[name].dim() != dimensions:
            raise ModelFileError(
                f"{where}: {name} has shape {list(tensors[name].shape)}, expected {dimensions} dimensions"
            )
        return tensors[name].shape[axis]

    layers = count(rf"{_DECODER}\.to_rgb\.(\d{{1,2}})\.")
    if layers == 0:
        raise ModelFileError(f"{where} lacks {_DECODER}.to_rgb.…; it is damaged, or holds another network")
    start = size(f"{_ENCODER}.from_rgb.0.from_rgb.weight", 4, 0)
    return {
        "image_size": 2 << layers,
        "channels": size(f"{_ENCODER}.from_rgb.0.from_rgb.weight", 4, 1),
        "start_channels": start,
        "max_channels": size(f"{_ENCODER}.encode_block.{layers - 1}.conv_2.weight", 4, 0),
        "z_dim": size(f"{_TO_STYLE}.map_blocks.0.fc.weight", 2, 1),
        "mapping_layers": count(rf"{_TO_STYLE}\.map_blocks\.(\d{{1,2}})\."),
    }
