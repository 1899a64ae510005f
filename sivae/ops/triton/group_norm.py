"""Group norm with an activation: two kernels for each pass, one for sums of each channel and one for the result.

What the sums of channels make of a group is left to torch, in float64. The formulas are those of csrc/group_norm.h.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from sivae.ops.library import ACTIVATIONS
from sivae.ops.triton import blocks
from sivae.ops.triton.blocks import power_of_two_from
from sivae.ops.triton.launch import launch
from sivae.ops.triton.operands import FLOATING, check_operand
from sivae.ops.triton.scalar_math import compute_type, divide, exp, narrow, scalar, widen


@triton.jit
def _place(pid, channels, pixels, splits, pixels_each, channel_tiles, CHANNELS: tl.constexpr):
    """A program's sample, split, channels [CHANNELS, 1], and the first and last of its pixels."""
    pid = pid.to(tl.int64)
    tile = pid % channel_tiles
    split = pid // channel_tiles % splits
    channel = tile * CHANNELS + tl.arange(0, CHANNELS)[:, None]
    first = split * pixels_each
    return pid // channel_tiles // splits, split, channel, first, tl.minimum(first + pixels_each, pixels)


@triton.jit
def _at(images, strides, sample, channel, pixel):
    """Pointers to the pixels of a tile's channels."""
    return images + sample * strides[0] + channel * strides[1] + pixel * strides[2]


@triton.jit
def _coefficients(table, sample, channel, channels, own):
    """Mean, factor and constant of a tile's channels, of `table` [B, 3, C]."""
    of_channel = table + sample * 3 * channels + channel
    mean = tl.load(of_channel, mask=own, other=0.0)
    factor = tl.load(of_channel + channels, mask=own, other=0.0)
    return mean, factor, tl.load(of_channel + 2 * channels, mask=own, other=0.0)


@triton.jit
def _before(grad, v, slope, SILU: tl.constexpr):
    """The gradient by v of the activation."""
    if SILU:
        sigmoid = divide(v * 0.0 + 1.0, 1.0 + exp(-v))
        result = grad * (sigmoid * (1.0 + v * (1.0 - sigmoid)))
    else:
        result = tl.where(v > 0, grad, grad * slope)
    return result


@triton.jit
def group_norm_moments_kernel(
    x, moments, x_strides, channels, pixels, splits, pixels_each, channel_tiles,
    DTYPE: tl.constexpr, CHANNELS: tl.constexpr, PIXELS: tl.constexpr,
):  # fmt: skip
    """The mean and the sum of squared deviations of each channel of a sample, [B, splits, 2, C] in float64."""
    sample, split, channel, first, last = _place(
        tl.program_id(0), channels, pixels, splits, pixels_each, channel_tiles, CHANNELS
    )
    own = channel < channels
    lane = first + tl.arange(0, PIXELS)[None, :]
    # Every lane sums the differences from its own first pixel.
    pivot = widen(tl.load(_at(x, x_strides, sample, channel, lane), mask=own & (lane < last), other=0.0)).to(DTYPE)
    total = tl.zeros((CHANNELS, PIXELS), DTYPE)
    square = tl.zeros((CHANNELS, PIXELS), DTYPE)
    count = tl.zeros((1, PIXELS), DTYPE)
    at = first
    while at < last:
        pixel = at + tl.arange(0, PIXELS)[None, :]
        inside = pixel < last
        value = widen(tl.load(_at(x, x_strides, sample, channel, pixel), mask=own & inside, other=0.0)).to(DTYPE)
        difference = tl.where(inside, value - pivot, 0.0)
        total += difference
        square += difference * difference
        count += tl.where(inside, 1.0, 0.0).to(DTYPE)
        at += PIXELS
    some = tl.where(count > 0, count, 1.0)
    offset = divide(total, some + total * 0.0)
    within = square - total * offset
    within = tl.where(within < 0, 0.0, within)
    # Merged about the mean of all lanes, in float64.
    number = count.to(tl.float64)
    center = pivot.to(tl.float64) + offset.to(tl.float64)
    pixels_here = tl.sum(number, axis=1)[:, None]
    middle = tl.sum(tl.where(number > 0, number * center, 0.0), axis=1)[:, None] / pixels_here
    apart = center - middle
    squares = tl.sum(tl.where(number > 0, within.to(tl.float64) + number * apart * apart, 0.0), axis=1)[:, None]
    place = moments + (sample * splits + split) * 2 * channels + channel
    tl.store(place, middle, mask=own)
    tl.store(place + channels, squares, mask=own)


