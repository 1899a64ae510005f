"""A small model of each architecture, with random weights."""

from __future__ import annotations

import torch

from sivae.models import MLPVAE, AutoencoderVAE, ConvVAE, PointVAE, StyleVAE, TranslationVAE, VAEModel


def small_models() -> dict[str, VAEModel]:
    torch.manual_seed(5)
    style = StyleVAE(8, 1, 4, 6, z_dim=5, mapping_layers=2, blend=0.5)
    with torch.no_grad():
        for name, parameter in style.named_parameters():
            if "noise_weight" in name:
                parameter.normal_()  # new models have none of the noise
    return {
        "mlp": MLPVAE(hidden=8, layers=2),
        "conv": ConvVAE(16, 3, (4, 6), 5, condition_dim=2),
        "translation": TranslationVAE(8, 3, 3, 4, 4, 8),
        "style": style,
        "pointnet": PointVAE(64, 3, (8, 16), 8, (8, 8)),
        "autoencoder": AutoencoderVAE(8, 1, (4, 8), 2, layers=1, groups=2),
    }
