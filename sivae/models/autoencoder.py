"""The model `autoencoder`: the networks of diffusers' `AutoencoderKL`, whose latents are maps [B, C, H, W].

Names and shapes of the parameters are those of diffusers, except that `quant_conv` belongs to the encoder here, and
`post_quant_conv` to the decoder. :mod:`sivae.models.diffusers_folder` reads and writes folders of diffusers.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NamedTuple, NotRequired, TypedDict

from torch import Tensor, nn
from torch.nn import functional as F

from sivae.bounds import AUTOENCODER_BLOCKS, MODEL_SIDE
from sivae.fields import POSITIVE, table
from sivae.models.base import checked_counts, mu_and_logvar
from sivae.models.doubling import DoublingConv2d
from sivae.models.norm import group_norm_activated, is_one_op
from sivae.models.priors import PriorName
from sivae.models.recompute import StagedNetwork, StagedVAE

_EPS = 1e-6  # of the norms
_LOGVAR_RANGE = (-30.0, 20.0)  # diffusers clamps to it


class Pipeline(TypedDict):
    """The settings of diffusers' `AutoencoderKL` that concern its pipelines and not the networks."""

    scaling_factor: NotRequired[Annotated[float, POSITIVE]]
    shift_factor: NotRequired[float | None]
    latents_mean: NotRequired[list[float] | None]
    latents_std: NotRequired[list[Annotated[float, POSITIVE]] | None]
    force_upcast: NotRequired[bool]


PIPELINE_KEYS = tuple(Pipeline.__annotations__)


