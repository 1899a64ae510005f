"""Cut images [B, C, H, W] into tiles [channels, pixels] of one sample, which are read and written in place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from sivae.ops.triton import blocks
from sivae.ops.triton.blocks import power_of_two_from
from sivae.ops.triton.layout import _INT32_LIMIT

_CACHE_SECTOR = 32  # bytes
_MOST_SPLITS = 1024  # that one tile of the second stage holds


class Tiles(NamedTuple):
    """A call as programs: pid = (sample * channel tiles + channel tile) * splits + split."""

    channels: int  # of a tile; this and the next are powers of two
    pixels: int
    steps: int  # tiles of pixels of one program
    splits: int  # programs of one plane; 1: a tile holds the whole plane
    channel_tiles: int
    programs: int
    warps: int

    @property
    def whole(self) -> bool:
        return self.splits == 1 and self.steps == 1


def tiles_of(x: Tensor, limits: blocks.Blocks, largest_whole: int) -> Tiles:
    """Cut `x`, which has elements: along channels where they are innermost in memory, else along planes."""
    batch, channels, height, width = x.shape
    pixels, bytes_each = height * width, x.element_size()
    innermost = channels > 1 and x.stride(1) == 1
    narrowest = min(power_of_two_from(channels), _CACHE_SECTOR // bytes_each) if innermost else 1
    tile_pixels = power_of_two_from(pixels)
    largest = largest_whole * 4 // max(bytes_each, 4)
    if tile_pixels * narrowest <= largest:
        wanted = largest if innermost else limits.elements
        tile_channels = min(power_of_two_from(channels), max(wanted // tile_pixels, narrowest))
        while tile_channels > narrowest and batch * -(-channels // tile_channels) < blocks.FEW_PROGRAMS:
            tile_channels //= 2
        return _tiles(x, tile_channels, tile_pixels, 1, 1)
    tile_channels = min(power_of_two_from(channels), 64, limits.elements) if innermost else 1
    tile_pixels = min(limits.elements // tile_channels, tile_pixels)
    steps = limits.steps

    def splits() -> int:
        return -(-pixels // (tile_pixels * steps))

    while steps > 1 and batch * -(-channels // tile_channels) * splits() < blocks.ENOUGH_PROGRAMS:
        steps //= 2
    while splits() > _MOST_SPLITS:
        steps *= 2
    return _tiles(x, tile_channels, tile_pixels, steps, splits())


def _tiles(x: Tensor, tile_channels: int, tile_pixels: int, steps: int, splits: int) -> Tiles:
    channel_tiles = -(-x.shape[1] // tile_channels)
    elements = tile_channels * tile_pixels
    # 8 elements per thread up to 8 warps, and more where a program keeps whole planes.
    warps = min(max(elements // 256, 1), 8 if elements <= 4096 else 16)
    return Tiles(tile_channels, tile_pixels, steps, splits, channel_tiles, x.shape[0] * channel_tiles * splits, warps)


class Strides(NamedTuple):
    """Strides of each image: (batch, channel, pixel), or (batch, channel, row, column) where any needs both."""

    each: list[tuple[int, ...] | None]
    wide: bool  # offsets within a sample need 64 bits


def strides_of(images: Sequence[Tensor | None]) -> Strides:
    """Strides of images with the same [H, W]; a dimension of size 1 that is shared by all has stride 0."""
    present = [image for image in images if image is not None]
    height, width = present[0].shape[2:]
    in_line = height == 1 or all(width == 1 or t.stride(2) == width * t.stride(3) for t in present)

    def strides(t: Tensor) -> tuple[int, ...]:
        first = (t.stride(0) if t.shape[0] > 1 else 0, t.stride(1) if t.shape[1] > 1 else 0)
        if in_line:
            return (*first, t.stride(2) if width == 1 else t.stride(3))
        return (*first, t.stride(2), t.stride(3))

    reach = max(sum((n - 1) * abs(s) for n, s in zip(t.shape[1:], t.stride()[1:], strict=True)) for t in present)
    return Strides([None if t is None else strides(t) for t in images], max(reach, height * width) >= _INT32_LIMIT)


@triton.jit
def tile_of(channel_tiles, splits, CHANNELS: tl.constexpr):
    """This program's sample, its channels [CHANNELS, 1], and which split of their planes it takes."""
    pid = tl.program_id(0)
    group = pid // splits
    channel = (group % channel_tiles).to(tl.int64) * CHANNELS + tl.arange(0, CHANNELS)[:, None]
    return (group // channel_tiles).to(tl.int64), channel, pid % splits


@triton.jit
def pixels_from(start, WIDE: tl.constexpr, PIXELS: tl.constexpr):
    """[1, PIXELS]"""
    if WIDE:
        start = start.to(tl.int64)
    return start + tl.arange(0, PIXELS)[None, :]


@triton.jit
def offsets_in(sample, channel, pixel, strides, width):
    """Memory offsets of elements: channel [C, 1], pixel [1, P] -> [C, P]."""
    base = sample * strides[0] + channel * strides[1]
    if len(strides) == 3:
        offset = base + pixel * strides[2]
    else:
        offset = base + ((pixel // width) * strides[2] + (pixel % width) * strides[3])
    return offset
