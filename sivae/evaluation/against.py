"""Compare a model's samples, or a set of images, with a reference set by the features of EfficientNet-Lite0."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sivae.data.images.base import ImageSet, spread
from sivae.data.images.crop import Crop, crop_text
from sivae.data.images.loading.damage import kept_images
from sivae.data.images.loading.fitting import REMEDY, nearest
from sivae.data.images.parts import open_split
from sivae.data.images.pixels import fit_square
from sivae.data.notice import Notice, ignore
from sivae.errors import ConfigError, DamagedImageError, FeaturesError
from sivae.evaluation.feature_distances import FID_LEAST, NEIGHBOUR, sample_metrics
from sivae.evaluation.features import ENDING, FeatureNetwork, FeatureSet, effnet_lite0
from sivae.evaluation.image_metrics import generate_for_metrics
from sivae.models import VAEModel
from sivae.models.base import device_and_dtype, evaluating
from sivae.models.pixels import image_range, to_uint8
from sivae.progress import PATIENCE_SECONDS, Progress, counting

COUNT = 5_000  # images of each side; FID needs them


@dataclass(frozen=True, kw_only=True)
class Against:
    """The reference of a comparison.

    Attributes:
        path: images in any format, of which the test part is taken where there is one; or a file that `save_to` named
            before.
        count: number of images of each side at most, spread over the set.
        crop: the part of each image to keep.
        skip_damaged: leave out images that cannot be decoded; else they are an error.
        save_to: file to write the reference's features to, whose name ends in `.safetensors`.
        notice: called with lines for the user.
        show: show progress.

    Raises:
        ConfigError: the folder of `save_to` does not exist.
    """

    path: Path
    count: int = COUNT
    crop: Crop = "center"
    skip_damaged: bool = False
    save_to: Path | None = None
    notice: Notice = ignore
    show: bool = False

    def __post_init__(self) -> None:
        if self.save_to is not None and not self.save_to.parent.is_dir():
            raise ConfigError(f"{self.save_to}: there is no folder {self.save_to.parent} to write to; make it first")


def compare_samples(
    model: VAEModel,
    against: Against,
    *,
    seed: int,
    conditions: Callable[[int], Tensor | None] = lambda count: None,
) -> dict[str, float]:
    """Compare samples of a model with the reference, whose images are brought to the model's size and channels.

    As many samples are drawn as there are images, in eval mode.

    Args:
        model: of images; it runs in eval mode without gradients, and every part of it gets its mode back.
        against: the reference.
        seed: seed of the samples and of KID's subsets.
        conditions: returns conditions [count, condition_dim] for a conditional model.

    Returns:
        See :func:`sivae.evaluation.feature_distances.sample_metrics`; NaN where a sample holds values that are not
        finite.

    Raises:
        FeaturesError: the network's weights are not installed, or the reference does not fit, or has too few images.
        DataError: the reference is missing or damaged.
    """
    network = effnet_lite0(device_and_dtype(model)[0])
    channels, side, _ = model.sample_shape
    real = _reference(network, against, (side, channels))
    count, value_range = len(real), image_range(model)
    parts, finite = [], True
    with evaluating(model), counting("features of samples", count, enabled=against.show) as counter:
        for images in generate_for_metrics(model, count, seed=seed, condition=conditions(count)):
            finite = finite and bool(images.isfinite().all())
            for part in to_uint8(images, value_range).split(network.at_once):
                parts.append(network.of(part))
                counter.advance(len(part))
    metrics = _metrics(network, real.values, torch.cat(parts), against, seed)
    distances = {name for name in metrics if not name.startswith(("kid_subset_", "images_"))}
    return metrics if finite else {name: math.nan if name in distances else metrics[name] for name in metrics}


def compare_images(path: Path, against: Against, *, seed: int, device: torch.device) -> dict[str, float]:
    """Compare a set of images with the reference, all as they are.

    Args:
        path: images in any format, or a file of features.
        against: the reference.
        seed: seed of KID's subsets.
        device: device of the network.

    Returns, Raises:
        See :func:`compare_samples`.
    """
    network = effnet_lite0(device)
    real = _reference(network, against, None)
    given = _features(network, path, against, None)
    if (given.side, given.channels) != (real.side, real.channels):
        against.notice(
            f"{given.source} has {_described(given.side, given.channels)}, and {real.source} "
            f"{_described(real.side, real.channels)}: the metrics also see this difference; sivae prepare brings both "
            "to one size"
        )
    count = min(len(given), len(real))
    return _metrics(network, real.spread(count).values, given.spread(count).values, against, seed)


def _reference(network: FeatureNetwork, against: Against, shape: tuple[int, int] | None) -> FeatureSet:
    real = _features(network, against.path, against, shape)
    if against.save_to is not None:
        real.save(against.save_to)
    return real


def _features(network: FeatureNetwork, path: Path, against: Against, shape: tuple[int, int] | None) -> FeatureSet:
    """The features of images, or of a file of features; `shape` is the side and the channels that images get."""
    if path.suffix == ENDING and path.is_file():
        found = FeatureSet.load(path, network)
        expected = None if shape is None else (*shape, _crop_name(against))
        if expected is not None and (found.side, found.channels, found.crop) != expected:
            raise FeaturesError(
                f"{path} has features of {_described(found.side, found.channels, found.crop)}, expected "
                f"{_described(*expected)} as for this model; compare with the images themselves, and keep their "
                "features by --save-features"
            )
        found = found.spread(against.count)
    else:
        images = open_split(str(path), None, skip_damaged=against.skip_damaged, notice=against.notice)
        found = _computed(network, images, against, shape)
    if len(found) <= NEIGHBOUR:
        raise FeaturesError(
            f"{path} holds {len(found)} images, expected {NEIGHBOUR + 1} at least, and hundreds for metrics that mean "
            "something; name more images"
        )
    return found


def _computed(network: FeatureNetwork, images: ImageSet, against: Against, shape: tuple[int, int] | None) -> FeatureSet:
    if shape is not None:
        images = nearest(images, shape[0], against.crop)
    rows = spread(len(images), against.count)
    parts: list[Tensor] = []
    shapes: set[tuple[int, ...]] = set()
    damaged: dict[int, str] = {}
    with counting(f"features of {images.name}", len(rows), enabled=against.show) as counter:
        for start in range(0, len(rows), network.at_once):
            some = []
            for row in rows[start : start + network.at_once]:
                try:
                    some.append(_pixels(images, row, shape, against.crop))
                except DamagedImageError as error:
                    damaged[row] = str(error)
                counter.advance()
            if damaged and not against.skip_damaged:
                continue  # the others are only looked at for damage
            for size, group in itertools.groupby(some, key=np.shape):
                shapes.add(size)
                parts.append(network.of(torch.from_numpy(np.stack(list(group))).permute(0, 3, 1, 2)))
    kept_images(images, damaged, REMEDY, against.notice)
    sides, channels = {size[0] for size in shapes}, {size[2] for size in shapes}
    return FeatureSet(
        torch.cat(parts) if parts else torch.zeros(0, 0),
        network.name,
        network.preprocessing,
        network.weights,
        images.name,
        sides.pop() if len(sides) == 1 else 0,
        max(channels, default=3),
        _crop_name(against),
    )


def _pixels(images: ImageSet, row: int, shape: tuple[int, int] | None, crop: Crop) -> np.ndarray:
    """A part of an image, uint8 [side, side, C]; at its own size and with its own channels where no shape is given."""
    if shape is not None:
        return images.read_square(row, *shape, crop)
    picture = images.picture(row)
    side = crop[2] if isinstance(crop, tuple) else min(picture.size)
    return fit_square(picture, side, 1 if picture.mode == "L" else 3, images.where(row), crop)


def _metrics(network: FeatureNetwork, real: Tensor, given: Tensor, against: Against, seed: int) -> dict[str, float]:
    if len(real) < FID_LEAST:
        against.notice(f"FID is left out: it needs {FID_LEAST:,} images of each side, and there are {len(real):,}")
    with Progress("comparing", 1, patience=PATIENCE_SECONDS, enabled=against.show) as progress:
        metrics = sample_metrics(real, given, network=network.name, seed=seed, doing=progress.begin)
        progress.update(1)
    return metrics


def _crop_name(against: Against) -> str:
    return crop_text(against.crop) or "center"


def _described(side: int, channels: int, crop: str = "center") -> str:
    size = f"{side}x{side}" if side else "several sizes"
    cut = "" if crop == "center" else f" cut at {crop}"
    return f"{'grey' if channels == 1 else 'RGB'} images of {size}{cut}"
