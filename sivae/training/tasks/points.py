"""The task of learning a density in the plane."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sivae.data.densities import DENSITIES, get_density
from sivae.errors import ConfigError
from sivae.evaluation.density import density_grid, evaluate_density
from sivae.models.base import VAEModel
from sivae.settings.run import RunConfig
from sivae.training.parallel import Processes
from sivae.training.seeds import derived_seed
from sivae.training.tasks.base import NO_FILES, FeatureFiles, Task

_PICTURED = 5_000  # points of each kind in a picture


class PointsTask(Task):
    """A density to learn. Each process draws the whole batch and takes its rows.

    Args:
        config, device, processes: see :class:`Task`.

    Raises:
        ConfigError: the density is unknown.
    """

    def __init__(self, config: RunConfig, device: torch.device, processes: Processes) -> None:
        super().__init__(config, device, processes)
        name = config.data.title
        if name not in DENSITIES:
            raise ConfigError(f"density = {name!r}: expected one of {', '.join(DENSITIES)}")
        self._density = get_density(name)
        self._generator = torch.Generator(device)
        self.start_over()

    def build_model(self) -> VAEModel:
        """See :meth:`Task.build_model`."""
        return self.config.model.build(data_dim=2)

    def batch(self, step: int) -> tuple[Tensor, None]:
        """Draw new points, [B, 2]."""
        size = self.config.at(step).batch_size
        points = self._density.sample(size, generator=self._generator, device=self._device)
        rows = size // self._processes.count
        return points[self._processes.rank * rows : (self._processes.rank + 1) * rows], None

    def state(self) -> dict[str, Any]:
        """Return the state of the points' generator."""
        return {"data": self._generator.get_state()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore the state of the points' generator."""
        self._generator.set_state(state["data"])

    def start_over(self) -> None:
        """Reset the points' generator to its seed."""
        self._generator.manual_seed(derived_seed(self.config.seed, "data"))

    def evaluate(self, model: VAEModel, seed: int, files: FeatureFiles = NO_FILES) -> dict[str, float]:
        """Compute the metrics of :func:`sivae.evaluation.density.evaluate_density`.

        Raises:
            ConfigError: a file of FID or LPIPS, or a set of images, is given.
        """
        if files.fid is not None or files.lpips is not None or files.against is not None:
            raise ConfigError(
                "FID, KID and LPIPS compare images, and this run makes points; leave --against and their weights out"
            )
        return evaluate_density(model, self._density, seed=seed, device=self._device)

    def picture_samples(self, path: Path, model: VAEModel, step: int) -> list[Path]:
        """Draw generated points and data side by side."""
        from sivae.figures.charts import plot_samples

        generator = torch.Generator().manual_seed(derived_seed(self.config.seed, "pictures"))
        real = self._density.sample(_PICTURED, generator=generator)
        noise = torch.randn(_PICTURED, model.noise_dim, generator=generator)
        with torch.no_grad():
            fake = model.decode(model.from_prior(noise.to(self._device)))
        plot_samples(path, real, fake, self._density.extent, self._title(step))
        return [path]

    def picture_run(self, folder: Path, model: VAEModel, records: Sequence[Mapping[str, Any]], step: int) -> list[Path]:
        """Draw `samples.png`, `density.png` and `curves.png`."""
        from sivae.figures.charts import plot_curves, plot_density

        pictures = self.picture_samples(folder / "samples.png", model, step)
        grid = density_grid(model, self._density, device=self._device)
        plot_density(folder / "density.png", grid, self._density.extent, self._title(step))
        plot_curves(folder / "curves.png", records, self._title(step))
        return [*pictures, folder / "density.png", folder / "curves.png"]

    def _title(self, step: int) -> str:
        return f"{self.config.data.title}, {self.config.objective.name}, step {step:,}"
