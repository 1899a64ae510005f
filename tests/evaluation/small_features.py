"""A small network of features, for tests that compare images without EfficientNet's weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sivae.evaluation.features import FeatureNetwork


class SmallFeatures(nn.Module):
    """uint8 [B, 3, H, W] -> [B, 6], different in training mode."""

    def __init__(self, seed: int = 1) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(48, 6, generator=torch.Generator().manual_seed(seed)))
        self.drop = nn.Dropout()
        self.batches: list[int] = []

    def forward(self, pixels: Tensor) -> Tensor:
        assert pixels.dtype == torch.uint8 and not torch.is_grad_enabled()
        self.batches.append(len(pixels))
        return self.drop(F.adaptive_avg_pool2d(pixels.float() / 255, 4).flatten(1) @ self.weight)


def small_network(device: torch.device | None = None, *, name: str = "small") -> FeatureNetwork:
    return FeatureNetwork(name, SmallFeatures(), "mean of 4 x 4 parts", "digest", 6, device or torch.device("cpu"))
