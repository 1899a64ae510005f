"""Metrics and pictures of trained models.

The pictures are in :mod:`sivae.evaluation.plots`, which is not imported here because it brings in matplotlib.
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
