"""Say what each metric measures, in which unit, and whether less or more of it is better."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple


class Meaning(NamedTuple):
    """What a metric means.

    Attributes:
        better: "lower" or "higher"; empty: neither.
        words: what it measures, with its unit.
    """

    better: str
    words: str


POINTS = {
    "gnelbo": Meaning("lower", "negative ELBO over a grid (nats)"),
    "official_kl": Meaning("lower", "the authors' KL of data and samples"),
    "official_jsd": Meaning("lower", "the authors' JSD of data and samples"),
    "kl": Meaning("lower", "KL from data to samples (nats)"),
    "jsd": Meaning("lower", "JSD of the two (0.693 nats at most)"),
    "modes_captured": Meaning("higher", "modes that have samples"),
    "mode_precision": Meaning("higher", "share of samples near a mode"),
}
_PIXELS = {
    "mse": Meaning("lower", "squared error of a pixel, from 0 to 1"),
    "psnr": Meaning("higher", "the same in dB"),
    "ssim": Meaning("higher", "structural similarity, 1: equal"),
    "lpips": Meaning("lower", "perceptual distance"),
}
IMAGES = {
    **_PIXELS,
    "rec": Meaning("lower", "squared error, summed over an image"),
    "kl": Meaning("", "KL from posterior to prior (nats)"),
    "fid": Meaning("lower", "samples to images, by Inception"),
    "kid_mean": Meaning("lower", "the same, whatever the count"),
    "kid_std": Meaning("", "deviation of kid_mean over subsets"),
    "fid_images": Meaning("", "images that fid and kid compare"),
    "class_chance": Meaning("", "accuracy of guessing one class"),
    "content_chance": Meaning("", "accuracy of guessing one content"),
}
CLOUDS = {
    "chamfer": Meaning("lower", "Chamfer distance to the reconstruction"),
    "kl": Meaning("", "KL from posterior to prior (nats)"),
    "voxel_jsd": Meaning("lower", "JSD of samples and clouds (bits)"),
    "mmd": Meaning("lower", "Chamfer distance to the nearest sample"),
    "coverage": Meaning("higher", "share of clouds nearest to a sample"),
    "one_nn": Meaning("lower", "accuracy of telling samples, best 0.5"),
}

_NETWORK = "_effnet_lite0"
SAMPLES = {  # by EfficientNet-Lite0, whose values are not those of Inception
    "kid": Meaning("lower", "samples to images, whatever the count"),
    "kid_std": Meaning("", "deviation of kid over subsets"),
    "kid_subset": Meaning("", "images in a subset of kid"),
    "fid": Meaning("lower", "samples to images"),
    "precision": Meaning("higher", "share of samples like real images"),
    "recall": Meaning("higher", "share of images like samples"),
    "images": Meaning("", "images compared on each side"),
}


def meanings(names: Collection[str]) -> list[Meaning]:
    """The meanings of a model's metrics; empty words for one that is not known.

    A kl is another thing of points than of images. Metrics of points have a jsd, those of clouds have a chamfer.
    """
    known = POINTS if "jsd" in names else CLOUDS if "chamfer" in names else IMAGES
    return [known.get(name) or _of_samples(name) or _of_translation(name) for name in names]


def _of_samples(name: str) -> Meaning | None:
    """The meaning of a metric that ends with the name of its feature network."""
    base, ending, _ = name.partition(_NETWORK)
    return SAMPLES.get(base) if ending else None


def _of_translation(name: str) -> Meaning:
    for prefix, what in (("transfer_", "recombined images"), ("reconstruction_", "reconstructions")):
        if name.startswith(prefix) and name.removeprefix(prefix) in _PIXELS:
            base = _PIXELS[name.removeprefix(prefix)]
            return base._replace(words=f"{what}: {base.words}")
    for target in ("class", "content"):
        for source in ("class", "content"):
            if name.removesuffix("_draws") == f"{target}_from_{source}":
                drawn = "a draw of " if name.endswith("_draws") else ""
                better = "higher" if target == source else "lower"
                return Meaning(better, f"{target} read from {drawn}{source} code, accuracy")
    return Meaning("", "")
