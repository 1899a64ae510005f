"""Networks. Every model is a pair `encoder`, `decoder` with `encode(x) -> (mu, logvar)` and `decode(z) -> x`."""

from sivae.models.autoencoder import AutoencoderVAE
from sivae.models.base import VAEModel
from sivae.models.conv import ConvVAE
from sivae.models.mlp import MLPVAE
from sivae.models.pointnet import PointVAE
from sivae.models.registry import MODELS, build_model
from sivae.models.style import StyleVAE
from sivae.models.translation import TranslationVAE

__all__ = [
    "MLPVAE",
    "MODELS",
    "AutoencoderVAE",
    "ConvVAE",
    "PointVAE",
    "StyleVAE",
    "TranslationVAE",
    "VAEModel",
    "build_model",
]
