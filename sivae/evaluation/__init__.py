"""Measure trained models.

The metrics of densities are imported here. The other modules import larger libraries: see
:mod:`sivae.evaluation.image_metrics` for images.
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
