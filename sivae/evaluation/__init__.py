"""Measure trained models: densities, images, likelihoods, out-of-distribution detection, translations.

The names here are those of densities. They load on first use; some of the other modules import large libraries.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sivae.evaluation.density import (
        ModeCoverage,
        density_grid,
        density_histogram,
        evaluate_density,
        grid_normalised_elbo,
        js_divergence,
        kl_divergence,
        mode_coverage,
        negative_elbo,
        official_js_divergence,
        official_kl_divergence,
    )

__all__ = [
    "ModeCoverage",
    "density_grid",
    "density_histogram",
    "evaluate_density",
    "grid_normalised_elbo",
    "js_divergence",
    "kl_divergence",
    "mode_coverage",
    "negative_elbo",
    "official_js_divergence",
    "official_kl_divergence",
]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("sivae.evaluation.density"), name)
