"""Out-of-distribution detection with a trained model: from its run and data sets to scores, figures and thresholds."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from sivae import files
from sivae.data.images import ImageSet
from sivae.data.images.base import Split
from sivae.data.images.builtin.digits import open_digits
from sivae.data.images.parts import open_split
from sivae.data.images.pixels import as_picture, fit
from sivae.data.images.prepared import image_digest
from sivae.errors import ConfigError, DamagedImageError, DataError
from sivae.evaluation.likelihood import NUMBER_LIMIT, Estimates, PixelDensity, estimate, kl_to_prior
from sivae.evaluation.ood import SCORES, Score, Threshold, anomaly, separation, threshold_at
from sivae.machine import versions
from sivae.models import VAEModel
from sivae.models.base import device_and_dtype, samples_at_once
from sivae.models.pixels import from_uint8, image_range
from sivae.objectives import Objective
from sivae.progress import counting
from sivae.settings.data import Data, ImageData
from sivae.settings.run import RunConfig
from sivae.training.folder import CHECKPOINTS, CONFIG, read_config

DIGITS = "digits"  # in the place of a path: the digits that scikit-learn ships

Notice = Callable[[str], None]
Floats = NDArray[np.float64]
Scores = dict[Score, Floats]


@dataclass(frozen=True)
class Detector:
    """A model and how its scores are computed.

    Attributes:
        model: of images, without classes.
        density: p(x|z).
        score: which score decides; "kl" spares the decoder.
        samples: K of the likelihood, and of the ELBO's mean.
        seed: of the noise. That of an image is a function of the seed and of its pixels, so that a score does not
            depend on where and beside what the image lies.

    Raises:
        ConfigError: the model is of points or knows classes, or a setting cannot be.
    """

    model: VAEModel
    density: PixelDensity
    score: Score = "likelihood"
    samples: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        if len(self.model.sample_shape) != 3:
            raise ConfigError("this model makes points, not images; out-of-distribution detection is for images")
        if self.model.condition_dim:
            raise ConfigError(
                f"this model knows {self.model.condition_dim} classes, and an image from elsewhere is of none of them; "
                "train one without --conditional"
            )
        if self.score not in SCORES:
            raise ConfigError(f"score = {self.score!r}: expected one of {', '.join(SCORES)}")
        if self.samples < 1:
            raise ConfigError(f"samples = {self.samples}: expected at least 1")

    def of_pixels(self, pixels: NDArray[np.uint8]) -> Scores:
        """Scores of images, uint8 [N, H, W, C] of the model's size: `kl` alone, or all of them, float64 [N] each."""
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
        """An image cut to the largest square in its middle and brought to the model's size and channels."""
        channels, side, _ = self.model.sample_shape
        return fit(picture, resolution=side, crop="center", channels=channels, where=name)

    def digest(self) -> str:
        """Of the model: what it is and its weights."""
        digest = hashlib.blake2b(digest_size=16)
        digest.update(json.dumps([self.model.name, self.model.hyperparameters], sort_keys=True).encode())
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()


def run_of(source: Path) -> RunConfig | None:
    """The settings of the run that a folder is, or that it is a checkpoint of; None where it is another model's.

    Raises:
        ConfigError: its `config.json` is wrong.
    """
    folder = source.parent.parent if source.parent.name == CHECKPOINTS else source
    return read_config(folder) if (folder / CONFIG).is_file() else None


def density_of(
    objective: Objective | None,
    *,
    sigma: float | None = None,
    beta_rec: float | None = None,
    beta_kl: float | None = None,
    notice: Notice = lambda text: None,
) -> PixelDensity:
    """p(x|z), such that the ELBO is what the training maximised, unless it is asked for otherwise.

    Args:
        objective: of the run; None: unknown, and the weights are 1 where they are not given.
        sigma: of a Gaussian, in the place of the weights.
        beta_rec, beta_kl: in the place of the run's.
        notice: told where weights had to be assumed.

    Raises:
        ConfigError: both are given, or no density follows from them.
    """
    try:
        if sigma is not None:
            if beta_rec is not None or beta_kl is not None:
                raise ConfigError("sigma takes the place of beta_rec and beta_kl; leave one or the other out")
            return PixelDensity.gaussian(sigma)
        if objective is None:
            missing = [f"{name} = 1" for name, value in (("beta_rec", beta_rec), ("beta_kl", beta_kl)) if value is None]
            if missing:
                notice(
                    f"nothing tells how this model was trained; assuming {' and '.join(missing)} "
                    "(--beta-rec, --beta-kl, or --sigma, say otherwise)"
                )
            return PixelDensity.of_objective(1.0 if beta_rec is None else beta_rec, 1.0 if beta_kl is None else beta_kl)
        if beta_rec is None or beta_kl is None:
            of_rec, of_kl = objective.elbo_weights()
            beta_rec, beta_kl = (of_rec if beta_rec is None else beta_rec), (of_kl if beta_kl is None else beta_kl)
        return PixelDensity.of_objective(beta_rec, beta_kl, objective.kind or "mse")
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(str(error)) from None


class NamedImages(NamedTuple):
    """A set of images, and what to call it."""

    name: str
    images: ImageSet


