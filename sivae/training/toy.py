"""What is particular to learning a density in the plane: network, batches, pictures, metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sivae.data.densities import DENSITIES, get_density
from sivae.evaluation.density import density_grid, evaluate_density
from sivae.models import MLPVAE
from sivae.training.config import RunConfig
from sivae.training.errors import ConfigError

_PICTURED = 5_000  # points of each kind in a picture


class ToyTask:
    """A density to learn.

    Args:
        config: the run's.
        device: where batches are made.

    Raises:
        ConfigError: there is no such density.
    """

    def __init__(self, config: RunConfig, device: torch.device) -> None:
        if config.density not in DENSITIES:
            raise ConfigError(f"density = {config.density!r}: expected one of {', '.join(DENSITIES)}")
        self._config = config
        self._device = device
        self._density = get_density(config.density)

    def build_model(self) -> MLPVAE:
        """An encoder and a decoder, on the CPU, initialised from the global generator."""
        return MLPVAE(data_dim=2, z_dim=self._config.z_dim, hidden=self._config.hidden, layers=self._config.layers)

    def batch(self, generator: torch.Generator) -> Tensor:
        """Fresh points ``[batch_size, 2]``."""
        return self._density.sample(self._config.batch_size, generator=generator, device=self._device)

    def evaluate(self, model: MLPVAE, seed: int) -> dict[str, float]:
        """The metrics of :func:`sivae.evaluation.density.evaluate_density`."""
        return evaluate_density(model, self._density, seed=seed, device=self._device)

    def picture_samples(self, path: Path, model: MLPVAE, seed: int, step: int) -> None:
        """Draw generated points beside data."""
        from sivae.evaluation.plots import plot_samples

        generator = torch.Generator().manual_seed(seed)
        real = self._density.sample(_PICTURED, generator=generator)
        noise = torch.randn(_PICTURED, model.z_dim, generator=generator)
        with torch.no_grad():
            fake = model.decode(noise.to(self._device))
        plot_samples(path, real, fake, self._density.extent, self._title(step))

    def picture_run(self, folder: Path, model: MLPVAE, records: Sequence[Mapping[str, Any]], step: int) -> None:
        """Draw `density.png` and `curves.png`."""
        from sivae.evaluation.plots import plot_curves, plot_density

        grid = density_grid(model, self._density, device=self._device)
        plot_density(folder / "density.png", grid, self._density.extent, self._title(step))
        plot_curves(folder / "curves.png", records, self._title(step))

    def _title(self, step: int) -> str:
        return f"{self._config.density}, {self._config.objective.name}, step {step:,}"
