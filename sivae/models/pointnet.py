"""The model `pointnet`: the networks of Soft-IntroVAE for point clouds, a PointNet and fully connected layers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sivae.bounds import MODEL_LAYERS
from sivae.models.base import VAEModel, checked_counts
from sivae.models.mlp import relu_network
from sivae.models.norm import NORMS, Norm, activated, make_norm
from sivae.models.priors import PriorName

_CHUNK = 64  # points whose maximum is found first


class PointVAE(VAEModel):
    """Encoder and decoder for clouds of points in space, as published with Soft-IntroVAE.

    The encoder does not depend on the order of the points, and takes clouds of any number of them. Distances between
    clouds come from :func:`sivae.ops.chamfer_distance`.

    Args:
        points: number of points that the decoder makes.
        z_dim: number of latent values per cloud.
        widths: features of a point after each layer of the encoder; the last are maximized over the points.
        hidden: width of the encoder's layer between these and the latent.
        decoder_widths: widths of the decoder's inner layers.
        norm: the encoder's norm after each ReLU: "batch" as published, "group" (see
            :func:`sivae.models.norm.make_norm`), or "none", with biases instead.
        prior_std: standard deviation of the latent prior in the units of the weights; 0.2 as published. The model's z
            is in units of it, so that its standard prior is N(0, 1) as for every model.
        prior: "standard", "mixture" or "vamp", see :mod:`sivae.models.priors`.
        prior_components: number of Gaussians of a learned prior.

    Raises:
        ValueError: an argument is out of range; the message names it and the accepted values.
    """

    name = "pointnet"
    encoder: PointEncoder
    decoder: PointDecoder

    def __init__(
        self,
        points: int = 2048,
        z_dim: int = 128,
        widths: Sequence[int] = (64, 128, 256, 256, 512),
        hidden: int = 256,
        decoder_widths: Sequence[int] = (64, 128, 512, 1024),
        norm: Norm = "batch",
        prior_std: float = 0.2,
        prior: PriorName = "standard",
        prior_components: int = 10,
    ) -> None:
        super().__init__()
        widths = _checked_widths("widths", widths)
        decoder_widths = _checked_widths("decoder_widths", decoder_widths)
        checked_counts("PointVAE", 1, points=points, z_dim=z_dim, hidden=hidden)
        if norm not in NORMS:
            raise ValueError(f"PointVAE: norm is {norm!r}, expected one of {', '.join(NORMS)}")
        self.hyperparameters = {
            "points": points,
            "z_dim": z_dim,
            "widths": list(widths),
            "hidden": hidden,
            "decoder_widths": list(decoder_widths),
            "norm": norm,
            "prior_std": prior_std,  # also the usual 1, which is not the default here
        }
        self._set_prior_std(prior_std)
        self.z_dim = z_dim
        self.sample_shape = (points, 3)
        self.mixes_samples = norm == "batch"
        self.encoder = PointEncoder(widths, hidden, z_dim, norm)
        self.decoder = PointDecoder(z_dim, decoder_widths, points)
        self._set_prior(prior, prior_components)


class PointEncoder(nn.Module):
    """Clouds [B, N, 3], of any N -> mu and logvar, [B, z_dim] each."""

    def __init__(self, widths: Sequence[int], hidden: int, z_dim: int, norm: Norm) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            PointLayer(fan_in, fan_out, norm) for fan_in, fan_out in itertools.pairwise((3, *widths))
        )
        self.hidden = nn.Linear(widths[-1], hidden)
        self.head = nn.Linear(hidden, 2 * z_dim)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        for layer in self.layers:
            x = layer(x)
        features = self.hidden(_largest(x)).relu_()
        mu, logvar = self.head(features).chunk(2, dim=1)
        return mu, logvar


class PointLayer(nn.Module):
    """A linear layer of each point, ReLU and then a norm: [B, N, fan_in] -> [B, N, fan_out]."""

    def __init__(self, fan_in: int, fan_out: int, norm: Norm) -> None:
        super().__init__()
        self.linear = nn.Linear(fan_in, fan_out, bias=norm == "none")
        self.norm = make_norm(norm, fan_out)

    def forward(self, x: Tensor) -> Tensor:
        features = self.linear(x).relu_()
        # To the norm, points are the pixels of a channels-last map [B, C, N, 1]; a slope of 1 is no activation.
        return activated(self.norm, features.transpose(1, 2).unsqueeze(3), 1.0).squeeze(3).transpose(1, 2)


class PointDecoder(nn.Module):
    """Latents [B, z_dim] -> clouds [B, points, 3].

    The result is a view of [B, 3, points]: the weights of the last layer make all x first, then all y, then all z, as
    the authors' program stores them.
    """

    def __init__(self, z_dim: int, widths: Sequence[int], points: int) -> None:
        super().__init__()
        self.layers = relu_network([z_dim, *widths, 3 * points])

    def forward(self, z: Tensor) -> Tensor:
        coordinates: Tensor = self.layers(z)
        return coordinates.unflatten(1, (3, -1)).transpose(1, 2)


def _largest(x: Tensor) -> Tensor:
    """Maximize each feature over the points: [B, N, C] -> [B, C]. The gradient goes to the first of equal points."""
    return x.gather(1, _argmax(x.detach())).squeeze(1)


def _argmax(x: Tensor) -> Tensor:
    """Find the first point with the largest value of each feature: [B, N, C] -> int64 [B, 1, C].

    Maxima without their places are many times faster on a CPU, so these come first, over chunks of the points.
    """
    count = x.shape[1]
    size = math.gcd(count, _CHUNK)
    chunk = x.unflatten(1, (count // size, size)).amax(2).argmax(1, keepdim=True)  # [B, 1, C]
    places = chunk * size + torch.arange(size, device=x.device)[None, :, None]  # [B, size, C]
    return chunk * size + x.gather(1, places).argmax(1, keepdim=True)


def _checked_widths(name: str, widths: Sequence[int]) -> tuple[int, ...]:
    if isinstance(widths, str) or not isinstance(widths, Sequence) or not 1 <= len(widths) <= MODEL_LAYERS:
        raise ValueError(
            f"PointVAE: {name} is {str(widths)[:40]}, expected 1 to {MODEL_LAYERS} widths, such as (64, 128)"
        )
    for width in widths:
        checked_counts("PointVAE", 1, **{name: width})
    return tuple(widths)
