"""Import the authors' conv checkpoints: `{"epoch": …, "model": state dict}`.

The names contain the side of a residual block's features: the true one in encoder.main.res_in_SIZE, while in
decoder.main.res_in_SIZE the sides are always 4, 8, 16, ….
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sivae.errors import ModelFileError
from sivae.models.conv import ConvVAE
from sivae.models.norm import Norm
from sivae.models.reading import checked_tensors, described, without_data_parallel
from sivae.models.storage import fill

FORMAT = "official conv"

_OUTSIDE_STAGES = {
    "encoder.entry.conv": "encoder.main.0",
    "encoder.entry.norm": "encoder.main.1",
    "encoder.head": "encoder.fc",
    "decoder.head": "decoder.fc.0",
    "decoder.predict": "decoder.main.predict",
}
_IN_STAGES = {"expand": "conv_expand", "conv1": "conv1", "norm1": "bn1", "conv2": "conv2", "norm2": "bn2"}


def recognises(content: Any) -> bool:
    """Return whether a checkpoint has the names of this format."""
    return any(re.match(r"(module\.)?(encoder|decoder)\.main\.", str(name)) for name in _state_dict(content))


def convert(content: Any, where: str, *, averaged: bool = True) -> tuple[ConvVAE, dict[str, Any]]:
    """Build the model of a recognized checkpoint.

    Args:
        content: as read.
        where: the file, for errors.
        averaged: has no effect; these files hold one set of weights.

    Returns:
        The model, and the epoch that the checkpoint names.

    Raises:
        ModelFileError: a tensor is missing, unknown, or of another shape than the others imply.
    """
    tensors = without_data_parallel(checked_tensors(_state_dict(content), where))
    # A copy of the decoder, which the bootstrap program needs in training alone.
    tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith("target_decoder.")}
    hyperparameters = _hyperparameters(tensors, where)
    try:
        with torch.device("meta"):
            model = ConvVAE(**hyperparameters)
    except ValueError as error:
        raise ModelFileError(f"{where} holds a network that is not supported: {error}") from None
    names = official_names(model)
    if hyperparameters["norm"] == "none":
        # Without norms our convolutions have biases.
        for ours, parameter in model.named_parameters():
            if ours.endswith(".bias"):
                tensors.setdefault(names[ours], torch.zeros(parameter.shape))
    fill(model, tensors, where, names)
    epoch = content.get("epoch") if "model" in content else None
    return model, {} if not isinstance(epoch, int) else {"epoch": epoch}


def official_names(model: ConvVAE) -> dict[str, str]:
    """Map the names of a model's parameters and buffers to those in the authors' state dict. Shapes are the same."""
    side = model.hyperparameters["image_size"]

    def official(name: str) -> str:
        stage = re.fullmatch(r"(encoder|decoder)\.stages\.(\d+)\.(\w+)(\..+)", name)
        if stage:
            network, index, layer, rest = stage.groups()
            size = side >> (int(index) + 1) if network == "encoder" else 4 << int(index)
            return f"{network}.main.res_in_{size}.{_IN_STAGES[layer]}{rest}"
        layer, _, rest = name.rpartition(".")
        return f"{_OUTSIDE_STAGES[layer]}.{rest}"

    return {name: official(name) for name in model.state_dict()}


def _state_dict(content: Any) -> Mapping[Any, Any]:
    if not isinstance(content, Mapping):
        return {}
    inner = content.get("model", content)
    return inner if isinstance(inner, Mapping) else {}


def _hyperparameters(tensors: Mapping[str, Tensor], where: str) -> dict[str, Any]:
    def shape(name: str, dimensions: int) -> tuple[int, ...]:
        if name not in tensors:
            raise ModelFileError(
                f"{where} lacks {name}; it is damaged, or holds another network ({described(tensors)})"
            )
        if tensors[name].dim() != dimensions:
            raise ModelFileError(
                f"{where}: {name} has shape {list(tensors[name].shape)}, expected {dimensions} dimensions"
            )
        return tuple(tensors[name].shape)

    entry, channels, _, _ = shape("encoder.main.0.weight", 4)
    found = (re.match(r"encoder\.main\.res_in_(\d{1,6})\.", name) for name in tensors)
    sizes = sorted({int(match[1]) for match in found if match}, reverse=True)
    if not sizes:
        raise ModelFileError(f"{where} lacks encoder.main.res_in_…; it is damaged, or holds another network")
    outs = [shape(f"encoder.main.res_in_{size}.conv1.weight", 4)[0] for size in sizes]
    widths = [entry, *outs[:-1]]
    head, head_in = shape("encoder.fc.weight", 2)
    condition_dim = head_in - widths[-1] * sizes[-1] ** 2
    if condition_dim < 0 or head % 2:
        raise ModelFileError(
            f"{where}: encoder.fc.weight has shape {[head, head_in]}, expected 2 z_dim rows for at least "
            f"{widths[-1]} x {sizes[-1]} x {sizes[-1]} features"
        )
    return {
        "image_size": 2 * sizes[0],
        "channels": channels,
        "widths": widths,
        "z_dim": head // 2,
        "norm": _norm(tensors, where),
        "condition_dim": condition_dim,
    }


def _norm(tensors: Mapping[str, Tensor], where: str) -> Norm:
    norms = [name for name in tensors if re.search(r"\.(bn[12]|main\.1)\.", name)]
    if not norms:
        return "none"
    if not any(name.endswith("running_mean") for name in norms):
        raise ModelFileError(
            f"{where}: {norms[0]} belongs to a norm without running statistics, and the number of its groups is not in "
            "the file; only networks with batch norm or without norms can be imported"
        )
    return "batch"
