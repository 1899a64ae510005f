"""Score images by how unlike the training data of a model they are, in nats."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from sivae.data.images.crop import Crop
from sivae.data.images.pixels import fit_square
from sivae.data.images.prepared import image_digest
from sivae.errors import ConfigError
from sivae.evaluation.likelihood import NUMBER_LIMIT, Estimates, PixelDensity, estimate, kl_to_prior
from sivae.evaluation.ood import SCORES, Score, anomaly
from sivae.method.objectives import GAUSSIAN
from sivae.models import VAEModel
from sivae.models.base import device_and_dtype
from sivae.models.pixels import from_uint8, image_range
from sivae.objectives import Objective

Notice = Callable[[str], None]
Scores = dict[Score, NDArray[np.float64]]


@dataclass(frozen=True)
class Detector:
    """A model, and the settings that its scores are computed with.

    Attributes:
        model: a model of images, without classes.
        density: p(x|z).
        score: the score that decides; "kl" does not run the decoder.
        samples: K of the likelihood, and the number of samples in the mean of the ELBO.
        seed: seed of the noise. The noise of an image follows from the seed and the image's pixels, so a score does not
            depend on the file's place or on the other images of a batch.
        crop: the part of each image that is scored.

    Raises:
        ConfigError: the model makes points or is conditional, or a setting is out of range.
    """

    model: VAEModel
    density: PixelDensity
    score: Score = "likelihood"
    samples: int = 5
    seed: int = 0
    crop: Crop = "center"

    def __post_init__(self) -> None:
        if len(self.model.sample_shape) != 3:
            raise ConfigError("this model makes points, not images; out-of-distribution detection is for images")
        if self.model.condition_dim:
            raise ConfigError(
                f"this model is conditional on {self.model.condition_dim} classes, and an image out of distribution "
                "belongs to none of them; train one without --conditional"
            )
        if self.score not in SCORES:
            raise ConfigError(f"score = {self.score!r}: expected one of {', '.join(SCORES)}")
        if self.samples < 1:
            raise ConfigError(f"samples = {self.samples}: expected at least 1")

    def of_pixels(self, pixels: NDArray[np.uint8]) -> Scores:
        """Score images.

        Args:
            pixels: uint8 [N, H, W, C], of the model's size and channels.

        Returns:
            `kl` alone where that is the detector's score, else all scores: float64 [N] each, in nats.
        """
        place, _ = device_and_dtype(self.model)
        x = from_uint8(torch.from_numpy(pixels).to(place), image_range(self.model))
        if self.score == "kl":
            return {"kl": kl_to_prior(self.model, x).numpy()}
        found: Estimates = estimate(
            self.model,
            x,
            density=self.density,
            samples=self.samples,
            seed=self.seed,
            numbers=[int.from_bytes(image_digest(image)) % NUMBER_LIMIT for image in pixels],
        )
        return {score: anomaly(found, score).numpy() for score in SCORES}

    def fitted(self, picture: Image.Image, name: str) -> NDArray[np.uint8]:
        """Cut an image out by the detector's crop, and bring it to the model's size and channels.

        Args:
            picture: the image.
            name: its name in error messages.
        """
        channels, side, _ = self.model.sample_shape
        return fit_square(picture, side, channels, name, self.crop)

    def digest(self) -> str:
        """Hash the model: its name, its hyperparameters and its weights."""
        digest = hashlib.blake2b(digest_size=16)
        digest.update(json.dumps([self.model.name, self.model.hyperparameters], sort_keys=True).encode())
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()


def density_of(
    objective: Objective | None,
    *,
    sigma: float | None = None,
    beta_rec: float | None = None,
    beta_kl: float | None = None,
    kind: str = "mse",
    learned: float | None = None,
    score: Score = "likelihood",
    notice: Notice = lambda text: None,
) -> PixelDensity:
    """Choose p(x|z) so that the ELBO is the one that the training maximized, unless the arguments say otherwise.

    Args:
        objective: the run's; None: unknown, and weights that are not given are 1.
        sigma: standard deviation of a Gaussian; replaces both weights.
        beta_rec, beta_kl: replace the run's weights.
        kind: of the error, where the objective is unknown.
        learned: the standard deviation that a run of the kind "gaussian" learned, which its beta_rec is relative to;
            see :func:`sivae.training.folder.learned_deviation`. None: unknown.
        score: what the density is for; "kl" does not use it, so any will do where the learned deviation is unknown.
        notice: called with a message where weights had to be assumed, or where a learned deviation is used.

    Raises:
        ConfigError: sigma and weights are both given, no density follows from the weights, or the learned deviation is
            needed and unknown.
    """
    try:
        if sigma is not None:
            if beta_rec is not None or beta_kl is not None:
                raise ConfigError("sigma replaces beta_rec and beta_kl; leave one or the other out")
            return PixelDensity.gaussian(sigma)
        if objective is None:
            missing = [f"{name} = 1" for name, value in (("beta_rec", beta_rec), ("beta_kl", beta_kl)) if value is None]
            if missing:
                notice(
                    f"the settings of this model's training are unknown; assuming {' and '.join(missing)} "
                    "(set them by --beta-rec and --beta-kl, or by --sigma)"
                )
            return PixelDensity.of_objective(
                1.0 if beta_rec is None else beta_rec, 1.0 if beta_kl is None else beta_kl, kind
            )
        if objective.kind == GAUSSIAN and learned is None:
            if score == "kl":
                return PixelDensity(1.0)
            raise ConfigError(
                "the run learned its decoder's deviation, and no checkpoint was found that has it; name the run's "
                "folder or a checkpoint with its state.pt, or give the deviation by --sigma (the run's metrics.jsonl "
                "has it as decoder_std)"
            )
        if beta_rec is None or beta_kl is None:
            of_rec, of_kl = objective.elbo_weights()
            beta_rec, beta_kl = (of_rec if beta_rec is None else beta_rec), (of_kl if beta_kl is None else beta_kl)
        if objective.kind == GAUSSIAN:
            assert learned is not None
            density = PixelDensity.of_objective(beta_rec / (2.0 * learned**2), beta_kl)
            if score != "kl":
                notice(
                    f"the run learned the deviation {learned:.4g}; with beta_rec = {beta_rec:g} and "
                    f"beta_kl = {beta_kl:g} that of p(x|z) is {density.sigma:.4g} (--sigma sets another)"
                )
            return density
        return PixelDensity.of_objective(beta_rec, beta_kl, objective.kind or "mse")
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(str(error)) from None
