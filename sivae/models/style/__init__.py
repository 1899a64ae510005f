"""The style-based, progressively grown pair of ALAE and Soft-IntroVAE."""

from sivae.models.style.model import StyleVAE, Truncation

__all__ = ["StyleVAE", "Truncation"]
