"""Data to train on: densities in the plane, images, and point clouds. Names load on first use: help needs no torch."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sivae.data.densities import DENSITIES, Density, get_density

__all__ = ["DENSITIES", "Density", "get_density"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.densities"), name)
