"""Choose the images that a page shows, and the paths between them through the latent space."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sivae.errors import ConfigError
from sivae.models import VAEModel
from sivae.models.base import one_hot
from sivae.models.latent import slerp
from sivae.models.pixels import from_uint8, image_range
from sivae.settings.data import ImageData
from sivae.settings.run import RunConfig
from sivae.training.measured_images import MeasuredImages


def some_images(
    model: VAEModel, config: RunConfig, count: int, *, path: str | None = None
) -> tuple[Tensor, Tensor | None, str]:
    """Images spread over the set that a run is measured on, their conditions, and what to call them.

    Images are [N, C, H, W] in the model's value range; `path` names other images than the run's.
    """
    channels, side, _ = model.sample_shape
    source = config.data
    if isinstance(source, ImageData):
        source = source.changed(resolution=side, channels=channels, cache="none", path=path or source.path)
    elif path is not None:
        raise ConfigError(f"--data has no effect on a run on {source.name}; leave it out")
    try:
        train, images = source.open_parts(for_training=False)
    except OSError as error:
        raise ConfigError(str(error)) from error
    device = next(model.parameters()).device
    rows = MeasuredImages(images, device, conditional=False).spread(count)
    pixels = torch.from_numpy(np.stack([images.read(row) for row in rows]))  # uint8 [N, H, W, C]
    x = from_uint8(pixels.to(device), image_range(model))
    name = "training images" if train is images else "test images"
    if model.condition_dim == 0:
        return x, None, name
    labels = torch.tensor([images.label(row) for row in rows])
    return x, one_hot(labels, model.condition_dim).to(device), name


def paths_between(model: VAEModel, x: Tensor, conditions: Tensor | None, *, rows: int, columns: int) -> Tensor:
    """Rows of two originals with the path between them, [R * columns, C, H, W], R at most `rows`."""
    mu, _ = model.encode(x, conditions)
    shown = []
    for first in range(min(rows, len(x) // 2)):
        last = len(x) - 1 - first  # far apart, so that they rarely are of one class
        z = slerp(mu[first], mu[last], columns - 2)
        condition = None if conditions is None else conditions[first].expand(len(z), -1)
        shown += [x[first : first + 1], model.decode(z, condition), x[last : last + 1]]
    return torch.cat(shown)
