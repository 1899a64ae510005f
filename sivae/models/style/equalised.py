"""Layers with an equalised learning rate.

Weights are stored at their true scale, N(0, gain / sqrt(fan_in)), and the optimizer multiplies their steps by that
scale; Karras et al. 2018 (section 4.1) multiply the weights in each pass instead, to the same effect.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

_GAIN = math.sqrt(2.0)


class EqualisedLinear(nn.Linear):
    """A linear layer.

    Args:
        fan_in, fan_out: values.
        gain: of the initial weights.
        rate: by which all of its steps are multiplied.
    """

    def __init__(self, fan_in: int, fan_out: int, *, gain: float = _GAIN, rate: float = 1.0) -> None:
        self.weight_rate, self.bias_rate = rate * gain / math.sqrt(fan_in), rate
        super().__init__(fan_in, fan_out)

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=self.weight_rate / self.bias_rate)
        nn.init.zeros_(self.bias)


class EqualisedConv2d(nn.Conv2d):
    """A convolution that keeps the side.

    Args:
        fan_in, fan_out: channels.
        kernel: 3 or 1.
        gain: of the initial weights.
        bias: whether it adds one.
    """

    def __init__(self, fan_in: int, fan_out: int, kernel: int, *, gain: float = _GAIN, bias: bool = False) -> None:
        self.weight_rate, self.bias_rate = gain / math.sqrt(fan_in * kernel * kernel), 1.0
        super().__init__(fan_in, fan_out, kernel, padding=kernel // 2, bias=bias)

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=self.weight_rate)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


def rate_scales(network: nn.Module) -> dict[str, float]:
    """What the optimizer multiplies the steps of each parameter by, for those where it is not 1."""
    scales = {}
    for name, layer in network.named_modules():
        if isinstance(layer, EqualisedLinear | EqualisedConv2d):
            prefix = f"{name}." if name else ""
            scales[f"{prefix}weight"] = layer.weight_rate
            if layer.bias is not None and layer.bias_rate != 1.0:
                scales[f"{prefix}bias"] = layer.bias_rate
    return scales


def zeros(*shape: int) -> nn.Parameter:
    """A parameter of zeros, whose rate is not scaled."""
    return nn.Parameter(torch.zeros(shape))


def pixel_norm(x: Tensor) -> Tensor:
    """x [B, N] with a mean square of 1 (Karras et al. 2018, section 4.2)."""
    return x * (x.square().mean(1, keepdim=True) + 1e-8).rsqrt()
