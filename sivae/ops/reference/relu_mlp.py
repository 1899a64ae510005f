"""A fully connected network with ReLU."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F


def relu_mlp(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> Tensor:
    for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
        # In place: a linear layer does not keep its output for the backward pass.
        x = F.relu(F.linear(x, weight, bias), inplace=True)  # [B, out]
    return F.linear(x, weights[-1], biases[-1])
