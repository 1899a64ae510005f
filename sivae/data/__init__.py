"""Data to train on. Imports nothing else of ``sivae``."""

from sivae.data.densities import DENSITIES, Density, get_density

__all__ = ["DENSITIES", "Density", "get_density"]
