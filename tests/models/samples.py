"""Small models with no parameter at its initial value."""

from __future__ import annotations

from typing import Any

import torch

from sivae.models import ConvVAE


def small_conv(seed: int = 0, **changes: Any) -> ConvVAE:
    """A model of 8 x 8 images with two halvings; parameters and running statistics are random."""
    hyperparameters: dict[str, Any] = {"image_size": 8, "channels": 3, "widths": (4, 6), "z_dim": 5, **changes}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = ConvVAE(**hyperparameters)
        with torch.no_grad():
            for name, tensor in model.state_dict().items():
                if name.endswith(("running_var", "norm.weight", "norm1.weight", "norm2.weight")):
                    tensor.uniform_(0.5, 1.5)
                elif name.endswith(("running_mean", "bias")):
                    tensor.normal_(std=0.3)
    return model