def open_set(
    source: str | os.PathLike[str] | Data,
    *,
    split: Split | None = None,
    skip_damaged: bool = False,
    notice: Notice = lambda text: None,
) -> NamedImages:
    """Images to score.

    Args:
        source: any data set of images, the word "digits", or a run's data.
        split: which part; None: the test images where there are some, else all (or the train images).
        skip_damaged: leave out image files that cannot be decoded; else they are an error.
        notice: told what was chosen where there was a choice.

    Raises:
        DataError: nothing is there, it is damaged, or has no such part.
        ConfigError: the run's data is of points.
    """
    if isinstance(source, Data):
        images = source.open_split(split, skip_damaged=skip_damaged, notice=notice)
        return NamedImages(images.name if isinstance(source, ImageData) else source.name, images)
    if str(source) == DIGITS and not Path(source).exists():
        return NamedImages(DIGITS, open_digits(split or "test"))
    images = open_split(str(source), split, skip_damaged=skip_damaged, notice=notice)
    return NamedImages(images.name, images)


def score_set(detector: Detector, images: ImageSet, count: int, *, title: str, progress: bool = True) -> Scores:
    """Scores of `count` images spread evenly over a set, or of all where there are fewer.

    Raises:
        DataError: the set is empty; none of its images can be read; or one cannot, and the set was not opened to skip
            such.
    """
    if not len(images):
        raise DataError(f"{images.name} holds no images")
    rows = [int(row) for row in np.linspace(0, len(images) - 1, min(count, len(images))).round()]
    portions: list[Scores] = []
    with counting(title, len(rows), enabled=progress) as counter:
        for start in range(0, len(rows), size := samples_at_once(detector.model.sample_shape)):
            pixels = []
            for row in rows[start : start + size]:
                try:
                    pixels.append(detector.fitted(as_picture(images.read(row)), images.where(row)))
                except DamagedImageError:
                    if not images.skip_damaged:
                        raise
            if pixels:
                portions.append(detector.of_pixels(np.stack(pixels)))
            counter.advance(min(size, len(rows) - start))
    if not portions:
        raise DataError(f"{images.name}: none of its images can be read")
    return {score: np.concatenate([portion[score] for portion in portions]) for score in portions[0]}


def calibrate(detector: Detector, scores: Scores, quantile: float, data: str) -> Threshold:
    """The threshold of the detector's score at a quantile of images in distribution.

    Raises:
        ConfigError: the quantile is none, or the threshold would not be finite.
    """
    values = scores[detector.score]
    try:
        threshold = threshold_at(values, quantile)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    return Threshold(
        threshold=threshold,
        score=detector.score,
        samples=detector.samples,
        seed=detector.seed,
        precision=detector.density.precision,
        kind=detector.density.kind,
        quantile=quantile,
        images=len(values),
        data=data,
        model=detector.digest(),
    )


def detector_of(model: VAEModel, threshold: Threshold, path: Path) -> Detector:
    """The detector that a threshold was calibrated for.

    Args:
        model: the same one.
        threshold: as read.
        path: its file, for messages.

    Raises:
        ConfigError: the model is another one, or the file holds what cannot be.
    """
    try:
        density = PixelDensity(threshold.precision, threshold.kind)
    except ValueError as error:
        raise ConfigError(f"{path}: {error}; calibrate again") from None
    detector = Detector(model, density, threshold.score, threshold.samples, threshold.seed)
    if detector.digest() != threshold.model:
        raise ConfigError(f"{path} was calibrated for another model or checkpoint; calibrate again by --calibrate")
    return detector


def comparison(
    detector: Detector,
    names: tuple[str, str],
    inside: Scores,
    outside: Scores,
    *,
    threshold: Threshold | None = None,
    source: str = "",
) -> dict[str, Any]:
    """All that is known of how a detector tells two sets apart, ready for JSON.

    Args:
        detector: that made the scores.
        names: of the set in distribution and of the one out of it.
        inside, outside: their scores.
        threshold: where to part them; adds `found`, the share of the set outside that is above it.
        source: where the model is.
    """
    decisive = outside[detector.score]
    content: dict[str, Any] = {
        "model": source,
        "score": detector.score,
        "samples": detector.samples,
        "seed": detector.seed,
        "density": {"kind": detector.density.kind, "sigma": detector.density.sigma},
        "in": {"data": names[0], "images": len(inside[detector.score])},
        "out": {"data": names[1], "images": len(decisive)},
        "positive": "out",
        "metrics": {
            score: {name: one._asdict() for name, one in separation(inside[score], outside[score]).items()}
            for score in inside
        },
        "versions": versions(),
    }
    if threshold is not None:
        content["threshold"] = {
            "threshold": threshold.threshold,
            "quantile": threshold.quantile,
            "found": float((decisive > threshold.threshold).mean()),
        }
    return content


def write_set_scores(path: Path, sets: Mapping[str, Scores]) -> None:
    """CSV, written atomically: a row for each image, with its set and its scores."""
    names = list(next(iter(sets.values())))
    rows = [
        (name, *(repr(float(value)) for value in values))
        for name, scores in sets.items()
        for values in zip(*(scores[score] for score in names), strict=True)
    ]
    files.write_csv(path, ("set", *names), rows)