class AutoencoderVAE(StagedVAE):
    """A residual autoencoder for square images in [-1, 1], with latents [B, latent_channels, H / 2^n, W / 2^n].

    The encoder halves the side n times, where n is the number of widths minus 1, and the decoder doubles it as often.
    The networks are convolutional: apart from attention they compute the same at every place, and they take images of
    other sizes too, whose sides are multiples of 2^n. `image_size` is the size that the model trains and samples at.

    Args:
        image_size: side of the images, a multiple of 2^n.
        channels: channels of the images.
        widths: channels at each resolution, from the images' inwards: `block_out_channels` of diffusers.
        latent_channels: channels of a latent.
        layers: residual blocks at each resolution of the encoder; the decoder has one more.
        groups: groups of each norm; they divide all widths.
        attention: have attention between all places in the middle of both networks, at the smallest resolution.
        attention_stages: numbers of the widths, from 0, that have attention after each residual block.
        quant_convs: end the encoder, and begin the decoder, by a 1x1 convolution, as the first published models do.
        prior_std: see :class:`VAEModel`.
        prior: "standard", "mixture" or "vamp", see :mod:`sivae.models.priors`.
        prior_components: number of Gaussians of a learned prior.
        pipeline: settings of :class:`Pipeline`; they are written back by :meth:`save_pretrained`, and a run that starts
            from the model keeps them.

    Attributes:
        checkpoint_activations: keep only the input of each resolution's blocks for the backward pass, and compute the
            rest again there; results are the same. False by default.

    Raises:
        ValueError: an argument is out of range; the message names it and the accepted values.
    """

    name = "autoencoder"
    carried = ("pipeline",)
    value_range = (-1.0, 1.0)
    encoder: AutoencoderEncoder
    decoder: AutoencoderDecoder

    def __init__(
        self,
        image_size: int = 256,
        channels: int = 3,
        widths: Sequence[int] = (128, 256, 512, 512),
        latent_channels: int = 4,
        layers: int = 2,
        groups: int = 32,
        attention: bool = True,
        attention_stages: Sequence[int] = (),
        quant_convs: bool = True,
        prior_std: float = 1.0,
        prior: PriorName = "standard",
        prior_components: int = 10,
        pipeline: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        checked_counts("AutoencoderVAE", 1, MODEL_SIDE, image_size=image_size)
        checked_counts("AutoencoderVAE", 1, channels=channels, latent_channels=latent_channels, groups=groups)
        checked_counts("AutoencoderVAE", 1, AUTOENCODER_BLOCKS, layers=layers)
        for key, value in (("attention", attention), ("quant_convs", quant_convs)):
            if not isinstance(value, bool):
                raise ValueError(f"AutoencoderVAE: {key} is {value!r}, expected True or False")
        if not set(pipeline or ()) <= set(PIPELINE_KEYS):
            raise ValueError(
                f"AutoencoderVAE: pipeline has {', '.join(map(str, pipeline or ()))[:200]}, expected none but "
                f"{', '.join(PIPELINE_KEYS)}"
            )
        widths = _checked_widths(widths, groups)
        stages = _checked_stages(attention_stages, len(widths))
        side = _checked_side(image_size, len(widths) - 1)
        self.hyperparameters = {
            "image_size": image_size,
            "channels": channels,
            "widths": list(widths),
            "latent_channels": latent_channels,
            "layers": layers,
            "groups": groups,
            "attention": attention,
            "attention_stages": list(stages),
            "quant_convs": quant_convs,
        }
        if pipeline:
            self.hyperparameters["pipeline"] = table(dict(pipeline), Pipeline, "AutoencoderVAE: pipeline.")
        self._set_prior_std(prior_std)
        self._latent_shape = (latent_channels, side, side)
        self.z_dim = math.prod(self._latent_shape)
        self.sample_shape = (channels, image_size, image_size)
        networks = _Architecture(channels, widths, latent_channels, layers, groups, attention, stages, quant_convs)
        self.encoder, self.decoder = AutoencoderEncoder(networks), AutoencoderDecoder(networks)
        self._set_prior(prior, prior_components)

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """See :attr:`VAEModel.latent_shape`."""
        return self._latent_shape

    def encode(self, x: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Compute mu and logvar of q(z|x), each [B, *latent_shape]; logvar is clamped as in diffusers.

        Raises:
            TypeError, ValueError: x has another dtype or shape than images of the model's channels, or sides that are
                no multiples of 2^n.
        """
        multiple = self.sample_shape[1] // self._latent_shape[1]
        _check_maps("encode: x", x, self.sample_shape[0], multiple)
        mu, logvar = mu_and_logvar(self._call(self.encoder, x, condition))
        return self._in_units_of_prior(mu, logvar.clamp(*_LOGVAR_RANGE))

    def raw_output(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        """See :meth:`VAEModel.raw_output`.

        Raises:
            TypeError, ValueError: z has another dtype or shape than maps of the model's latent channels.
        """
        _check_maps("decode: z", z, self._latent_shape[0], 1)
        return super().raw_output(z, condition)

    def save_pretrained(self, folder: str | os.PathLike[str], *, scaling_factor: float | None = None) -> None:
        """Write a folder that `diffusers.AutoencoderKL.from_pretrained` opens.

        Args and errors: see :func:`sivae.models.diffusers_folder.write_folder`.
        """
        from sivae.models.diffusers_folder import write_folder

        write_folder(folder, self, scaling_factor=scaling_factor)


class _Architecture(NamedTuple):
    """What both networks are built from, as in :class:`AutoencoderVAE`."""

    channels: int
    widths: tuple[int, ...]
    latent_channels: int
    layers: int
    groups: int
    attention: bool
    attention_stages: tuple[int, ...]
    quant_convs: bool


class AutoencoderEncoder(StagedNetwork):
    """Images [B, C, H, W] -> mu and logvar side by side, [B, 2 latent_channels, H / 2^n, W / 2^n]."""

    def __init__(self, a: _Architecture) -> None:
        super().__init__()
        self.conv_in = _conv3x3(a.channels, a.widths[0])
        self.down_blocks = nn.ModuleList(
            _Stage(
                [a.widths[max(0, index - 1)], *[width] * a.layers],
                a.groups,
                attention=index in a.attention_stages,
                downsamplers=[_Halving(width)] if index < len(a.widths) - 1 else [],
            )
            for index, width in enumerate(a.widths)
        )
        self.mid_block = _Middle(a.widths[-1], a.groups, a.attention)
        self.conv_norm_out = nn.GroupNorm(a.groups, a.widths[-1], eps=_EPS)
        self.conv_out = _conv3x3(a.widths[-1], 2 * a.latent_channels)
        self.quant_conv = nn.Conv2d(2 * a.latent_channels, 2 * a.latent_channels, 1) if a.quant_convs else None

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for block in self.down_blocks:
            x = self._through(block, x)
        x = self._through(self.mid_block, x)
        moments: Tensor = self.conv_out(norm_silu(self.conv_norm_out, x))
        return moments if self.quant_conv is None else self.quant_conv(moments)


class AutoencoderDecoder(StagedNetwork):
    """Latents [B, latent_channels, h, w] -> images [B, C, 2^n h, 2^n w]."""

    def __init__(self, a: _Architecture) -> None:
        super().__init__()
        outwards = list(enumerate(a.widths))[::-1]
        self.post_quant_conv = nn.Conv2d(a.latent_channels, a.latent_channels, 1) if a.quant_convs else None
        self.conv_in = _conv3x3(a.latent_channels, a.widths[-1])
        self.mid_block = _Middle(a.widths[-1], a.groups, a.attention)
        self.up_blocks = nn.ModuleList(
            _Stage(
                [a.widths[min(index + 1, len(a.widths) - 1)], *[width] * (a.layers + 1)],
                a.groups,
                attention=index in a.attention_stages,
                upsamplers=[_Doubling(width)] if index > 0 else [],
            )
            for index, width in outwards
        )
        self.conv_norm_out = nn.GroupNorm(a.groups, a.widths[0], eps=_EPS)
        self.conv_out = _conv3x3(a.widths[0], a.channels)

    def forward(self, z: Tensor) -> Tensor:
        x = z if self.post_quant_conv is None else self.post_quant_conv(z)
        x = self._through(self.mid_block, self.conv_in(x))
        for block in self.up_blocks:
            x = self._through(block, x)
        images: Tensor = self.conv_out(norm_silu(self.conv_norm_out, x))
        return images


class _Stage(nn.Module):
    """Residual blocks at one resolution, each with attention after it if wished, then a change of the resolution.

    Args:
        widths: channels before the first block and after each.
        groups: groups of the norms.
        attention: whether each block is followed by attention.
        downsamplers, upsamplers: no or one module that changes the resolution.
    """

    def __init__(
        self,
        widths: Sequence[int],
        groups: int,
        *,
        attention: bool,
        downsamplers: Sequence[nn.Module] = (),
        upsamplers: Sequence[nn.Module] = (),
    ) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(
            _Residual(fan_in, fan_out, groups) for fan_in, fan_out in itertools.pairwise(widths)
        )
        self.attentions = nn.ModuleList(_Attention(width, groups) for width in widths[1:] if attention)
        self.downsamplers = nn.ModuleList(downsamplers)
        self.upsamplers = nn.ModuleList(upsamplers)

    def forward(self, x: Tensor) -> Tensor:
        for index, block in enumerate(self.resnets):
            x = block(x)
            if len(self.attentions) > 0:
                x = self.attentions[index](x)
        for module in (*self.downsamplers, *self.upsamplers):
            x = module(x)
        return x


class _Middle(nn.Module):
    """Two residual blocks at the smallest resolution, with attention between them if wished."""

    def __init__(self, width: int, groups: int, attention: bool) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(_Residual(width, width, groups) for _ in range(2))
        self.attentions = nn.ModuleList([_Attention(width, groups)] if attention else [])

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.resnets
        x = first(x)
        for attention in self.attentions:
            x = attention(x)
        result: Tensor = second(x)
        return result


class _Residual(nn.Module):
    """Twice norm, SiLU and a 3x3 convolution, added to the input or, where the widths differ, to a 1x1 convolution."""

    def __init__(self, fan_in: int, fan_out: int, groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, fan_in, eps=_EPS)
        self.conv1 = _conv3x3(fan_in, fan_out)
        self.norm2 = nn.GroupNorm(groups, fan_out, eps=_EPS)
        self.conv2 = _conv3x3(fan_out, fan_out)
        self.conv_shortcut = nn.Conv2d(fan_in, fan_out, 1) if fan_in != fan_out else None

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.conv1(norm_silu(self.norm1, x))
        hidden = self.conv2(norm_silu(self.norm2, hidden))
        result: Tensor = (x if self.conv_shortcut is None else self.conv_shortcut(x)) + hidden
        return result


class _Attention(nn.Module):
    """Attention of one head between all places of a map, added to the input."""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.group_norm = nn.GroupNorm(groups, width, eps=_EPS)
        self.to_q = nn.Linear(width, width)
        self.to_k = nn.Linear(width, width)
        self.to_v = nn.Linear(width, width)
        self.to_out = nn.ModuleList([nn.Linear(width, width)])

    def forward(self, x: Tensor) -> Tensor:
        places = self.group_norm(x).flatten(2).transpose(1, 2)  # [B, H W, C]
        q, k, v = (layer(places).unsqueeze(1) for layer in (self.to_q, self.to_k, self.to_v))  # one head
        seen = self.to_out[0](F.scaled_dot_product_attention(q, k, v).squeeze(1))
        return x + seen.transpose(1, 2).unflatten(2, x.shape[2:])


class _Halving(nn.Module):
    """A 3x3 convolution with a stride of 2 that sees a row and a column of zeros at the lower right alone."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.conv(F.pad(x, (0, 1, 0, 1)))
        return result


class _Doubling(nn.Module):
    """Double the side by nearest neighbours, then convolve 3x3."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = DoublingConv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.conv(x)
        return result


def norm_silu(norm: nn.GroupNorm, x: Tensor) -> Tensor:
    """Compute silu(norm(x)), [B, C, H, W], as one op where the native backend has it."""
    if is_one_op(norm, x):
        return group_norm_activated(norm, x, "silu")
    return F.silu(norm(x))


def _conv3x3(fan_in: int, fan_out: int) -> nn.Conv2d:
    return nn.Conv2d(fan_in, fan_out, 3, padding=1)


def _check_maps(name: str, maps: Tensor, channels: int, multiple: int) -> None:
    if maps.ndim != 4 or maps.shape[1] != channels or maps.shape[2] % multiple or maps.shape[3] % multiple:
        sides = f", with sides that are multiples of {multiple}" if multiple > 1 else ""
        raise ValueError(f"AutoencoderVAE.{name} has shape {list(maps.shape)}, expected [B, {channels}, H, W]{sides}")
    if not maps.is_floating_point():
        raise TypeError(f"AutoencoderVAE.{name} has dtype {maps.dtype}, expected floating point")


def _checked_widths(widths: Sequence[int], groups: int) -> tuple[int, ...]:
    if isinstance(widths, str) or not isinstance(widths, Sequence) or not widths:
        raise ValueError(
            f"AutoencoderVAE: widths is {widths!r}, expected a channel count per resolution, such as (128, 256, 512)"
        )
    if len(widths) > (most := MODEL_SIDE.bit_length()):
        raise ValueError(f"AutoencoderVAE: widths has {len(widths):,} numbers, expected at most {most}")
    for width in widths:
        checked_counts("AutoencoderVAE", 1, widths=width)
        if width % groups:
            raise ValueError(
                f"AutoencoderVAE: groups is {groups}, which does not divide the width {width}; expected a common "
                f"divisor of all widths, such as {math.gcd(*widths)}"
            )
    return tuple(widths)


def _checked_stages(stages: Sequence[int], count: int) -> tuple[int, ...]:
    valid = isinstance(stages, list | tuple) and all(type(stage) is int and 0 <= stage < count for stage in stages)
    if not valid or len({*stages}) < len(stages):
        raise ValueError(
            f"AutoencoderVAE: attention_stages is {stages!r}, expected different numbers from 0 to {count - 1}, one "
            "for each width that has attention"
        )
    return tuple(sorted(stages))


def _checked_side(side: int, halvings: int) -> int:
    """Return the side of a latent."""
    multiple = 2**halvings
    if side % multiple:
        below = side // multiple * multiple
        raise ValueError(
            f"AutoencoderVAE: image_size is {side}, expected a multiple of {multiple} = 2^{halvings} for "
            f"{halvings + 1} widths; take {f'{below} or ' if below else ''}{below + multiple}"
        )
    return side // multiple
