"""Import the authors' checkpoints of point clouds: bare state dicts with encoder.conv.… and decoder.model.…."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sivae.errors import ModelFileError
from sivae.models.pointnet import PointVAE
from sivae.models.reading import checked_tensors, described, without_data_parallel
from sivae.models.storage import fill

FORMAT = "official points"

PRIOR_STD = 0.2  # of the authors' program; its files do not hold it
_CONV_STRIDE, _LINEAR_STRIDE = 3, 2  # modules for each layer: a convolution, ReLU and a norm; a linear layer and ReLU


def recognises(content: Any) -> bool:
    """Return whether a checkpoint has the names of this format."""
    return isinstance(content, Mapping) and any(
        re.match(r"(module\.)?encoder\.conv\.\d", str(name)) for name in content
    )


def convert(content: Any, where: str, *, averaged: bool = True) -> tuple[PointVAE, dict[str, Any]]:
    """Build the model of a recognized checkpoint.

    Args:
        content: as read.
        where: the file, for errors.
        averaged: has no effect; these files hold one set of weights.

    Returns:
        The model, and no details.

    Raises:
        ModelFileError: a tensor is missing, unknown, or of another shape than the others imply.
    """
    tensors = without_data_parallel(checked_tensors(content, where))
    hyperparameters = _hyperparameters(tensors, where)
    try:
        with torch.device("meta"):
            model = PointVAE(**hyperparameters)
    except ValueError as error:
        raise ModelFileError(f"{where} holds a network that is not supported: {error}") from None
    tensors = {
        name: tensor.squeeze(2) if name.startswith("encoder.conv.") and tensor.dim() == 3 else tensor
        for name, tensor in tensors.items()
    }
    for kind in ("weight", "bias"):
        mu, logvar = (tensors.pop(f"encoder.{head}.{kind}", None) for head in ("mu_layer", "std_layer"))
        if mu is None or logvar is None or mu.dim() < 1 or mu.shape != logvar.shape or mu.dtype != logvar.dtype:
            raise ModelFileError(
                f"{where}: encoder.mu_layer.{kind} and encoder.std_layer.{kind} are not two tensors of one kind; it is "
                "damaged, or holds another network"
            )
        tensors[f"encoder.heads.{kind}"] = torch.cat([mu, logvar])
    fill(model, tensors, where, official_names(model))
    return model, {}


def official_names(model: PointVAE) -> dict[str, str]:
    """Map the names of a model's parameters and buffers to those in the authors' state dict.

    The two heads, `mu_layer` and `std_layer`, have one name here, `encoder.heads`.
    """

    def official(name: str) -> str:
        layer = re.fullmatch(r"encoder\.layers\.(\d+)\.(linear|norm)\.(\w+)", name)
        if layer:
            index, kind, leaf = layer.groups()
            return f"encoder.conv.{_CONV_STRIDE * int(index) + (2 if kind == 'norm' else 0)}.{leaf}"
        for ours, theirs in (
            ("encoder.hidden.", "encoder.fc.0."),
            ("encoder.head.", "encoder.heads."),
            ("decoder.layers.", "decoder.model."),
        ):
            if name.startswith(ours):
                return theirs + name.removeprefix(ours)
        raise AssertionError(name)

    return {name: official(name) for name in model.state_dict()}


def _hyperparameters(tensors: Mapping[str, Tensor], where: str) -> dict[str, Any]:
    def rows(name: str) -> int:
        if name not in tensors:
            raise ModelFileError(
                f"{where} lacks {name}; it is damaged, or holds another network ({described(tensors)})"
            )
        if tensors[name].dim() < 1:
            raise ModelFileError(f"{where}: {name} is a single number, expected a weight; it is damaged")
        return tensors[name].shape[0]

    def count(pattern: str) -> int:
        found = [int(match[1]) for match in (re.match(pattern, name) for name in tensors) if match]
        return max(found, default=-1)

    if "encoder.conv.2.running_mean" not in tensors:
        raise ModelFileError(f"{where} has no batch norm in its encoder; only networks with it can be imported")
    layers = count(r"encoder\.conv\.(\d{1,4})\.") // _CONV_STRIDE + 1
    outputs = [
        rows(f"decoder.model.{_LINEAR_STRIDE * index}.weight")
        for index in range(count(r"decoder\.model\.(\d{1,4})\.") // _LINEAR_STRIDE + 1)
    ]
    if len(outputs) < 2 or outputs[-1] % 3:
        raise ModelFileError(
            f"{where}: decoder.model has layers of {outputs} outputs, expected two at least, and the last of three "
            "coordinates for each point"
        )
    return {
        "points": outputs[-1] // 3,
        "z_dim": rows("encoder.mu_layer.weight"),
        "widths": [rows(f"encoder.conv.{_CONV_STRIDE * index}.weight") for index in range(layers)],
        "hidden": rows("encoder.fc.0.weight"),
        "decoder_widths": outputs[:-1],
        "norm": "batch",
        "prior_std": PRIOR_STD,
    }
