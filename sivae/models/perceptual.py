"""Perceptual distances: reconstruction errors in pixels and in the activations of VGG-16."""

from __future__ import annotations

import os
from typing import Self

import torch
from torch import Tensor, nn

from sivae import ops
from sivae.models.lpips import LPIPS
from sivae.models.precision import float32_products
from sivae.models.vgg import VGG16Features, load_vgg16, pair_of_maps, taps_within


class LPIPSDistance(nn.Module):
    """L1 between images, and LPIPS beside it, the reconstruction error of autoencoders for latent diffusion::

        rec = D (mean |x - x'| + LPIPS(x, x'))

    with D the number of values of an image (Rombach et al., CVPR 2022, whose program has the weights 1 and 1). Its unit
    is that of :func:`sivae.ops.reconstruction_error` with kind "l1". LPIPS is computed in float32 under autocast too,
    and the products of its gradient are as exact as the training's.

    Args:
        lpips: its network; the parameters are frozen.
    """

    def __init__(self, lpips: LPIPS) -> None:
        super().__init__()
        self.lpips = lpips.requires_grad_(False)

    def forward(self, recon: Tensor, target: Tensor) -> Tensor:
        """Compute the error of each pair of images [B, C, H, W], at least 16 x 16: [B], differentiable in both.

        Raises:
            TypeError, ValueError: as :class:`sivae.models.lpips.LPIPS`.
        """
        rec = ops.reconstruction_error(recon, target, kind="l1")
        with torch.autocast(recon.device.type, enabled=False), float32_products(rounded=False):
            far = self.lpips(recon.float(), target.float())
        return rec + recon.shape[1:].numel() * far.to(rec.dtype)


class PerceptualDistance(nn.Module):
    """L1 between images and between their activations in VGG-16, the loss of LORD (Gabbay & Hoshen, ICLR 2020).

    For each pair, with D the number of elements of an image, φ_l the activations at the taps, and means over all
    elements::

        rec = D (mean |x - x'| + Σ_l mean |φ_l(x) - φ_l(x')|)

    Its unit is that of :func:`sivae.ops.reconstruction_error` with kind "l1", which is its first term.

    Images of fewer than 16 x 16 pixels have no map at the last taps. The sum then contains only the taps with a map
    (:func:`sivae.models.vgg.taps_within`), for models that grow from small images. So distances of images below 16 x 16
    compare only with distances at the same size.

    Args:
        network: a network of :func:`sivae.models.vgg.load_vgg16`; its own taps are not used. Its parameters are frozen,
            and it is part of the state dict, with 59 MB.
    """

    def __init__(self, network: VGG16Features) -> None:
        super().__init__()
        self.network = network.requires_grad_(False)

    @classmethod
    def from_file(cls, path: str | os.PathLike[str], value_range: tuple[float, float] = (0.0, 1.0)) -> Self:
        """Read the weights of VGG-16 from a file.

        Args:
            path: as for :func:`sivae.models.vgg.load_vgg16`.
            value_range: the values of black and of white in the images.

        Raises:
            OSError, ModelFileError, ValueError: as :func:`sivae.models.vgg.load_vgg16`.
        """
        return cls(load_vgg16(path, value_range=value_range))

    def forward(self, recon: Tensor, target: Tensor) -> Tensor:
        """Compute the distance of each pair; see :func:`sivae.models.vgg.pair_of_maps` for what a gradient costs.

        Args:
            recon, target: [B, C, H, W] of one shape, floating point, in the value range; C is 1 or 3.

        Returns:
            rec: [B], float32 (float64 for float64), differentiable in both.

        Raises:
            TypeError, ValueError: wrong type, dtype, shape or device, naming the argument.
        """
        rec = ops.reconstruction_error(recon, target, kind="l1")
        taps = taps_within(*recon.shape[2:]) if recon.ndim == 4 else None  # the network refuses another shape
        for one, other in zip(*pair_of_maps(self.network, recon, target, taps), strict=True):
            scale = recon.shape[1:].numel() / one.shape[1:].numel()
            rec = rec + scale * ops.reconstruction_error(one, other, kind="l1")
        return rec
