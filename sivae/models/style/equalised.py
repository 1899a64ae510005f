"""Layers with an equalised learning rate.

Weights are stored at their true scale, N(0, gain / sqrt(fan_in)), and the optimizer multiplies their steps by that
scale. Karras et al. 2018 (section 4.1) multiply the weights in each pass instead, which has the same effect.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

_GAIN = math.sqrt(2.0)


class EqualisedLinear(nn.Linear):
    """A linear layer with an equalised learning rate.

    Args:
        fan_in, fan_out: features of input and output.
        gain: gain of the initial weights.
        rate: factor of all of its steps.
    """

    def __init__(self, fan_in: int, fan_out: int, *, gain: float = _GAIN, rate: float = 1.0) -> None:
        self.weight_rate, self.bias_rate = rate * gain / math.sqrt(fan_in), rate
        super().__init__(fan_in, fan_out)

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=self.weight_rate / self.bias_rate)
        nn.init.zeros_(self.bias)


class EqualisedConv2d(nn.Conv2d):
    """A convolution with an equalised learning rate that keeps the side of its input.

    Args:
        fan_in, fan_out: channels of input and output.
        kernel: 3 or 1.
        gain: gain of the initial weights.
        bias: whether it adds a bias.
    """

    def __init__(self, fan_in: int, fan_out: int, kernel: int, *, gain: float = _GAIN, bias: bool = False) -> None:
        self.weight_rate, self.bias_rate = gain / math.sqrt(fan_in * kernel * kernel), 1.0
        super().__init__(fan_in, fan_out, kernel, padding=kernel // 2, bias=bias)

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=self.weight_rate)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


def rate_scales(network: nn.Module) -> dict[str, float]:
    """Collect the factors of the learning rate by parameter name; parameters with the factor 1 are left out."""
    scales = {}
    for name, layer in network.named_modules():
        if isinstance(layer, EqualisedLinear | EqualisedConv2d):
            prefix = f"{name}." if name else ""
            scales[f"{prefix}weight"] = layer.weight_rate
            if layer.bias is not None and layer.bias_rate != 1.0:
                scales[f"{prefix}bias"] = layer.bias_rate
    return scales


def zeros(*shape: int) -> nn.Parameter:
    """Make a parameter of zeros with an ordinary learning rate."""
    return nn.Parameter(torch.zeros(shape))


def pixel_norm(x: Tensor) -> Tensor:
    """Scale x [B, N] to a mean square of 1 (Karras et al. 2018, section 4.2)."""
    return x * (x.square().mean(1, keepdim=True) + 1e-8).rsqrt()
