"""The model `style`: the style-based, progressively grown networks of ALAE and Soft-IntroVAE."""

from sivae.models.style.model import StyleVAE, Truncation

__all__ = ["StyleVAE", "Truncation"]
