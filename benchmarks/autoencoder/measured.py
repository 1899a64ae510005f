"""Measure a training of the comparison: reconstructions of test images, and samples of the fitted and of the own prior.

A measured training is kept in OUT/measured and is not measured again: NAME.json has its values, and the folder NAME its
model with the fitted prior.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import torch
from torch import Tensor

from sivae.errors import RunFolderError
from sivae.evaluation.feature_distances import sample_metrics
from sivae.evaluation.features import FeatureNetwork, effnet_lite0
from sivae.evaluation.image_metrics import ReconstructionMeter, generate_for_metrics
from sivae.files import write_json
from sivae.json_files import read_json
from sivae.models import VAEModel
from sivae.models.base import evaluating, samples_at_once
from sivae.models.pixels import from_uint8, image_range, to_uint8
from sivae.models.storage import load_model, save_model
from sivae.reproduce.experiment import Trained
from sivae.reproduce.markdown import for_json
from sivae.settings.run import RunConfig
from sivae.training.fitted_prior import fit_prior
from sivae.training.measured_images import MeasuredImages
from sivae.training.recorder import read_records

MEASURED = "measured"
_SEED = 0
_CPU = torch.device("cpu")


class Measured(TypedDict):
    """The values of one training. `samples_*` are of the fitted mixture, `prior_*` of the model's own prior.

    Attributes:
        parameters, critic_parameters: numbers of them; the encoder as the critic adds none.
        not_finite: iterations with a loss that is not finite.
        fitted_log_prob: mean log density of latents that the mixture was not fitted to.
    """

    parameters: int
    critic_parameters: int
    not_finite: int
    fitted_log_prob: float
    values: dict[str, float | None]


def features_network() -> FeatureNetwork:
    """Return the network of the features.

    Raises:
        FeaturesError: the weights of EfficientNet-Lite0 are not installed.
    """
    return effnet_lite0(_CPU)


class Reference:
    """Test images and their features.

    Args:
        config: of a run on the images.
        count: number of images at most, spread over the set.

    Attributes:
        pixels: uint8 [N, H, W, C].
        name: "test images", or "training images" of a set without a test part.
    """

    def __init__(self, config: RunConfig, count: int) -> None:
        self.network = features_network()
        train, images = config.data.open_parts(for_training=False)
        rows = MeasuredImages(images, _CPU, conditional=False).spread(count)
        self.pixels = torch.from_numpy(np.stack([images.read(row) for row in rows]))
        self.name = "training images" if images is train else "test images"
        self._features = self.network.of(self.pixels.permute(0, 3, 1, 2))

    def compared(self, batches: Iterable[Tensor], model: VAEModel) -> dict[str, float]:
        """Compare as many images of a model, in batches, with these: kid, precision, recall and more by name."""
        features = torch.cat([self.network.of(to_uint8(images, image_range(model))) for images in batches])
        found = sample_metrics(self._features, features, network=self.network.name, seed=_SEED)
        return {name.removesuffix(f"_{self.network.name}"): value for name, value in found.items()}


def measured(run: Trained, folder: Path, reference: Callable[[], Reference], components: int) -> Measured:
    """Read what was measured of a training, or measure it.

    Args:
        run: a training that has ended.
        folder: of the comparison.
        reference: returns the test images.
        components: Gaussians of the mixture.
    """
    path = folder / MEASURED / f"{run.name}.json"
    try:
        return read_json(path, Measured, error=RunFolderError, remedy="delete it to measure again")
    except FileNotFoundError:
        path.parent.mkdir(exist_ok=True)
    fitted = fit_prior(run.folder, components=components, seed=_SEED, device="cpu")
    save_model(folder / MEASURED / run.name, fitted.model)
    model, others = run.load(), reference()
    values: dict[str, float] = {}
    with evaluating(model), evaluating(fitted.model):
        x = from_uint8(others.pixels, image_range(model))
        meter = ReconstructionMeter(model)
        again = [meter.add(part) for part in x.split(samples_at_once(model.sample_shape))]
        values |= meter.compute()
        for kind, images in (
            ("reconstructions", again),
            ("samples", generate_for_metrics(fitted.model, len(x), seed=_SEED)),
            ("prior", generate_for_metrics(model, len(x), seed=_SEED)),
        ):
            values |= {f"{kind}_{name}": value for name, value in others.compared(images, model).items()}
    found = Measured(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        critic_parameters=int((run.summary or {}).get("critic_parameters", 0)),
        not_finite=not_finite(run.folder),
        fitted_log_prob=fitted.log_prob,
        values=for_json(values),
    )
    write_json(path, found)
    return found


def with_fitted_prior(run: Trained, folder: Path) -> VAEModel:
    """Load the model of a measured training, with the mixture as its prior."""
    return load_model(folder / MEASURED / run.name)


def not_finite(folder: Path) -> int:
    """Count the iterations of a run with a loss that is not finite; every iteration is recorded."""
    return sum(
        any(value is None for name, value in record.items() if name.startswith("loss"))
        for record in read_records(folder)
    )


def some_images(reference: Reference, model: VAEModel, count: int) -> Tensor:
    """Return images spread over the reference, [N, C, H, W] in the model's values."""
    rows: Any = np.linspace(0, len(reference.pixels) - 1, min(count, len(reference.pixels))).round().astype(int)
    return from_uint8(reference.pixels[rows], image_range(model))
