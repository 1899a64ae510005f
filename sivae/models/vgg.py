"""The convolutions of VGG-16; perceptual distances compare their activations."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from sivae.errors import ModelFileError
from sivae.models.reading import read_weights
from sivae.models.storage import fill

VGG16_WEIGHTS = "vgg16-397923af.pth"

_BLOCKS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))  # channels and convolutions, with a pooling between blocks

TAPS = tuple(f"relu{block}_{count}" for block, (_, count) in enumerate(_BLOCKS, start=1))
"""The last activation of each block: relu1_2, relu2_2, relu3_3, relu4_3 and relu5_3."""

TAP_CHANNELS = {tap: channels for tap, (channels, _) in zip(TAPS, _BLOCKS, strict=True)}
"""Channels of each tap's map: 64, 128, 256, 512 and 512."""

_LEAST_SIDE = {tap: 2**poolings for poolings, tap in enumerate(TAPS)}

# Mean and deviation of ImageNet's red, green and blue, in [0, 1].
_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class VGG16Features(nn.Module):
    """The 13 convolutions of VGG-16 (Simonyan & Zisserman, ICLR 2015, table 1, D), each with ReLU.

    The layers are called `features.0` to `features.29`, as in torchvision. The last pooling is left out, because no
    layer follows it.

    Args:
        taps: the activations that a call returns, some of :data:`TAPS` in any order.
        value_range: the values of black and of white in the images.

    Raises:
        ValueError: a tap is unknown, none is named, or the range is empty or runs backwards.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, taps: Sequence[str] = TAPS, *, value_range: tuple[float, float] = (0.0, 1.0)) -> None:
        super().__init__()
        low, high = value_range
        if not low < high:
            raise ValueError(
                f"VGG16Features: value_range is {value_range}, expected (black, white) with black below white"
            )
        self.taps = _checked_taps(taps)
        layers: list[nn.Module] = []
        self._ends: dict[int, str] = {}
        incoming = 3
        for tap, (channels, count) in zip(TAPS, _BLOCKS, strict=True):
            if layers:
                layers.append(nn.MaxPool2d(2))
            for _ in range(count):
                layers += [nn.Conv2d(incoming, channels, 3, padding=1), nn.ReLU(inplace=True)]
                incoming = channels
            self._ends[len(layers) - 1] = tap
        self.features = nn.Sequential(*layers)
        # In the unit of the images. On the CPU also under torch.device("meta"), since no file holds these values.
        for name, shift, values in (("mean", low, _MEAN), ("deviation", 0.0, _DEVIATION)):
            scaled = torch.tensor([shift + (high - low) * value for value in values], device="cpu")
            self.register_buffer(name, scaled.view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor, taps: Sequence[str] | None = None) -> tuple[Tensor, ...]:
        """Compute the activations of images, which are normalized by ImageNet's mean and deviation first.

        Args:
            images: floating point [B, C, H, W] in `value_range`, which is not enforced; C is 1 or 3, and a grey image
                is repeated into three channels. They are converted to the weights' dtype.
            taps: some of :data:`TAPS`; None: those of the constructor. Layers after the last of them do not run.

        Returns:
            One map [B, channels, H // 2^k, W // 2^k] for each tap in the order of `taps`, where k = 0 … 4 is the number
            of poolings before the tap, in the weights' dtype or autocast's.

        Raises:
            ValueError: the images have another shape, or are so small that a tap's map is empty; a tap is unknown, or
                none is named.
            TypeError: the images are not floating point.
        """
        taps = self.taps if taps is None else _checked_taps(taps)
        if images.ndim != 4 or images.shape[1] not in (1, 3):
            raise ValueError(
                f"VGG16Features: images are {list(images.shape)}, expected [B, C, H, W] with 1 or 3 channels"
            )
        if not images.is_floating_point():
            raise TypeError(f"VGG16Features: images are {images.dtype}, expected floating point in the value range")
        deepest = max(taps, key=TAPS.index)
        height, width = images.shape[2:]
        if deepest not in taps_within(height, width):
            side = _LEAST_SIDE[deepest]
            raise ValueError(
                f"VGG16Features: images are {height} x {width}, and {deepest} needs {side} x {side} at least; "
                "choose earlier taps, or larger images"
            )
        x = (images.to(self.mean.dtype) - self.mean) / self.deviation
        found: dict[str, Tensor] = {}
        for position, layer in enumerate(self.features):
            x = layer(x)
            tap = self._ends.get(position)
            if tap in taps:
                found[tap] = x
            if tap == deepest:
                break
        return tuple(found[tap] for tap in taps)


def pair_of_maps(
    network: VGG16Features, one: Tensor, other: Tensor, taps: Sequence[str] | None
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Compute the activations of two batches of one shape.

    The network runs once over both together. If only one of them needs a gradient, it runs over each separately, so
    that no activation is kept and no gradient computed for the other.

    Args:
        network: its parameters need no gradient.
        one, other: images [B, C, H, W].
        taps: see :class:`VGG16Features`.

    Raises:
        TypeError, ValueError: as :class:`VGG16Features`.
    """
    if torch.is_grad_enabled() and one.requires_grad != other.requires_grad:
        return _maps(network, one, taps), _maps(network, other, taps)
    joined = [both.split([one.shape[0]] * 2) for both in network(torch.cat([one, other]), taps)]
    return tuple(pair[0] for pair in joined), tuple(pair[1] for pair in joined)


def _maps(network: VGG16Features, images: Tensor, taps: Sequence[str] | None) -> tuple[Tensor, ...]:
    with torch.set_grad_enabled(images.requires_grad):
        maps: tuple[Tensor, ...] = network(images, taps)
    return maps


def taps_within(height: int, width: int) -> tuple[str, ...]:
    """Return those of :data:`TAPS` whose map is not empty for an image of this size.

    From 16 x 16 pixels on these are all taps; each halving of the shorter side loses one, and a side of 1 leaves
    relu1_2.
    """
    return tuple(tap for tap in TAPS if min(height, width) >= _LEAST_SIDE[tap])


def load_vgg16(
    path: str | os.PathLike[str], taps: Sequence[str] = TAPS, *, value_range: tuple[float, float] = (0.0, 1.0)
) -> VGG16Features:
    """Read the network from a file in torchvision's layout.

    Args:
        path: torchvision's :data:`VGG16_WEIGHTS`, or another file of `torch.save` or safetensors (recognized by its
            ending) with `features.0.weight` to `features.28.bias`; tensors of the classifier are ignored. Nothing in it
            is executed, and no random number is drawn.
        taps, value_range: as for :class:`VGG16Features`.

    Returns:
        The network in float32, on the CPU, in eval mode, its parameters without gradients.

    Raises:
        OSError: the file cannot be read.
        ModelFileError: the file has another format or layout, or is damaged.
        ValueError: as for :class:`VGG16Features`.
    """
    with torch.device("meta"):
        network = VGG16Features(taps, value_range=value_range)
    try:
        tensors = read_weights(Path(path))
        convolutions = {name: value for name, value in tensors.items() if not name.startswith("classifier.")}
        names = {name: f"features.{name}" for name in network.features.state_dict()}
        fill(network.features, convolutions, str(path), names)
    except ModelFileError as error:
        raise ModelFileError(f"{error}; name torchvision's weights of VGG-16, {VGG16_WEIGHTS}") from None
    return network.requires_grad_(False).eval()


def _checked_taps(taps: Sequence[str]) -> tuple[str, ...]:
    unknown = [tap for tap in taps if tap not in TAPS]
    if unknown or not taps:
        came = repr(unknown[0]) if unknown else "none"
        raise ValueError(f"VGG16Features: got {came} for a tap, expected some of {', '.join(TAPS)}")
    return tuple(taps)
