"""LPIPS, a distance of images by VGG-16's features and weights that were fitted to people's judgements."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn

from sivae.errors import ModelFileError
from sivae.models.reading import read_weights
from sivae.models.storage import fill
from sivae.models.vgg import TAP_CHANNELS, TAPS, VGG16Features, load_vgg16, pair_of_maps

LPIPS_WEIGHTS = "weights/v0.1/vgg.pth"
SMALLEST_COMPARED = 16  # pixels, below which the last taps have no map

_EPSILON = 1e-10  # added to a pixel's norm over the channels


class LPIPS(nn.Module):
    """Learned perceptual image patch similarity (Zhang et al., CVPR 2018, equation 1), version 0.1 with VGG-16.

    With φ_l the five taps' activations, divided at each pixel by their norm over the channels plus 1e-10, and w_l ≥ 0
    one weight for each channel::

        d(a, b) = Σ_l 1/(H_l W_l) Σ_pixels Σ_channels w_l (φ_l(a) - φ_l(b))²

    The original maps images to [-1, 1] and normalises them by the shift (-0.030, -0.088, -0.188) and the scale (0.458,
    0.448, 0.450). In [0, 1] these are the mean (1 + shift) / 2 = (0.485, 0.456, 0.406) and the deviation scale / 2 =
    (0.229, 0.224, 0.225): ImageNet's, by which the network here normalises. The two differ only by rounding.

    Args:
        network: as :func:`sivae.models.vgg.load_vgg16` reads it, for the images' value range; its taps are not used.
        weights: w_l by tap, each [1, C, 1, 1].

    Raises:
        ValueError: a tap's weights are missing or of another shape.
    """

    def __init__(self, network: VGG16Features, weights: dict[str, Tensor]) -> None:
        super().__init__()
        self.network = network
        for tap, channels in TAP_CHANNELS.items():
            came = weights.get(tap)
            if came is None or came.shape != (1, channels, 1, 1):
                shape = "missing" if came is None else f"{list(came.shape)}"
                raise ValueError(f"LPIPS: the weights of {tap} are {shape}, expected [1, {channels}, 1, 1]")
            self.register_buffer(tap, came.detach())

    @classmethod
    def from_files(
        cls,
        vgg: str | os.PathLike[str],
        linear: str | os.PathLike[str],
        *,
        value_range: tuple[float, float] = (0.0, 1.0),
    ) -> Self:
        """Read the weights from two files, without executing anything in them.

        Args:
            vgg: as for :func:`sivae.models.vgg.load_vgg16`.
            linear: as for :func:`load_linear`.
            value_range: the values that stand for black and for white in the images.

        Returns:
            Everything in float32, on the CPU.

        Raises:
            OSError: a file cannot be read.
            ModelFileError: a file is damaged, or holds other weights.
            ValueError: the range is empty or runs backwards.
        """
        weights = load_linear(linear)
        return cls(load_vgg16(vgg, value_range=value_range), weights)

    def forward(self, images: Tensor, others: Tensor) -> Tensor:
        """The distance of each pair, with gradients to both; see :func:`sivae.models.vgg.pair_of_maps` for their cost.

        Without gradients it takes about 1 kB of memory for each pixel of each image in float32: the maps of all taps
        are 122 values a pixel, and comparing the first takes twice its 64 again.

        Args:
            images, others: [B, C, H, W] of one shape, in the value range, 16 x 16 pixels at least; C is 1 or 3.

        Returns:
            float64 [B], 0 or more, and 0 where the two are equal; sums over the channels are in the network's dtype.

        Raises:
            ValueError: the shapes differ, or are no batches of images, or too small.
            TypeError: they are not floating point.
        """
        if images.shape != others.shape:
            raise ValueError(f"LPIPS: images are {list(images.shape)} and {list(others.shape)}, expected two equal")
        distance = torch.zeros(images.shape[0], dtype=torch.float64, device=images.device)
        for tap, *pair in zip(TAPS, *pair_of_maps(self.network, images, others, TAPS), strict=True):
            one, other = (maps / (maps.norm(dim=1, keepdim=True) + _EPSILON) for maps in pair)
            weighted = ((one - other).square() * self.get_buffer(tap)).sum(1)
            distance += weighted.mean((1, 2), dtype=torch.float64)
        return distance


def load_linear(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Read the weights of the channels, without executing anything in the file.

    Args:
        path: the file :data:`LPIPS_WEIGHTS` of the package lpips (torchmetrics has it too, as lpips_models/vgg.pth), or
            another of `torch.save` or (where it ends so) safetensors, with `lin0.model.1.weight` to
            `lin4.model.1.weight`, each [1, C, 1, 1].

    Returns:
        By tap, [1, C, 1, 1] each, float32 on the CPU.

    Raises:
        OSError: the file cannot be read.
        ModelFileError: it is damaged, or holds other weights.
    """
    with torch.device("meta"):
        weights = nn.ParameterDict({tap: torch.empty(1, channels, 1, 1) for tap, channels in TAP_CHANNELS.items()})
    names = {tap: f"lin{index}.model.1.weight" for index, tap in enumerate(TAPS)}
    try:
        fill(weights, read_weights(Path(path)), str(path), names)
        for tap, weight in weights.items():
            if bool((weight < 0).any()):
                raise ModelFileError(f"{path}: {names[tap]} holds {weight.min():.3g}, expected none below 0")
    except ModelFileError as error:
        raise ModelFileError(f"{error}; name the file {LPIPS_WEIGHTS} of the package lpips") from None
    return dict(weights)
