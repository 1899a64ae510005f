"""VGG-16 with random weights in torchvision's layout, and its activations in plain float64."""

from __future__ import annotations

import functools
import math
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

# Place of each convolution among torchvision's layers, channels in and out, and whether a tap or a pooling follows it.
LAYERS = (
    (0, 3, 64, ""),
    (2, 64, 64, "relu1_2"),
    (5, 64, 128, ""),
    (7, 128, 128, "relu2_2"),
    (10, 128, 256, ""),
    (12, 256, 256, ""),
    (14, 256, 256, "relu3_3"),
    (17, 256, 512, ""),
    (19, 512, 512, ""),
    (21, 512, 512, "relu4_3"),
    (24, 512, 512, ""),
    (26, 512, 512, ""),
    (28, 512, 512, "relu5_3"),
)


@functools.cache
def random_state() -> dict[str, Tensor]:
    """Make weights that keep the scale of activations, as He et al. initialize. They are shared: do not change them."""
    generator = torch.Generator().manual_seed(0)
    state = {}
    for place, incoming, channels, _ in LAYERS:
        weight = torch.randn(channels, incoming, 3, 3, generator=generator) * math.sqrt(2 / (9 * incoming))
        state[f"features.{place}.weight"] = weight
        state[f"features.{place}.bias"] = torch.randn(channels, generator=generator) * 0.1
    return state


def write_vgg(path: Path) -> Path:
    """Write a file in torchvision's layout, with a smaller classifier."""
    classifier = {"classifier.0.weight": torch.zeros(2, 3), "classifier.0.bias": torch.zeros(2)}
    torch.save({**random_state(), **classifier}, path)
    return path


def plain_activations(images: Tensor) -> dict[str, Tensor]:
    """Compute the activations of images [B, 3, H, W] in [0, 1] by tap, in float64; sides from 16 on."""
    mean = torch.tensor([0.485, 0.456, 0.406], dtype=torch.float64)[:, None, None]
    deviation = torch.tensor([0.229, 0.224, 0.225], dtype=torch.float64)[:, None, None]
    x = (images.double() - mean) / deviation
    found = {}
    for place, _, _, tap in LAYERS:
        weight, bias = (random_state()[f"features.{place}.{name}"].double() for name in ("weight", "bias"))
        x = F.conv2d(x, weight, bias, padding=1).clamp_min(0)
        if tap:
            found[tap] = x
        if tap and tap != "relu5_3":
            x = F.max_pool2d(x, 2)
    return found
