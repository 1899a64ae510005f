"""Metrics and pictures of trained models.

Those of densities are here. Metrics of images are in :mod:`sivae.evaluation.images` and :mod:`sivae.evaluation.fid`,
pictures in :mod:`sivae.evaluation.plots` (figures) and :mod:`sivae.evaluation.pictures` (images); none of them is
imported here because of the libraries that they bring in.
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
