"""The model `conv`: the residual convolutional networks of IntroVAE and Soft-IntroVAE."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sivae.bounds import MODEL_SIDE
from sivae.models.base import checked_counts
from sivae.models.doubling import DoublingConv2d
from sivae.models.norm import NORMS, Norm, activated, make_norm
from sivae.models.priors import PriorName
from sivae.models.recompute import StagedNetwork, StagedVAE
from sivae.models.small_maps import MapConv2d

_SLOPE = 0.2


class ConvVAE(StagedVAE):
    """Residual encoder and decoder for square images in [0, 1], as published with IntroVAE and Soft-IntroVAE.

    The encoder halves the side once per width, and the decoder doubles it as often. As published, the last layer has no
    non-linearity: decoded values may be outside [0, 1].

    Args:
        image_size: side of the images, a multiple of 2^len(widths).
        channels: channels of the images.
        widths: channels of the encoder's stages, from the image to the latent; the decoder has them in reverse.
        z_dim: number of latent values per image.
        norm: "batch" as published; "group" normalizes each sample alone (see :func:`sivae.models.norm.make_norm`);
            "none" gives the convolutions a bias instead.
        condition_dim: length of the condition, a vector that is joined to the features and to z; 0: none.
        prior_std: see :class:`VAEModel`.
        prior: "standard", "mixture" or "vamp", see :mod:`sivae.models.priors`.
        prior_components: number of Gaussians of a learned prior.
        makes_logits: let a sigmoid follow the last layer, as the error "bce" needs; see :class:`VAEModel`.

    Attributes:
        checkpoint_activations: keep only each stage's input for the backward pass, and compute the rest again there.
            This needs a fraction of the memory and about a third more time; results are the same. False by default.

    Raises:
        ValueError: an argument is out of range; the message names it and the accepted values.
    """

    name = "conv"
    value_range = (0.0, 1.0)
    encoder: ConvEncoder
    decoder: ConvDecoder

    def __init__(
        self,
        image_size: int = 32,
        channels: int = 3,
        widths: Sequence[int] = (64, 128, 256),
        z_dim: int = 128,
        norm: Norm = "batch",
        condition_dim: int = 0,
        prior_std: float = 1.0,
        prior: PriorName = "standard",
        prior_components: int = 10,
        makes_logits: bool = False,
    ) -> None:
        super().__init__()
        widths = _checked_widths(widths)
        checked_counts("ConvVAE", 1, MODEL_SIDE, image_size=image_size)
        checked_counts("ConvVAE", 1, channels=channels, z_dim=z_dim)
        checked_counts("ConvVAE", 0, condition_dim=condition_dim)
        if norm not in NORMS:
            raise ValueError(f"ConvVAE: norm is {norm!r}, expected one of {', '.join(NORMS)}")
        _check_side(image_size, len(widths))
        self.hyperparameters = {
            "image_size": image_size,
            "channels": channels,
            "widths": list(widths),
            "z_dim": z_dim,
            "norm": norm,
            "condition_dim": condition_dim,
        }
        self._set_prior_std(prior_std)
        if not isinstance(makes_logits, bool):
            raise ValueError(f"ConvVAE: makes_logits is {makes_logits!r}, expected True or False")
        self.makes_logits = makes_logits
        if makes_logits:  # else it is described as before there was a choice
            self.hyperparameters["makes_logits"] = True
        self.z_dim = z_dim
        self.sample_shape = (channels, image_size, image_size)
        self.condition_dim = condition_dim
        self.mixes_samples = norm == "batch"
        side = image_size >> len(widths)
        self.encoder = ConvEncoder(channels, widths, side, z_dim, norm, condition_dim)
        self.decoder = ConvDecoder(channels, widths, side, z_dim, norm, condition_dim)
        self._set_prior(prior, prior_components)


class ConvEncoder(StagedNetwork):
    """Images [B, C, H, W] (and conditions [B, condition_dim]) -> mu and logvar side by side, [B, 2 z_dim]."""

    def __init__(
        self, channels: int, widths: Sequence[int], side: int, z_dim: int, norm: Norm, condition_dim: int
    ) -> None:
        super().__init__()
        self.entry = _Entry(channels, widths[0], norm)
        outs = [*widths[1:], widths[-1]]
        self.stages = nn.ModuleList(
            ResidualBlock(fan_in, fan_out, norm, pool=index < len(widths) - 1)
            for index, (fan_in, fan_out) in enumerate(zip(widths, outs, strict=True))
        )
        self.head = nn.Linear(widths[-1] * side * side + condition_dim, 2 * z_dim)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        x = self._through(self.entry, x)
        for stage in self.stages:
            x = self._through(stage, x)
        # The weight expects this order. Channels-last features are copied here, where they are smallest.
        features = x.flatten(1)
        if condition is not None:
            features = torch.cat([features, condition.to(features.dtype)], dim=1)
        head: Tensor = self.head(features)
        return head


class ConvDecoder(StagedNetwork):
    """Latents [B, z_dim] (and conditions [B, condition_dim]) -> images [B, C, H, W]."""

    def __init__(
        self, channels: int, widths: Sequence[int], side: int, z_dim: int, norm: Norm, condition_dim: int
    ) -> None:
        super().__init__()
        self._features = (widths[-1], side, side)
        self.head = nn.Linear(z_dim + condition_dim, widths[-1] * side * side)
        outs = [*reversed(widths), widths[0]]
        ins = [widths[-1], *outs[:-1]]
        self.stages = nn.ModuleList(
            ResidualBlock(fan_in, fan_out, norm, upsample=index > 0)
            for index, (fan_in, fan_out) in enumerate(zip(ins, outs, strict=True))
        )
        self.predict = nn.Conv2d(widths[0], channels, 5, padding=2)

    def forward(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        if condition is not None:
            z = torch.cat([z, condition.to(z.dtype)], dim=1)
        x = F.relu_(self.head(z)).unflatten(1, self._features)  # [B, widths[-1], side, side]
        if _is_channels_last(self.predict.weight):
            x = x.contiguous(memory_format=torch.channels_last)  # the layers below keep this format
        for stage in self.stages:
            x = self._through(stage, x)
        predicted: Tensor = self.predict(x)
        return predicted


class _Entry(nn.Module):
    """[B, C, H, W] -> [B, width, H/2, W/2]."""

    def __init__(self, channels: int, width: int, norm: Norm) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, width, 5, padding=2, bias=norm == "none")
        self.norm = make_norm(norm, width)

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(activated(self.norm, self.conv(x), _SLOPE), 2)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions, added to the identity or, where the widths differ, to a 1x1 convolution.

    Args:
        fan_in, fan_out: channels of input and output.
        norm: the norm after each 3x3 convolution; the sum has none.
        upsample: double the side first, by nearest neighbours.
        pool: halve the side at the end, by averages.
    """

    def __init__(self, fan_in: int, fan_out: int, norm: Norm, *, upsample: bool = False, pool: bool = False) -> None:
        super().__init__()
        bias = norm == "none"
        self.upsample, self.pool = upsample, pool
        self.expand = nn.Conv2d(fan_in, fan_out, 1, bias=False) if fan_in != fan_out else None
        self.conv1 = (DoublingConv2d if upsample else MapConv2d)(fan_in, fan_out, 3, padding=1, bias=bias)
        self.norm1 = make_norm(norm, fan_out)
        self.conv2 = MapConv2d(fan_out, fan_out, 3, padding=1, bias=bias)
        self.norm2 = make_norm(norm, fan_out)

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.expand is None else self.expand(x)
        if self.upsample:  # the 1x1 convolution comes first: the result is the same, at a quarter of the cost
            identity = F.interpolate(identity, scale_factor=2.0, mode="nearest")
        hidden = activated(self.norm1, self.conv1(x), _SLOPE)
        result = activated(self.norm2, self.conv2(hidden), _SLOPE, residual=identity)
        return F.avg_pool2d(result, 2) if self.pool else result


def _is_channels_last(weight: Tensor) -> bool:
    return weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()


def _checked_widths(widths: Sequence[int]) -> tuple[int, ...]:
    if isinstance(widths, str) or not isinstance(widths, Sequence) or not widths:
        raise ValueError(f"ConvVAE: widths is {widths!r}, expected a channel count per halving, such as (64, 128, 256)")
    for width in widths:
        checked_counts("ConvVAE", 1, widths=width)
    return tuple(widths)


def _check_side(side: int, halvings: int) -> None:
    multiple = 2**halvings
    if side % multiple == 0:
        return
    below = side // multiple * multiple
    sizes = f"{below} or {below + multiple}" if below else f"{multiple}"
    fitting = (side & -side).bit_length() - 1  # how often the side can be halved
    remedy = f"take image_size {sizes}" + (f", or at most {fitting} width{'s' * (fitting > 1)}" if fitting else "")
    raise ValueError(
        f"ConvVAE: image_size is {side}, not a multiple of {multiple} = 2^{halvings} for {halvings} widths, so the "
        f"decoder would not return to it; {remedy}"
    )
