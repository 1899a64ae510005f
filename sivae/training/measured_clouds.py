"""The clouds that a model is measured on, and its metrics on them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sivae import ops
from sivae.data.clouds import CloudSet
from sivae.data.images.base import spread
from sivae.errors import ConfigError
from sivae.evaluation.clouds import cloud_distances, voxel_jsd
from sivae.models import VAEModel
from sivae.models.base import device_and_dtype, evaluating, samples_at_once
from sivae.models.latent import generate
from sivae.training.seeds import derived_seed
from sivae.training.tasks.base import FeatureFiles
from sivae.words import plural

MEASURED = 1_000  # number of clouds at most that are reconstructed, and whose voxels are counted
COMPARED = 200  # number of clouds of each side at most whose distances are computed, each to each
_SETS, _SAMPLES = 3, 3  # the JSD is the mean of three, each with three times as many samples as clouds; as published


class MeasuredClouds:
    """Clouds for metrics and pictures: the same points of a shape each time.

    Args:
        clouds: a set of clouds of any number of points.
    """

    def __init__(self, clouds: CloudSet) -> None:
        self.clouds = clouds

    @property
    def words(self) -> str:
        """Words for the clouds of the metrics."""
        return f"{plural(min(len(self.clouds), MEASURED), 'test cloud')} of {self.clouds.name}"

    def some(self, rows: Sequence[int]) -> Tensor:
        """Take the clouds of rows: float32 [N, points, 3] on the CPU."""
        generator = torch.Generator()
        return torch.stack(
            [self.clouds.cloud(row, generator.manual_seed(derived_seed(0, f"cloud {row}"))) for row in rows]
        )

    def spread(self, count: int) -> list[int]:
        """Choose `count` rows spread over all, which are ordered by class; all rows if there are fewer."""
        return spread(len(self.clouds), count)


def sample_clouds(model: VAEModel, count: int, seed: int) -> Tensor:
    """Decode samples of the prior in eval mode: [count, points, 3] on the CPU."""
    with evaluating(model):
        return torch.cat([clouds.cpu() for clouds in generate(model, count, seed=seed)])


def reconstruction_metrics(model: VAEModel, clouds: Tensor) -> dict[str, float]:
    """Compute the means of `chamfer`, the distance of a cloud and its reconstruction, and of `kl`, in nats.

    Args:
        model: of clouds; clouds are decoded from the posterior mean, in eval mode.
        clouds: [N, P, 3], N at least 1.
    """
    device, dtype = device_and_dtype(model)
    rec, kl = [], []
    with evaluating(model):
        for x in clouds.split(samples_at_once(model.sample_shape)):
            x = x.to(device, dtype)
            mu, logvar = model.encode(x)
            rec.append(ops.chamfer_distance(model.render(mu), x).double())
            kl.append(model.kl(mu, logvar).double())
    return {"chamfer": float(torch.cat(rec).mean()), "kl": float(torch.cat(kl).mean())}


def check_files(files: FeatureFiles) -> None:
    """Refuse files that only metrics of images need.

    Raises:
        ConfigError: one is given.
    """
    if files.fid is not None or files.lpips is not None or files.against is not None:
        raise ConfigError(
            "FID, KID and LPIPS compare images, and this model makes point clouds; leave --against and the weights out"
        )


def measure_clouds(model: VAEModel, clouds: MeasuredClouds, seed: int) -> dict[str, float]:
    """Compute all metrics of a model of clouds on test clouds.

    Args:
        model: of clouds.
        clouds: clouds that it was not trained on.
        seed: seed of the samples.

    Returns:
        See :func:`reconstruction_metrics`; `voxel_jsd` of samples and clouds; and of at least two clouds `mmd`,
        `coverage` and `one_nn`, see :func:`sivae.evaluation.clouds.cloud_distances`.
    """
    reference = clouds.some(clouds.spread(MEASURED))
    metrics = reconstruction_metrics(model, reference)
    seeds = [seed, *(derived_seed(seed, f"samples {index}") for index in range(1, _SETS))]
    sets = [sample_clouds(model, _SAMPLES * len(reference), one) for one in seeds]
    metrics["voxel_jsd"] = sum(voxel_jsd(samples, reference) for samples in sets) / _SETS
    if len(reference) < 2:  # the distances are of each cloud to the others
        return metrics
    compared = reference[spread(len(reference), COMPARED)]
    found = cloud_distances(sets[0][: len(compared)], compared)
    return metrics | {"mmd": found.mmd, "coverage": found.coverage, "one_nn": found.one_nn}