@triton.jit
def group_norm_apply_kernel(
    x, y, coefficients, x_strides, y_strides, negative_slope, channels, pixels, splits, pixels_each, channel_tiles,
    DTYPE: tl.constexpr, SILU: tl.constexpr, CHANNELS: tl.constexpr, PIXELS: tl.constexpr,
):  # fmt: skip
    """The activation of (x - mean) factor + constant, with coefficients [B, 3, C]."""
    sample, _, channel, first, last = _place(
        tl.program_id(0), channels, pixels, splits, pixels_each, channel_tiles, CHANNELS
    )
    own = channel < channels
    mean, factor, constant = _coefficients(coefficients, sample, channel, channels, own)
    slope = scalar(negative_slope, DTYPE)
    at = first
    while at < last:
        pixel = at + tl.arange(0, PIXELS)[None, :]
        inside = own & (pixel < last)
        value = tl.load(_at(x, x_strides, sample, channel, pixel), mask=inside, other=0.0)
        v = (widen(value) - mean) * factor + constant
        v = divide(v, 1.0 + exp(-v)) if SILU else tl.where(v > 0, v, v * slope)
        tl.store(_at(y, y_strides, sample, channel, pixel), narrow(v, y.dtype.element_ty), mask=inside)
        at += PIXELS


@triton.jit
def group_norm_sums_kernel(
    x, grad_y, coefficients, sums, x_strides, grad_strides, negative_slope, channels, pixels, splits, pixels_each,
    channel_tiles, DTYPE: tl.constexpr, SILU: tl.constexpr, CHANNELS: tl.constexpr, PIXELS: tl.constexpr,
):  # fmt: skip
    """The sums of g and g (x - mean) over the pixels of each channel, [B, splits, 2, C] in float64."""
    sample, split, channel, first, last = _place(
        tl.program_id(0), channels, pixels, splits, pixels_each, channel_tiles, CHANNELS
    )
    own = channel < channels
    mean, factor, constant = _coefficients(coefficients, sample, channel, channels, own)
    slope = scalar(negative_slope, DTYPE)
    total = tl.zeros((CHANNELS, PIXELS), DTYPE)
    product = tl.zeros((CHANNELS, PIXELS), DTYPE)
    at = first
    while at < last:
        pixel = at + tl.arange(0, PIXELS)[None, :]
        inside = own & (pixel < last)
        value = tl.load(_at(x, x_strides, sample, channel, pixel), mask=inside, other=0.0)
        grad = tl.load(_at(grad_y, grad_strides, sample, channel, pixel), mask=inside, other=0.0)
        d = widen(value) - mean
        g = _before(widen(grad), d * factor + constant, slope, SILU)
        total += tl.where(inside, g, 0.0)
        product += tl.where(inside, g * d, 0.0)
        at += PIXELS
    place = sums + (sample * splits + split) * 2 * channels + channel
    tl.store(place, tl.sum(total, axis=1)[:, None].to(tl.float64), mask=own)
    tl.store(place + channels, tl.sum(product, axis=1)[:, None].to(tl.float64), mask=own)


@triton.jit
def group_norm_gradients_kernel(
    x, grad_y, grad_x, coefficients, through, x_strides, grad_strides, out_strides, negative_slope, channels, pixels,
    splits, pixels_each, channel_tiles,
    DTYPE: tl.constexpr, SILU: tl.constexpr, CHANNELS: tl.constexpr, PIXELS: tl.constexpr,
):  # fmt: skip
    """factor g + (x - mean) by_deviation + by_constant, the last two of `through` [B, 2, C]."""
    sample, _, channel, first, last = _place(
        tl.program_id(0), channels, pixels, splits, pixels_each, channel_tiles, CHANNELS
    )
    own = channel < channels
    mean, factor, constant = _coefficients(coefficients, sample, channel, channels, own)
    by_deviation = tl.load(through + sample * 2 * channels + channel, mask=own, other=0.0)
    by_constant = tl.load(through + sample * 2 * channels + channels + channel, mask=own, other=0.0)
    slope = scalar(negative_slope, DTYPE)
    at = first
    while at < last:
        pixel = at + tl.arange(0, PIXELS)[None, :]
        inside = own & (pixel < last)
        value = tl.load(_at(x, x_strides, sample, channel, pixel), mask=inside, other=0.0)
        grad = tl.load(_at(grad_y, grad_strides, sample, channel, pixel), mask=inside, other=0.0)
        d = widen(value) - mean
        g = _before(widen(grad), d * factor + constant, slope, SILU)
        place = _at(grad_x, out_strides, sample, channel, pixel)
        result = g * factor + (d * by_deviation + by_constant)
        tl.store(place, narrow(result, grad_x.dtype.element_ty), mask=inside)
        at += PIXELS


