"""Gradients of the styled instance norm: sums over the planes of g and g times the normalised u, then the gradients.

Formulas: csrc/styled_norm.h. Each program stores its sums, which are then added in a fixed order.
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
from sivae.ops.triton.operands import check_operand
from sivae.ops.triton.scalar_math import compute_type, divide, narrow, scalar, widen
from sivae.ops.triton.styled_norm import (
    before_leaky,
    channel_values,
    check_operands,
    inverse_std,
    leaky,
    noise_at,
    plane_values,
    stride_of,
    two_strides_of,
)


@triton.jit
def upstream(grad_y, strides, sample, channel, pixel, mask, width):
    """g, [C, P]"""
    return widen(tl.load(grad_y + offsets_in(sample, channel, pixel, strides, width), mask=mask, other=0.0))


@triton.jit
def statistic_at(values, sample, channel, channels, absent: tl.constexpr, DTYPE: tl.constexpr):
    """One value for each plane of the sample, from contiguous [B, C]."""
    if values is None:
        result = tl.full((channel.shape[0], 1), absent, DTYPE)
    else:
        result = tl.load(values + sample * channels + channel, mask=channel < channels, other=absent)
    return result


@triton.jit
def store_planes(out, values, sample, channel, channels):
    """Store [C, 1] in contiguous [B, C], unless out is None."""
    if out is not None:
        place = out + sample * channels + channel
        tl.store(place, narrow(values, out.dtype.element_ty), mask=channel < channels)


@triton.jit
def store_gradients(
    grad_x, strides, sample, channel, pixel, mask, width, g, v, noise, by_grad, constant, by_deviation, m, slope,
):  # fmt: skip
    """Compute one tile; return the gradient by x, 0 outside the planes."""
    by_u = by_grad * g + (constant + by_deviation * (leaky(v, slope) - m))
    by_x = tl.where(mask, tl.where(v > 0.0, by_u, by_u * slope), 0.0)
    if grad_x is not None:
        place = grad_x + offsets_in(sample, channel, pixel, strides, width)
        tl.store(place, narrow(by_x, grad_x.dtype.element_ty), mask=mask)
    return by_x


@triton.jit
def plane_gradient(s, inverse, scale, count, sum_grad, sum_normalised, by_mean, by_std):
    """The gradient by u is by_grad g + constant + by_deviation (u - mean)."""
    by_grad = inverse * (1.0 + scale)
    # The standard deviation of a constant plane has no derivative; 0 is one of its subgradients.
    through_std = tl.where(s == 0.0, 0.0, divide(by_std, tl.where(s == 0.0, 1.0, s)))
    constant = divide(by_mean - by_grad * sum_grad, count)
    return by_grad, constant, divide(through_std - by_grad * inverse * sum_normalised, count)


@triton.jit(do_not_specialize=["channel_tiles"])
def styled_norm_backward_whole_kernel(
    x, noise, noise_weight, bias, scale, mean, std, grad_y, grad_mean, grad_std,
    grad_x, split_grads, split_noisy, grad_scale, grad_shift,  # None where not needed
    x_strides, noise_strides, grad_y_strides, grad_x_strides, weight_stride, bias_stride, scale_strides,
    grad_mean_strides, grad_std_strides,
    channels, pixels, width, channel_tiles, count: tl.float64, slope: tl.float64, eps: tl.float64,
    DTYPE: tl.constexpr, WIDE: tl.constexpr, CHANNELS: tl.constexpr, PIXELS: tl.constexpr,
):  # fmt: skip
    sample, channel, split = tile_of(channel_tiles, 1, CHANNELS)
    pixel = pixels_from(split, WIDE, PIXELS)
    mask = (channel < channels) & (pixel < pixels)
    weight = channel_values(noise_weight, weight_stride, channel, channels, DTYPE)
    offset = channel_values(bias, bias_stride, channel, channels, DTYPE)
    n = noise_at(noise, noise_strides, sample, pixel, pixels, width, DTYPE)
    v = before_leaky(x, x_strides, sample, channel, pixel, mask, width, n, weight, offset)
    m = statistic_at(mean, sample, channel, channels, 0.0, DTYPE)
    s = statistic_at(std, sample, channel, channels, 1.0, DTYPE)
    inverse = inverse_std(s, scalar(eps, DTYPE))
    if grad_y is not None:
        g = upstream(grad_y, grad_y_strides, sample, channel, pixel, mask, width)
        normalised = (leaky(v, scalar(slope, DTYPE)) - m) * inverse
        sum_grad = tl.sum(g, axis=1)[:, None]
        sum_normalised = tl.sum(tl.where(mask, g * normalised, 0.0), axis=1)[:, None]
        store_planes(grad_shift, sum_grad, sample, channel, channels)
        store_planes(grad_scale, sum_normalised, sample, channel, channels)
    else:
        g = tl.zeros_like(v)
        sum_grad = tl.zeros((CHANNELS, 1), DTYPE)
        sum_normalised = sum_grad
    if grad_x is not None or split_grads is not None or split_noisy is not None:
        a = plane_values(scale, scale_strides, sample, channel, channels, DTYPE)
        by_mean = plane_values(grad_mean, grad_mean_strides, sample, channel, channels, DTYPE)
        by_std = plane_values(grad_std, grad_std_strides, sample, channel, channels, DTYPE)
        by_grad, constant, by_deviation = plane_gradient(
            s, inverse, a, scalar(count, DTYPE), sum_grad, sum_normalised, by_mean, by_std
        )
        by_x = store_gradients(
            grad_x, grad_x_strides, sample, channel, pixel, mask, width, g, v, n,
            by_grad, constant, by_deviation, m, scalar(slope, DTYPE),
        )  # fmt: skip
        if split_grads is not None:
            store_planes(split_grads, tl.sum(by_x, axis=1)[:, None], sample, channel, channels)
        if split_noisy is not None:
            store_planes(split_noisy, tl.sum(by_x * n, axis=1)[:, None], sample, channel, channels)


@triton.jit(do_not_specialize=["channel_tiles", "splits"])
def styled_norm_backward_sums_kernel(
    x, noise, noise_weight, bias, mean, std, grad_y, split_sums, split_normalised,
    x_strides, noise_strides, grad_y_strides, weight_stride, bias_stride,
    channels, pixels, width, channel_tiles, splits, slope: tl.float64, eps: tl.float64,
    DTYPE: tl.constexpr, WIDE: tl.constexpr, CHANNELS: tl.constexpr, PIXELS: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    sample, channel, split = tile_of(channel_tiles, splits, CHANNELS)
    weight = channel_values(noise_weight, weight_stride, channel, channels, DTYPE)
    offset = channel_values(bias, bias_stride, channel, channels, DTYPE)
    m = statistic_at(mean, sample, channel, channels, 0.0, DTYPE)
    inverse = inverse_std(statistic_at(std, sample, channel, channels, 1.0, DTYPE), scalar(eps, DTYPE))
    total = tl.zeros((CHANNELS, PIXELS), DTYPE)
    normalised = total
    for step in range(STEPS):
        if WIDE:
            split = split.to(tl.int64)
        pixel = pixels_from((split * STEPS + step) * PIXELS, WIDE, PIXELS)
        mask = (channel < channels) & (pixel < pixels)
        n = noise_at(noise, noise_strides, sample, pixel, pixels, width, DTYPE)
        v = before_leaky(x, x_strides, sample, channel, pixel, mask, width, n, weight, offset)
        g = upstream(grad_y, grad_y_strides, sample, channel, pixel, mask, width)
        total += g
        normalised += tl.where(mask, g * (leaky(v, scalar(slope, DTYPE)) - m), 0.0)
    row = sample * splits + split
    store_planes(split_sums, tl.sum(total, axis=1)[:, None], row, channel, channels)
    store_planes(split_normalised, tl.sum(normalised, axis=1)[:, None] * inverse, row, channel, channels)


@triton.jit(do_not_specialize=["channel_tiles", "splits"])
def styled_norm_backward_apply_kernel(
    x, noise, noise_weight, bias, scale, mean, std, grad_y, grad_mean, grad_std, sums, sums_normalised,
    grad_x, split_grads, split_noisy,  # None where not needed
    x_strides, noise_strides, grad_y_strides, grad_x_strides, weight_stride, bias_stride, scale_strides,
    grad_mean_strides, grad_std_strides,
    channels, pixels, width, channel_tiles, splits, count: tl.float64, slope: tl.float64, eps: tl.float64,
    DTYPE: tl.constexpr, WIDE: tl.constexpr, CHANNELS: tl.constexpr, PIXELS: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    sample, channel, split = tile_of(channel_tiles, splits, CHANNELS)
    weight = channel_values(noise_weight, weight_stride, channel, channels, DTYPE)
    offset = channel_values(bias, bias_stride, channel, channels, DTYPE)
    m = statistic_at(mean, sample, channel, channels, 0.0, DTYPE)
    s = statistic_at(std, sample, channel, channels, 1.0, DTYPE)
    by_grad, constant, by_deviation = plane_gradient(
        s, inverse_std(s, scalar(eps, DTYPE)), plane_values(scale, scale_strides, sample, channel, channels, DTYPE),
        scalar(count, DTYPE), statistic_at(sums, sample, channel, channels, 0.0, DTYPE),
        statistic_at(sums_normalised, sample, channel, channels, 0.0, DTYPE),
        plane_values(grad_mean, grad_mean_strides, sample, channel, channels, DTYPE),
        plane_values(grad_std, grad_std_strides, sample, channel, channels, DTYPE),
    )  # fmt: skip
    total = tl.zeros((CHANNELS, PIXELS), DTYPE)
    noisy = total
    for step in range(STEPS):
        if WIDE:
            split = split.to(tl.int64)
        pixel = pixels_from((split * STEPS + step) * PIXELS, WIDE, PIXELS)
        mask = (channel < channels) & (pixel < pixels)
        n = noise_at(noise, noise_strides, sample, pixel, pixels, width, DTYPE)
        v = before_leaky(x, x_strides, sample, channel, pixel, mask, width, n, weight, offset)
        if grad_y is not None:
            g = upstream(grad_y, grad_y_strides, sample, channel, pixel, mask, width)
        else:
            g = tl.zeros_like(v)
        by_x = store_gradients(
            grad_x, grad_x_strides, sample, channel, pixel, mask, width, g, v, n,
            by_grad, constant, by_deviation, m, scalar(slope, DTYPE),
        )  # fmt: skip
        if split_grads is not None:
            total += by_x
        if split_noisy is not None:
            noisy += by_x * n
    row = sample * splits + split
    if split_grads is not None:
        store_planes(split_grads, tl.sum(total, axis=1)[:, None], row, channel, channels)
    if split_noisy is not None:
        store_planes(split_noisy, tl.sum(noisy, axis=1)[:, None], row, channel, channels)


@triton.jit(do_not_specialize=["rows", "channel_tiles"])
def sum_rows_kernel(
    partial, total, gradient, rows, channels, channel_tiles, ROWS: tl.constexpr, CHANNELS: tl.constexpr
):
    """Add partial [groups, rows, C] in float64 to [groups, C], and store it in `total` and `gradient` unless None."""
    group, channel, row = tile_of(channel_tiles, 1, CHANNELS)
    result = tl.zeros((CHANNELS, ROWS), tl.float64)
    while row < rows:  # not range: in Triton 3.6 the interpreter refuses a kernel argument in it
        index = row + tl.arange(0, ROWS)[None, :]  # [1, R]
        mask = (channel < channels) & (index < rows)
        place = partial + (group * rows + index) * channels + channel
        result += tl.load(place, mask=mask, other=0.0).to(tl.float64)
        row += ROWS
    value = tl.sum(result, axis=1)[:, None].to(partial.dtype.element_ty)
    store_planes(total, value, group, channel, channels)
    store_planes(gradient, value, group, channel, channels)


def _sum_rows(partial: Tensor, groups: int, total: Tensor | None, gradient: Tensor | None) -> None:
    """Add partial [.., C], with the same number of rows for each group."""
    channels = partial.shape[-1]
    rows = partial.numel() // channels // groups
    tile_channels = min(power_of_two_from(channels), 16, blocks.SUMS.elements)
    tile_rows = min(power_of_two_from(rows), blocks.SUMS.elements // tile_channels)
    channel_tiles = triton.cdiv(channels, tile_channels)
    launch(
        sum_rows_kernel, groups * channel_tiles, partial, total, gradient, rows, channels, channel_tiles,
        ROWS=tile_rows, CHANNELS=tile_channels, num_warps=min(max(tile_rows * tile_channels // 256, 1), 8),
    )  # fmt: skip


def styled_instance_norm_backward(
    grad_y: Tensor | None,
    grad_mean: Tensor | None,
    grad_std: Tensor | None,
    x: Tensor,
    noise: Tensor | None,
    noise_weight: Tensor | None,
    bias: Tensor | None,
    scale: Tensor | None,
    mean: Tensor,
    std: Tensor,
    negative_slope: float,
    eps: float,
    need_x: bool,
    need_noise_weight: bool,
    need_bias: bool,
    need_scale: bool,
    need_shift: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    check_operands(x, noise, noise_weight, bias, scale=scale)
    check_operand("grad_y", grad_y, x, x.shape, x.dtype)
    statistics = {"mean": mean, "std": std, "grad_mean": grad_mean, "grad_std": grad_std}
    for name, value in statistics.items():
        check_operand(name, value, x, x.shape[:2], sum_dtype(x.dtype))
    nothing = x.numel() == 0 or (grad_y is None and grad_mean is None and grad_std is None)

    def result(like: Tensor | None, needed: bool, through_y: bool = False) -> Tensor:
        like = x if like is None else like
        make = like.new_zeros if nothing or (through_y and grad_y is None) else like.new_empty
        return make(like.shape if needed else (0,))

    grad_x = (torch.zeros_like if nothing else torch.empty_like)(x) if need_x else x.new_empty((0,))
    grad_noise_weight, grad_bias = result(noise_weight, need_noise_weight), result(bias, need_bias)
    grad_scale, grad_shift = result(scale, need_scale, True), result(scale, need_shift, True)
    results = grad_x, grad_noise_weight, grad_bias, grad_scale, grad_shift
    adds_up, by_style = need_bias or need_noise_weight, grad_y is not None and (need_scale or need_shift)
    if nothing or not (need_x or adds_up or by_style):
        return results

    batch, channels, height, width = x.shape
    pixels = height * width
    options: dict[str, Any] = {"dtype": sum_dtype(x.dtype), "device": x.device}
    mean, std = mean.contiguous(), std.contiguous()
    tiles = tiles_of(x, blocks.STYLED_BACKWARD, blocks.STYLED_BACKWARD_WHOLE)
    out = grad_x if need_x else None
    (x_strides, noise_strides, grad_y_strides, grad_x_strides), wide = strides_of([x, noise, grad_y, out])
    read = x, noise, noise_weight, bias
    sources = grad_y, grad_mean, grad_std
    strides = (
        x_strides, noise_strides, grad_y_strides, grad_x_strides, stride_of(noise_weight), stride_of(bias),
        two_strides_of(scale), two_strides_of(grad_mean), two_strides_of(grad_std),
    )  # fmt: skip
    shape = channels, pixels, width, tiles.channel_tiles
    by_scale = grad_scale if grad_y is not None and need_scale else None
    by_shift = grad_shift if grad_y is not None and need_shift else None
    split_grads = torch.empty((batch, tiles.splits, channels), **options) if need_bias else None
    split_noisy = torch.empty((batch, tiles.splits, channels), **options) if need_noise_weight else None
    constants: dict[str, Any] = {
        "DTYPE": compute_type(x.dtype), "WIDE": wide, "CHANNELS": tiles.channels, "PIXELS": tiles.pixels,
        "num_warps": tiles.warps,
    }  # fmt: skip
    if tiles.whole:
        launch(
            styled_norm_backward_whole_kernel, tiles.programs, *read, scale, mean, std, *sources,
            out, split_grads, split_noisy, by_scale, by_shift, *strides, *shape,
            float(pixels), negative_slope, eps, **constants,
        )  # fmt: skip
    else:
        constants["STEPS"] = tiles.steps
        sums = sums_normalised = None
        if grad_y is not None:
            split_sums, split_normalised = torch.empty((2, batch, tiles.splits, channels), **options)
            sums, sums_normalised = torch.empty((2, batch, channels), **options)
            launch(
                styled_norm_backward_sums_kernel, tiles.programs, *read, mean, std, grad_y,
                split_sums, split_normalised, *strides[:3], *strides[4:6], *shape, tiles.splits,
                negative_slope, eps, **constants,
            )  # fmt: skip
            _sum_rows(split_sums, batch, sums, by_shift)
            _sum_rows(split_normalised, batch, sums_normalised, by_scale)
        if need_x or adds_up:
            launch(
                styled_norm_backward_apply_kernel, tiles.programs, *read, scale, mean, std, *sources,
                sums, sums_normalised, out, split_grads, split_noisy, *strides, *shape, tiles.splits,
                float(pixels), negative_slope, eps, **constants,
            )  # fmt: skip
    if split_grads is not None:
        _sum_rows(split_grads, 1, None, grad_bias)
    if split_noisy is not None:
        _sum_rows(split_noisy, 1, None, grad_noise_weight)
    return results
