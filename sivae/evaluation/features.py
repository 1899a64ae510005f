"""Compute the features that metrics of samples compare, and keep them in a file."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from sivae.data.images.base import spread
from sivae.errors import FeaturesError
from sivae.files import write_safetensors
from sivae.models import efficientnet
from sivae.models.base import evaluating
from sivae.models.precision import float32_products

ENDING = ".safetensors"

_FORMAT = "sivae features 1"
_TENSOR = "features"
_AT_ONCE, _AT_ONCE_CPU = 128, 16  # images in the network; a CPU's caches hold the maps of few


@dataclass(frozen=True)
class FeatureNetwork:
    """A network of features, with everything that two values must share to be comparable.

    Attributes:
        name: ends the names of the metrics.
        module: uint8 [B, 3, H, W] -> [B, d]. It runs in eval mode without gradients, and gets its mode back.
        preprocessing: what it does to the images first, in words.
        weights: digest of its weights.
        size: number d of its features.
        device: where it runs; images are moved there.
    """

    name: str
    module: nn.Module
    preprocessing: str
    weights: str
    size: int
    device: torch.device

    @property
    def at_once(self) -> int:
        """The number of images that it takes at once."""
        return _AT_ONCE_CPU if self.device.type == "cpu" else _AT_ONCE

    def of(self, pixels: Tensor) -> Tensor:
        """Compute the features of images.

        Args:
            pixels: uint8 [B, C, H, W] with C = 1 or 3; grey images are repeated into three channels.

        Returns:
            float32 [B, d], on the CPU.
        """
        pixels = pixels.to(self.device).expand(-1, 3, -1, -1)
        with evaluating(self.module), float32_products(rounded=False):
            parts = [self.module(part.contiguous()).float().cpu() for part in pixels.split(self.at_once)]
        return torch.cat(parts)


def effnet_lite0(device: torch.device) -> FeatureNetwork:
    """The features of EfficientNet-Lite0, whose weights the extra `[metrics]` installs.

    Raises:
        FeaturesError: the weights are not installed.
        ModelFileError: the installed file has other content.
    """
    network = efficientnet.load_efficientnet_lite0().to(device)
    return FeatureNetwork(
        "effnet_lite0", network, efficientnet.PREPROCESSING, efficientnet.WEIGHTS_SHA256, efficientnet.FEATURES, device
    )


@dataclass(frozen=True)
class FeatureSet:
    """The features of a set of images.

    Attributes:
        values: float32 [N, d] on the CPU.
        network, preprocessing, weights: of the :class:`FeatureNetwork`.
        source: name of the set.
        side: height and width of its images in pixels; 0 where they differ.
        channels: 1 for grey images, else 3.
        crop: the part of each image that was kept, as :func:`sivae.data.images.crop.parse_crop` reads it.
    """

    values: Tensor
    network: str
    preprocessing: str
    weights: str
    source: str
    side: int
    channels: int
    crop: str

    def __len__(self) -> int:
        return len(self.values)

    def spread(self, count: int) -> FeatureSet:
        """The features of `count` images spread over the set; all where there are fewer."""
        return dataclasses.replace(self, values=self.values[spread(len(self), count)])

    def save(self, path: Path) -> None:
        """Write everything to a file of safetensors, with a digest of the values."""
        texts = {
            "format": _FORMAT,
            "network": self.network,
            "preprocessing": self.preprocessing,
            "weights": self.weights,
            "source": self.source,
            "side": str(self.side),
            "channels": str(self.channels),
            "crop": self.crop,
            "digest": _digest(self.values),
        }
        write_safetensors(path, {_TENSOR: self.values}, texts)

    @classmethod
    def load(cls, path: str | os.PathLike[str], network: FeatureNetwork) -> Self:
        """Read a file of :meth:`save`. Nothing in it is executed.

        Raises:
            OSError: the file cannot be read.
            FeaturesError: it is no such file, or damaged, or of another network.
        """
        Path(path).open("rb").close()  # the library's errors of the system do not name the file
        try:
            with safe_open(path, framework="pt") as file:
                texts = file.metadata() or {}
                if texts.get("format") != _FORMAT:
                    raise FeaturesError(f"{path} holds no features ({_FORMAT!r}); {_WRITE}")
                values = file.get_tensor(_TENSOR)
            found = cls(
                values,
                texts["network"],
                texts["preprocessing"],
                texts["weights"],
                texts["source"],
                int(texts["side"]),
                int(texts["channels"]),
                texts["crop"],
            )
            digest = texts["digest"]
        except (SafetensorError, KeyError, ValueError) as error:
            if isinstance(error, FeaturesError):
                raise
            raise FeaturesError(f"{path} is no file of features, or damaged ({error}); {_WRITE}") from None
        if values.dtype != torch.float32 or _digest(values) != digest or not bool(values.isfinite().all()):
            raise FeaturesError(f"{path} is damaged: its values do not have the digest that it names; {_WRITE}")
        for what in ("name", "weights", "preprocessing"):
            came = getattr(found, "network" if what == "name" else what)
            expected = getattr(network, what)
            if came != expected:
                raise FeaturesError(f"{path} has features of the {what} {came!r}, expected {expected!r}; {_WRITE}")
        if values.ndim != 2 or values.shape[1] != network.size:
            raise FeaturesError(f"{path} has values {list(values.shape)}, expected [N, {network.size}]; {_WRITE}")
        return found


_WRITE = "write it again by sivae evaluate ... --against IMAGES --save-features FILE.safetensors"


def _digest(values: Tensor) -> str:
    return hashlib.sha256(values.contiguous().numpy().tobytes()).hexdigest()