class _Pixels:
    """The order of x's memory in which kernels visit its pixels; other images must be equally spaced in it."""

    def __init__(self, x: Tensor) -> None:
        dims = [d for d in range(2, x.dim()) if x.shape[d] != 1]
        self._dims = sorted(dims, key=lambda d: x.stride()[d], reverse=True)
        self.count = math.prod(x.shape[2:])

    def fit(self, images: Tensor) -> bool:
        pairs = zip(self._dims, self._dims[1:], strict=False)
        return all(images.stride(outer) == images.stride(inner) * images.shape[inner] for outer, inner in pairs)

    def strides(self, images: Tensor) -> tuple[int, int, int]:
        """Of samples, channels and pixels."""
        return images.stride(0), images.stride(1), images.stride(self._dims[-1]) if self._dims else 1

    def ordered(self, images: Tensor, like: Tensor) -> Tensor:
        return images if self.fit(images) else torch.empty_like(like).copy_(images)


class _Norm(NamedTuple):
    """A call's operands: x in an order of its pixels, weight and bias [groups, C / groups] in float64."""

    x: Tensor
    pixels: _Pixels
    weight: Tensor
    bias: Tensor
    groups: int
    silu: bool
    slope: float

    def tiles(self) -> tuple[tuple[int, ...], int, dict[str, Any]]:
        """The cut into programs as arguments of kernels, their number, and the constants."""
        batch, channels = self.x.shape[:2]
        count, most = self.pixels.count, blocks.GROUP_NORM.elements
        if self.x.dtype is torch.float64:  # of which each takes two registers
            most //= 2
        if self.x.stride(1) == 1 and channels > 1:  # the channels of a pixel are side by side
            tile_channels = min(power_of_two_from(channels), blocks.GROUP_NORM_CHANNELS)
            tile_pixels = min(power_of_two_from(count), max(most // tile_channels, 1))
        else:
            tile_pixels = min(power_of_two_from(count), most)
            tile_channels = min(power_of_two_from(channels), most // tile_pixels)
        channel_tiles = triton.cdiv(channels, tile_channels)
        steps = blocks.GROUP_NORM.steps
        while steps > 1 and batch * channel_tiles * triton.cdiv(count, tile_pixels * steps) < blocks.ENOUGH_PROGRAMS:
            steps //= 2
        each = steps * tile_pixels
        splits = triton.cdiv(count, each)
        constants = {
            "DTYPE": compute_type(self.x.dtype), "CHANNELS": tile_channels, "PIXELS": tile_pixels,
            "num_warps": blocks.GROUP_NORM.warps,
        }  # fmt: skip
        return (channels, count, splits, each, channel_tiles), batch * splits * channel_tiles, constants

    def sums(self, splits: int) -> Tensor:
        return self.x.new_empty((self.x.shape[0], splits, 2, self.x.shape[1]), dtype=torch.float64)

    def by_group(self, values: Tensor) -> Tensor:
        """[..., C] as [..., groups, C / groups]."""
        return values.unflatten(-1, (self.groups, -1))

    def coefficients(self, mean: Tensor, inverse_std: Tensor) -> Tensor:
        """The rounded mean, factor and constant of each channel, [B, 3, C]; the constant makes up for the rounding."""
        dtype = torch.float64 if self.x.dtype is torch.float64 else torch.float32
        factor = self.weight * inverse_std[:, :, None]
        rounded = mean.to(dtype)
        constant = self.bias - (mean - rounded)[:, :, None] * factor
        parts = [rounded[:, :, None].expand_as(factor), factor.to(dtype), constant.to(dtype)]
        return torch.stack([part.flatten(1) for part in parts], 1)


def _norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, groups: int, activation: int, negative_slope: float
) -> _Norm:
    if x.dim() < 2 or groups < 1 or x.shape[1] % groups != 0:
        raise ValueError(f"sivae: x has shape {list(x.shape)}, expected [B, C, ...] with C a multiple of {groups}")
    check_operand("x", x, x, x.shape, *FLOATING)
    parameters = []
    for name, parameter, absent in (("weight", weight, 1.0), ("bias", bias, 0.0)):
        check_operand(name, parameter, x, x.shape[1:2], *FLOATING)
        values = x.new_full((x.shape[1],), absent, dtype=torch.float64) if parameter is None else parameter.double()
        parameters.append(values.view(groups, x.shape[1] // groups))
    pixels = _Pixels(x)
    if not pixels.fit(x):
        x = x.contiguous()
        pixels = _Pixels(x)
    name = ACTIVATIONS[activation]
    slope = negative_slope if name == "leaky_relu" else 1.0
    return _Norm(x, pixels, parameters[0], parameters[1], groups, name == "silu", slope)


def _place_for(norm: _Norm, images: Tensor) -> Tensor:
    return images if norm.pixels.fit(images) else torch.empty_like(norm.x)


def group_norm_silu(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    groups: int,
    activation: int,
    negative_slope: float,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    norm = _norm(x, weight, bias, groups, activation, negative_slope)
    y = torch.empty_like(x)
    if x.numel() == 0:
        mean, inverse_std = x.new_full((2, x.shape[0], groups), math.nan, dtype=torch.float64)
        return y, mean, inverse_std
    x, pixels = norm.x, norm.pixels
    (channels, count, splits, each, _), programs, constants = cut = norm.tiles()
    moments = norm.sums(splits)
    launch(group_norm_moments_kernel, programs, x, moments, pixels.strides(x), *cut[0], **constants)
    # [B, groups, splits, C / groups], with the pixels of each split.
    means, squares = (norm.by_group(part).transpose(1, 2) for part in moments.unbind(2))
    counts = torch.full((splits,), float(each), dtype=torch.float64, device=x.device)
    counts[-1] = count - (splits - 1) * each
    shares = (counts / (count * (channels // groups)))[:, None]
    pivot = means[:, :, :1, :1]
    mean = pivot + ((means - pivot) * shares).sum((2, 3), keepdim=True)
    variance = (squares / (count * (channels // groups)) + (means - mean).square() * shares).sum((2, 3))
    mean, inverse_std = mean[:, :, 0, 0].contiguous(), (variance + eps).rsqrt() + (variance - variance)
    written = _place_for(norm, y)
    launch(
        group_norm_apply_kernel, programs, x, written, norm.coefficients(mean, inverse_std), pixels.strides(x),
        pixels.strides(written), norm.slope, *cut[0], SILU=norm.silu, **constants,
    )  # fmt: skip
    return y if written is y else y.copy_(written), mean, inverse_std


def group_norm_silu_backward(
    grad_y: Tensor,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    inverse_std: Tensor,
    groups: int,
    activation: int,
    negative_slope: float,
    need_x: bool,
    need_weight: bool,
    need_bias: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    norm = _norm(x, weight, bias, groups, activation, negative_slope)
    check_operand("grad_y", grad_y, x, x.shape, x.dtype)
    for statistic, value in (("mean", mean), ("inverse_std", inverse_std)):
        check_operand(statistic, value, x, (x.shape[0], groups), torch.float64)
    by_weight, by_bias = (
        (x if parameter is None else parameter).new_zeros((x.shape[1] if need else 0,))
        for parameter, need in ((weight, need_weight), (bias, need_bias))
    )
    grad_x = torch.empty_like(x) if need_x else x.new_empty((0,))
    if x.numel() == 0 or not (need_x or need_weight or need_bias):
        return grad_x, by_weight, by_bias
    x, pixels = norm.x, norm.pixels
    grad_y = pixels.ordered(grad_y, x)
    (_, count, splits, _, _), programs, constants = cut = norm.tiles()
    table = norm.coefficients(mean, inverse_std)
    sums = norm.sums(splits)
    constants["SILU"] = norm.silu
    strides = pixels.strides(x), pixels.strides(grad_y)
    launch(group_norm_sums_kernel, programs, x, grad_y, table, sums, *strides, norm.slope, *cut[0], **constants)
    grad, product = (norm.by_group(part) for part in sums.sum(1).unbind(1))  # [B, groups, C / groups]
    dropped = mean - mean.to(table.dtype)  # lost by rounding the mean
    product = product - dropped[:, :, None] * grad
    if need_bias:
        by_bias.copy_(grad.sum(0).flatten())
    if need_weight:
        by_weight.copy_((product * inverse_std[:, :, None]).sum(0).flatten())
    if need_x:
        size = count * (x.shape[1] // groups)
        deviation = -inverse_std.pow(3) * (norm.weight * product).sum(2) / size
        constant = -inverse_std * (norm.weight * grad).sum(2) / size - deviation * dropped
        through = torch.stack([deviation, constant], 1).to(table.dtype)
        through = through[:, :, :, None].expand(-1, -1, -1, x.shape[1] // groups).flatten(2).contiguous()
        written = _place_for(norm, grad_x)
        launch(
            group_norm_gradients_kernel, programs, x, grad_y, written, table, through, *strides,
            pixels.strides(written), norm.slope, *cut[0], **constants,
        )  # fmt: skip
        if written is not grad_x:
            grad_x.copy_(written)
    return grad_x, by_weight, by_bias
