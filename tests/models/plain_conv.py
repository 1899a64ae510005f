"""The published conv networks in plain functions, on a state dict with the authors' names."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

State = dict[str, Tensor]


def encode(state: State, x: Tensor, sides: list[int], *, condition: Tensor | None = None, training: bool) -> Tensor:
    """Compute mu and logvar side by side. `sides`: the side of the features in each residual block."""
    x = F.conv2d(x, state["encoder.main.0.weight"], padding=2)
    x = F.avg_pool2d(F.leaky_relu(_norm(state, "encoder.main.1", x, training), 0.2), 2)
    for side in sides:
        x = _block(state, f"encoder.main.res_in_{side}", x, training)
        if side != sides[-1]:
            x = F.avg_pool2d(x, 2)
    features = x.flatten(1) if condition is None else torch.cat([x.flatten(1), condition], 1)
    return F.linear(features, state["encoder.fc.weight"], state["encoder.fc.bias"])


def decode(state: State, z: Tensor, sides: list[int], *, condition: Tensor | None = None, training: bool) -> Tensor:
    """Compute the image. `sides` as for :func:`encode`."""
    z = z if condition is None else torch.cat([z, condition], 1)
    x = F.relu(F.linear(z, state["decoder.fc.0.weight"], state["decoder.fc.0.bias"]))
    x = x.view(len(z), -1, sides[-1], sides[-1])
    names = [f"decoder.main.res_in_{4 << index}" for index in range(len(sides) + 1)]
    for name in names:
        x = _block(state, name, x, training)
        if name != names[-1]:
            x = F.interpolate(x, scale_factor=2, mode="nearest")
    return F.conv2d(x, state["decoder.main.predict.weight"], state["decoder.main.predict.bias"], padding=2)


def _block(state: State, name: str, x: Tensor, training: bool) -> Tensor:
    expand = state.get(f"{name}.conv_expand.weight")
    identity = x if expand is None else F.conv2d(x, expand)
    hidden = _norm(state, f"{name}.bn1", F.conv2d(x, state[f"{name}.conv1.weight"], padding=1), training)
    branch = F.conv2d(F.leaky_relu(hidden, 0.2), state[f"{name}.conv2.weight"], padding=1)
    return F.leaky_relu(_norm(state, f"{name}.bn2", branch, training) + identity, 0.2)


def _norm(state: State, name: str, x: Tensor, training: bool) -> Tensor:
    if f"{name}.weight" not in state:
        return x
    mean, variance = (None, None) if training else (state[f"{name}.running_mean"], state[f"{name}.running_var"])
    return F.batch_norm(x, mean, variance, state[f"{name}.weight"], state[f"{name}.bias"], training)
