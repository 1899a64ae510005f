"""MS-SSIM, and a reconstruction error that adds it to the error of the values."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sivae import ops
from sivae.models.precision import float32_products

WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # of the scales, finest first; the paper's table
_WINDOW, _SIGMA = 11, 1.5
_C1, _C2 = 0.01**2, 0.03**2  # for values from 0 to 1
_LEAST = 0.01  # a scale's similarity below this counts as this: its power has no gradient at 0


def ms_ssim(images: Tensor, others: Tensor, value_range: tuple[float, float] = (0.0, 1.0)) -> Tensor:
    """Compute the multi-scale structural similarity of each pair, with gradients to both.

    Wang, Simoncelli & Bovik, "Multiscale structural similarity for image quality assessment" (Asilomar 2003), equation
    7, with a Gaussian window of 11 x 11 and sigma 1.5, reflected borders, means over pixels and channels, and scales
    that are means of 2 x 2 pixels. An image has as many of the five scales as hold the window, and their weights sum to
    1: two for 32 x 32 pixels, five from 176 x 176 on. Below 11 x 11 the window is the largest odd one that fits, with
    sigma in proportion. So values of images of other sizes are not comparable.

    Args:
        images, others: [B, C, H, W] of one shape, floating point; halves are computed in float32.
        value_range: the values of black and of white. Values outside are compared as they are.

    Returns:
        [B], float32 (float64 for float64): 1 where both are equal, and above 0 elsewhere.

    Raises:
        ValueError: the shapes differ, or are no batches of images.
    """
    if images.shape != others.shape or images.ndim != 4:
        raise ValueError(
            f"ms_ssim: images are {list(images.shape)} and {list(others.shape)}, expected two equal [B, C, H, W]"
        )
    dtype = torch.promote_types(images.dtype, torch.float32)
    low, high = value_range
    one, other = ((x.to(dtype) - low) / (high - low) for x in (images, others))
    if len(one) == 0:
        return one.new_ones(0)
    side = min(images.shape[2:])
    window = min(_WINDOW, side - 1 + side % 2)
    scales = next((count for count in range(len(WEIGHTS), 1, -1) if side >> (count - 1) >= window == _WINDOW), 1)
    weights = [weight / sum(WEIGHTS[:scales]) for weight in WEIGHTS[:scales]]
    kernel = _kernel(window, one)
    similarity = one.new_ones(len(one))
    # Variances are differences of means of squares: with rounded factors little would remain of a small one.
    with torch.autocast(one.device.type, enabled=False), float32_products(rounded=False):
        for index, weight in enumerate(weights):
            if index:
                one, other = F.avg_pool2d(one, 2), F.avg_pool2d(other, 2)
            structure, luminance = _similarities(one, other, kernel)
            if index == scales - 1:
                structure = structure * luminance
            similarity = similarity * structure.flatten(1).mean(1).clamp_min(_LEAST) ** weight
    return similarity


def _kernel(window: int, like: Tensor) -> Tensor:
    """The weights of a row of the window, with the sum 1."""
    at = torch.arange(window, dtype=torch.float64) - (window - 1) / 2
    row = torch.exp(-0.5 * (at / (_SIGMA * window / _WINDOW)).square())
    return (row / row.sum()).to(like)


def _similarities(one: Tensor, other: Tensor, kernel: Tensor) -> tuple[Tensor, Tensor]:
    """The contrast and structure, and the luminance, compared around each pixel: [B, C, H, W] each."""
    batch, channels = one.shape[:2]
    border = len(kernel) // 2
    # Minus one value for both, the variances of bright images keep their digits.
    pivot = one.detach().mean((2, 3), keepdim=True)
    one, other = (F.pad(x - pivot, (border,) * 4, "reflect") for x in (one, other))
    maps = torch.cat([one, other, one * one, other * other, one * other]).flatten(0, 1)
    # As channels with a window each: oneDNN takes twenty times as long for as many images of one channel.
    count = len(maps)
    row, column = (kernel.view(1, 1, *shape).expand(count, -1, -1, -1) for shape in ((1, -1), (-1, 1)))
    blurred = F.conv2d(F.conv2d(maps[None], row, groups=count), column, groups=count)[0]
    mean, mean_other, square, square_other, product = blurred.unflatten(0, (5, batch, channels))
    covariance = product - mean * mean_other
    variances = square + square_other - (mean * mean + mean_other * mean_other)
    structure = (2.0 * covariance + _C2) / (variances + _C2)
    mean, mean_other = mean + pivot, mean_other + pivot
    return structure, (2.0 * (mean * mean_other) + _C1) / (mean * mean + mean_other * mean_other + _C1)


class StructuralDistance(nn.Module):
    """The error of the values, and 1 - MS-SSIM beside it::

        rec = D (error / D + weight (1 - MS-SSIM))

    with D the number of values of an image and the error of :func:`sivae.ops.reconstruction_error`, whose unit it has.

    Args:
        weight: of 1 - MS-SSIM, relative to the mean error of a value; 0 or more.
        kind: of the error.
        value_range: the values of black and of white.
    """

    def __init__(self, weight: float, kind: str = "mse", value_range: tuple[float, float] = (0.0, 1.0)) -> None:
        super().__init__()
        self.weight, self.kind, self.value_range = weight, kind, value_range

    def forward(self, recon: Tensor, target: Tensor) -> Tensor:
        """Compute the error of each pair of images [B, C, H, W]: [B], float32 at least."""
        rec = ops.reconstruction_error(recon, target, kind=self.kind)
        scale = self.weight * recon.shape[1:].numel()
        return rec + scale * (1.0 - ms_ssim(recon, target, self.value_range))
