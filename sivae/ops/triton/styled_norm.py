"""The styled instance norm: one launch where a tile holds whole planes, else statistics, their merge, and the result.

The formulas are those of csrc/styled_norm.h; those of the statistics are in csrc/cuda/moments.cuh.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from sivae.ops.library import sum_dtype
from sivae.ops.triton import blocks
from sivae.ops.triton.blocks import power_of_two_from
from sivae.ops.triton.image_tiles import offsets_in, pixels_from, strides_of, tile_of, tiles_of
from sivae.ops.triton.launch import launch
from sivae.ops.triton.operands import FLOATING, check_operand
from sivae.ops.triton.scalar_math import compute_type, divide, narrow, scalar, square_root, widen


@triton.jit
def channel_values(values, stride, channel, channels, DTYPE: tl.constexpr):
    """One value of each channel, [C, 1]; 0 where there are none."""
    if values is None:
        result = tl.zeros((channel.shape[0], 1), DTYPE)
    else:
        result = widen(tl.load(values + channel * stride, mask=channel < channels, other=0.0)).to(DTYPE)
    return result


@triton.jit
def plane_values(values, strides, sample, channel, channels, DTYPE: tl.constexpr):
    """One value of each of the sample's planes, [C, 1]; 0 where there are none."""
    if values is None:
        result = tl.zeros((channel.shape[0], 1), DTYPE)
    else:
        place = values + sample * strides[0] + channel * strides[1]
        result = widen(tl.load(place, mask=channel < channels, other=0.0)).to(DTYPE)
    return result


@triton.jit
def noise_at(noise, strides, sample, pixel, pixels, width, DTYPE: tl.constexpr):
    """[1, P]; 0 where there is none."""
    if noise is None:
        result = tl.zeros((1, pixel.shape[1]), DTYPE)
    else:
        place = noise + offsets_in(sample, 0, pixel, strides, width)
        result = widen(tl.load(place, mask=pixel < pixels, other=0.0)).to(DTYPE)
    return result


@triton.jit
def before_leaky(x, x_strides, sample, channel, pixel, mask, width, noise, weight, bias):
    """The argument of the leaky ReLU, [C, P], with the noise [1, P], its weight and the bias [C, 1]."""
    v = widen(tl.load(x + offsets_in(sample, channel, pixel, x_strides, width), mask=mask, other=0.0))
    return v + noise * weight + bias


@triton.jit
def leaky(v, slope):
    return tl.where(v > 0.0, v, v * slope)


@triton.jit
def inverse_std(std, eps):
    return divide(tl.full(std.shape, 1.0, std.dtype), square_root(std * std + eps))


@triton.jit
def finite_or_zero(x):
    return tl.where(x - x == 0.0, x, 0.0)


@triton.jit
def moments_over_tile(mean, rest, squares, count, total):
    """Moments [C, 1] of all `total` elements, from those of the parts [C, P] with `count` elements each.

    A mean is mean + rest, so that deviations from it do not err by the rounding of a large one. What the first estimate
    errs by, the deviations from it make good.
    """
    estimate = divide(tl.sum(tl.where(count > 0.0, count * (mean + rest), 0.0), axis=1)[:, None], total)
    distance = (mean - estimate) + rest
    deviation = tl.sum(tl.where(count > 0.0, count * distance, 0.0), axis=1)[:, None]
    correction = finite_or_zero(divide(deviation, total))
    result = estimate + correction
    distance = distance - correction
    parts = tl.where(count > 0.0, squares + count * distance * distance, 0.0)
    return result, finite_or_zero((estimate - result) + correction), tl.sum(parts, axis=1)[:, None]


