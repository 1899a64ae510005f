"""Measure trained models.

The metrics of densities are imported here. Those of images are in :mod:`sivae.evaluation.images` and the modules beside
it, which import larger libraries.
"""

from sivae.evaluation.density import (
    DensityModel,
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
    "DensityModel",
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
