"""Convolve small maps in bfloat16 on a CPU with a weight gradient that is a matrix product.

oneDNN's weight gradient mostly rearranges the weights where a batch has few pixels: for 512 channels at 4x4 and a batch
of 32 it takes 23 ms on a core with AMX, and the product of the same numbers 3.4 ms. Values and other gradients are
oneDNN's.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional as F

_MOST_PIXELS = 1024  # of a batch; with more, copying their windows takes as long as the product saves


class MapConv2d(nn.Conv2d):
    """A convolution with a stride of 1 that keeps the size of maps [B, C, H, W], for maps of any size."""

    def forward(self, x: Tensor) -> Tensor:
        if self.bias is None and serves(x, self.weight):
            return convolved(x, self.weight, padding=self.weight.shape[-1] // 2)
        return super().forward(x)


def serves(x: Tensor, weight: Tensor) -> bool:
    """Whether :func:`convolved` computes the same as a call of torch, and its weight gradient faster."""
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return False
    # The transforms of torch.func and forward-mode derivatives do not know the autograd function, and vmap knows no
    # memory formats.
    if torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0:
        return False
    if not (torch.is_grad_enabled() and weight.requires_grad):
        return False
    if torch.is_autocast_enabled("cpu"):
        halves = torch.get_autocast_dtype("cpu") == torch.bfloat16
    else:
        halves = x.dtype == weight.dtype == torch.bfloat16
    return (
        halves
        and 0 < x.shape[0] * x.shape[2] * x.shape[3] <= _MOST_PIXELS
        and x.is_contiguous(memory_format=torch.channels_last)
    )


def convolved(x: Tensor, weight: Tensor, *, padding: int, transposed: bool = False) -> Tensor:
    """Compute a convolution with a stride of 1, or a transposed one with a stride of 2, in bfloat16.

    Args:
        x: [B, C, H, W] in channels-last memory.
        weight: [C', C, K, K]; transposed: [C, C', K, K].
        padding: zeros on each side.
        transposed: compute the transposed convolution.

    Returns:
        [B, C', H', W'], bfloat16, as by torch.
    """
    result: Tensor = _Convolution.apply(x.to(torch.bfloat16), weight.to(torch.bfloat16), padding, transposed)
    return result


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, padding: int, transposed: bool) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.settings = padding, transposed
        if transposed:
            return F.conv_transpose2d(x, weight, stride=2, padding=padding)
        return F.conv2d(x, weight, padding=padding)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        (grad,), (x, weight), (padding, transposed) = grads, ctx.saved_tensors, ctx.settings
        stride = 2 if transposed else 1
        of_x = of_weight = None
        if ctx.needs_input_grad[0]:
            of_x = torch.ops.aten.convolution_backward(
                grad, x, weight, None, [stride] * 2, [padding] * 2, [1, 1], transposed, [0, 0], 1, [True, False, False]
            )[0]
        if ctx.needs_input_grad[1]:
            images, at = (grad, x) if transposed else (x, grad)
            of_weight = _product(images, at, weight.shape[-1], stride, padding)
        return of_x, of_weight, None, None


def _product(images: Tensor, at: Tensor, side: int, stride: int, padding: int) -> Tensor:
    """Sum at[b, c', h, w] times the window of images [B, C, ., .] that belongs to (h, w): [C', C, side, side]."""
    batch, out, height, width = at.shape
    channels = images.shape[1]
    padded = F.pad(images.permute(0, 2, 3, 1), (0, 0, *(padding,) * 4)).contiguous()  # [B, ., ., C]
    of_batch, of_row, of_pixel, _ = padded.stride()
    windows = padded.as_strided(
        (batch, height, width, side, side * channels), (of_batch, stride * of_row, stride * of_pixel, of_row, 1)
    )
    rows = batch * height * width
    product = at.permute(0, 2, 3, 1).reshape(rows, out).t() @ windows.reshape(rows, side * side * channels)
    return product.view(out, side, side, channels).permute(0, 3, 1, 2)