@triton.jit
def store_styled(
    y, strides, sample, channel, pixel, mask, width, u, mean, rest, std, scale, shift, eps,
):  # fmt: skip
    by_deviation = inverse_std(std, eps) * (1.0 + scale)
    result = (u - mean) * by_deviation + (shift - rest * by_deviation)
    tl.store(y + offsets_in(sample, channel, pixel, strides, width), narrow(result, y.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["channel_tiles"])
def styled_norm_whole_kernel(
    x, noise, noise_weight, bias, scale, shift, y, mean, std,
    x_strides, noise_strides, y_strides, weight_stride, bias_stride, scale_strides, shift_strides,
    channels, pixels, width, channel_tiles, count: tl.float64, slope: tl.float64, eps: tl.float64,
    DTYPE: tl.constexpr, WIDE: tl.constexpr, CHANNELS: tl.constexpr, PIXELS: tl.constexpr,
):  # fmt: skip
    sample, channel, split = tile_of(channel_tiles, 1, CHANNELS)
    pixel = pixels_from(split, WIDE, PIXELS)
    mask = (channel < channels) & (pixel < pixels)
    weight = channel_values(noise_weight, weight_stride, channel, channels, DTYPE)
    offset = channel_values(bias, bias_stride, channel, channels, DTYPE)
    n = noise_at(noise, noise_strides, sample, pixel, pixels, width, DTYPE)
    u = leaky(before_leaky(x, x_strides, sample, channel, pixel, mask, width, n, weight, offset), scalar(slope, DTYPE))
    total = scalar(count, DTYPE)
    one = tl.where(pixel < pixels, 1.0, 0.0).to(DTYPE)  # [1, P]
    m, r, squares = moments_over_tile(u, tl.zeros_like(u), tl.zeros_like(u), one, total)
    s = square_root(divide(squares, total))
    place = sample * channels + channel
    tl.store(mean + place, m, mask=channel < channels)
    tl.store(std + place, s, mask=channel < channels)
    a = plane_values(scale, scale_strides, sample, channel, channels, DTYPE)
    b = plane_values(shift, shift_strides, sample, channel, channels, DTYPE)
    store_styled(y, y_strides, sample, channel, pixel, mask, width, u, m, r, s, a, b, scalar(eps, DTYPE))


@triton.jit(do_not_specialize=["channel_tiles", "splits"])
def styled_norm_statistics_kernel(
    x, noise, noise_weight, bias, split_mean, split_rest, split_squares,
    x_strides, noise_strides, weight_stride, bias_stride,
    channels, pixels, width, channel_tiles, splits, slope: tl.float64,
    DTYPE: tl.constexpr, WIDE: tl.constexpr, CHANNELS: tl.constexpr, PIXELS: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    """Sum the differences from the first tile, element by element, then merge their moments."""
    sample, channel, split = tile_of(channel_tiles, splits, CHANNELS)
    weight = channel_values(noise_weight, weight_stride, channel, channels, DTYPE)
    offset = channel_values(bias, bias_stride, channel, channels, DTYPE)
    pivot = tl.zeros((CHANNELS, PIXELS), DTYPE)
    total, square, count = pivot, pivot, tl.zeros((1, PIXELS), DTYPE)
    for step in range(STEPS):
        if WIDE:
            split = split.to(tl.int64)
        pixel = pixels_from((split * STEPS + step) * PIXELS, WIDE, PIXELS)
        mask = (channel < channels) & (pixel < pixels)
        n = noise_at(noise, noise_strides, sample, pixel, pixels, width, DTYPE)
        v = before_leaky(x, x_strides, sample, channel, pixel, mask, width, n, weight, offset)
        u = leaky(v, scalar(slope, DTYPE))
        if step == 0:
            pivot = finite_or_zero(u)
        difference = tl.where(mask, u - pivot, 0.0)
        total += difference
        square += difference * difference
        count += tl.where(pixel < pixels, 1.0, 0.0).to(DTYPE)
    held = tl.where(count > 0.0, count, 1.0)
    mean = divide(total, held)
    squares = square - total * mean
    # Rounding may make the difference negative; an infinite square stays.
    squares = tl.where(square - square == 0.0, tl.where(squares < 0.0, 0.0, squares), square)
    m, r, q = moments_over_tile(pivot, mean, squares, count, tl.sum(count, axis=1)[:, None])
    place = (sample * splits + split) * channels + channel
    tl.store(split_mean + place, m, mask=channel < channels)
    tl.store(split_rest + place, r, mask=channel < channels)
    tl.store(split_squares + place, q, mask=channel < channels)


@triton.jit(do_not_specialize=["channel_tiles", "splits"])
def styled_norm_merge_kernel(
    split_mean, split_rest, split_squares, mean, rest, std,
    channels, channel_tiles, splits, each: tl.float64, count: tl.float64,
    DTYPE: tl.constexpr, CHANNELS: tl.constexpr, SPLITS: tl.constexpr,
):  # fmt: skip
    """The moments of planes, from those of their splits of `each` pixels (the last one may have fewer)."""
    sample, channel, _ = tile_of(channel_tiles, 1, CHANNELS)
    split = tl.arange(0, SPLITS)[None, :]  # [1, S]
    mask = (channel < channels) & (split < splits)
    place = (sample * splits + split) * channels + channel
    total = scalar(count, DTYPE)
    left = total - split.to(DTYPE) * scalar(each, DTYPE)
    elements = tl.where(split < splits, tl.where(left < scalar(each, DTYPE), left, scalar(each, DTYPE)), 0.0)
    part_mean = tl.load(split_mean + place, mask=mask, other=0.0)
    part_rest = tl.load(split_rest + place, mask=mask, other=0.0)
    part_squares = tl.load(split_squares + place, mask=mask, other=0.0)
    m, r, squares = moments_over_tile(part_mean, part_rest, part_squares, elements, total)
    tl.store(mean + sample * channels + channel, m, mask=channel < channels)
    tl.store(rest + sample * channels + channel, r, mask=channel < channels)
    tl.store(std + sample * channels + channel, square_root(divide(squares, total)), mask=channel < channels)


@triton.jit(do_not_specialize=["channel_tiles", "splits"])
def styled_norm_apply_kernel(
    x, noise, noise_weight, bias, scale, shift, y, mean, rest, std,
    x_strides, noise_strides, y_strides, weight_stride, bias_stride, scale_strides, shift_strides,
    channels, pixels, width, channel_tiles, splits, slope: tl.float64, eps: tl.float64,
    DTYPE: tl.constexpr, WIDE: tl.constexpr, CHANNELS: tl.constexpr, PIXELS: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    sample, channel, split = tile_of(channel_tiles, splits, CHANNELS)
    weight = channel_values(noise_weight, weight_stride, channel, channels, DTYPE)
    offset = channel_values(bias, bias_stride, channel, channels, DTYPE)
    place = sample * channels + channel
    m = tl.load(mean + place, mask=channel < channels, other=0.0)
    r = tl.load(rest + place, mask=channel < channels, other=0.0)
    s = tl.load(std + place, mask=channel < channels, other=0.0)
    a = plane_values(scale, scale_strides, sample, channel, channels, DTYPE)
    b = plane_values(shift, shift_strides, sample, channel, channels, DTYPE)
    for step in range(STEPS):
        if WIDE:
            split = split.to(tl.int64)
        pixel = pixels_from((split * STEPS + step) * PIXELS, WIDE, PIXELS)
        mask = (channel < channels) & (pixel < pixels)
        n = noise_at(noise, noise_strides, sample, pixel, pixels, width, DTYPE)
        v = before_leaky(x, x_strides, sample, channel, pixel, mask, width, n, weight, offset)
        u = leaky(v, scalar(slope, DTYPE))
        store_styled(y, y_strides, sample, channel, pixel, mask, width, u, m, r, s, a, b, scalar(eps, DTYPE))


def check_operands(
    x: Tensor, noise: Tensor | None, noise_weight: Tensor | None, bias: Tensor | None, **styles: Tensor | None
) -> None:
    """Check the operands of both passes; `styles` are [B, C], by name."""
    if x.dim() != 4:
        raise ValueError(f"sivae: x has shape {list(x.shape)}, expected [B, C, H, W]")
    check_operand("x", x, x, x.shape, *FLOATING)
    if (noise is None) != (noise_weight is None):
        raise ValueError("sivae: noise and noise_weight are given together or not at all")
    batch, channels, *pixels = x.shape
    dtypes = x.dtype, torch.float32
    shared = noise is not None and noise.dim() > 0 and noise.shape[0] == 1
    check_operand("noise", noise, x, (1 if shared else batch, 1, *pixels), *dtypes)
    for name, value in (("noise_weight", noise_weight), ("bias", bias)):
        check_operand(name, value, x, (channels,), *dtypes)
    for name, value in styles.items():
        check_operand(name, value, x, (batch, channels), *dtypes)


def stride_of(parameter: Tensor | None) -> int:
    return 0 if parameter is None else parameter.stride(0)


def two_strides_of(parameter: Tensor | None) -> tuple[int, int] | None:
    return None if parameter is None else (parameter.stride(0), parameter.stride(1))


def styled_instance_norm(
    x: Tensor,
    noise: Tensor | None,
    noise_weight: Tensor | None,
    bias: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    negative_slope: float,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    check_operands(x, noise, noise_weight, bias, scale=scale, shift=shift)
    batch, channels, height, width = x.shape
    pixels = height * width
    options: dict[str, Any] = {"dtype": sum_dtype(x.dtype), "device": x.device}
    y = torch.empty_like(x)
    if x.numel() == 0:  # a mean of no pixels is NaN, as in torch
        return (
            y,
            torch.full((batch, channels), float("nan"), **options),
            torch.full((batch, channels), float("nan"), **options),
        )
    mean, std = torch.empty((batch, channels), **options), torch.empty((batch, channels), **options)
    tiles = tiles_of(x, blocks.STYLED_FORWARD, blocks.STYLED_FORWARD_WHOLE)
    (x_strides, noise_strides, y_strides), wide = strides_of([x, noise, y])
    read = x, noise, noise_weight, bias
    styles = scale, shift
    strides = (
        x_strides, noise_strides, y_strides, stride_of(noise_weight), stride_of(bias),
        two_strides_of(scale), two_strides_of(shift),
    )  # fmt: skip
    shape = channels, pixels, width, tiles.channel_tiles
    constants: dict[str, Any] = {
        "DTYPE": compute_type(x.dtype), "WIDE": wide, "CHANNELS": tiles.channels, "PIXELS": tiles.pixels,
        "num_warps": tiles.warps,
    }  # fmt: skip
    if tiles.whole:
        launch(
            styled_norm_whole_kernel, tiles.programs, *read, *styles, y, mean, std, *strides, *shape,
            float(pixels), negative_slope, eps, **constants,
        )  # fmt: skip
        return y, mean, std
    constants["STEPS"] = tiles.steps
    split_mean, split_rest, split_squares = torch.empty((3, batch, tiles.splits, channels), **options)
    rest = torch.empty_like(mean)
    launch(
        styled_norm_statistics_kernel, tiles.programs, *read, split_mean, split_rest, split_squares,
        x_strides, noise_strides, *strides[3:5], *shape, tiles.splits, negative_slope, **constants,
    )  # fmt: skip
    merged = power_of_two_from(tiles.splits)
    # Half as many as for sums alone: three moments in float64 would not fit the registers.
    together = min(power_of_two_from(channels), max(blocks.SUMS.elements // 2 // merged, 1))
    channel_tiles = triton.cdiv(channels, together)
    launch(
        styled_norm_merge_kernel, batch * channel_tiles, split_mean, split_rest, split_squares, mean, rest, std,
        channels, channel_tiles, tiles.splits, float(tiles.pixels * tiles.steps), float(pixels),
        DTYPE=compute_type(x.dtype), CHANNELS=together, SPLITS=merged, num_warps=4,
    )  # fmt: skip
    launch(
        styled_norm_apply_kernel, tiles.programs, *read, *styles, y, mean, rest, std, *strides, *shape, tiles.splits,
        negative_slope, eps, **constants,
    )  # fmt: skip
    return y, mean, std
