"""Estimate the log-likelihood of data under a model: the importance-weighted bound, the ELBO, and the KL to the prior.

With a p(x|z) around the decoded x̂ = D(z) that is Gaussian, of variance sigma² and independent over the n elements,

    log p(x|z) = -rec(x, x̂) / (2 sigma²) - n/2 log(2 pi sigma²)        rec the summed squared error
    ELBO(x) = E_q log p(x|z) - kl(x)                                    q = q(z|x)

Training minimises beta_rec rec + beta_kl kl. Divided by beta_kl that is (beta_rec / beta_kl) rec + kl, which is -ELBO
up to the constant n/2 log(2 pi sigma²) where 1 / (2 sigma²) = beta_rec / beta_kl: sigma² = beta_kl / (2 beta_rec). So
with this variance a trained model has maximised the ELBO that is computed here. By the same argument the absolute error
instead of the squared one makes p(x|z) a Laplace density of width b = beta_kl / beta_rec.

The importance-weighted bound (Burda, Grosse & Salakhutdinov, ICLR 2016, Eq. 8) averages K weights before the logarithm:

    L_K(x) = E log (1/K) sum_k w_k        w_k = p(x|z_k) p(z_k) / q(z_k|x),  z_k ~ q(z|x)

L_1 is the ELBO, L_K never falls with K, and it goes to log p(x). All values are in nats, of densities in the model's
own units: values of models of other image sizes or value ranges cannot be compared.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from sivae import ops
from sivae.models import VAEModel
from sivae.models.base import device_and_dtype, evaluating, samples_at_once
from sivae.models.priors import Components

_KINDS = ("mse", "l1", "bce", "chamfer")
_BLOCK_BITS, _BLOCK = 24, 64  # samples of one image that share an offset of the noise; blocks of one image
NUMBER_LIMIT = 1 << (63 - _BLOCK_BITS)  # image numbers are below it


@dataclass(frozen=True)
class PixelDensity:
    """p(x|z), the density of each element around its decoded value.

    Attributes:
        precision: the factor of the reconstruction error in -log p(x|z), above 0: 1 / (2 sigma²) of a Gaussian, 1 / b
            of a Laplace density.
        kind: "mse" is a Gaussian, "l1" a Laplace density. "bce" has minus precision times the cross entropy of values
            in [0, 1] as its logarithm: a Bernoulli distribution where they are 0 or 1. "chamfer" has minus precision
            times the Chamfer distance of two clouds, up to a constant that is the same for all clouds.

    Raises:
        ValueError: the precision is not a finite number above 0, or there is no such kind.
    """

    precision: float
    kind: str = "mse"

    def __post_init__(self) -> None:
        if self.kind not in _KINDS:
            raise ValueError(f"PixelDensity: kind is {self.kind!r}, expected one of {', '.join(map(repr, _KINDS))}")
        if not (math.isfinite(self.precision) and self.precision > 0):
            raise ValueError(f"PixelDensity: precision is {self.precision}, expected a finite number above 0")

    @classmethod
    def of_objective(cls, beta_rec: float, beta_kl: float, kind: str = "mse") -> PixelDensity:
        """The density whose ELBO a training with these weights maximises.

        Raises:
            ValueError: a weight is not a finite number above 0, so there is no such density.
        """
        for name, value in (("beta_rec", beta_rec), ("beta_kl", beta_kl)):
            if not (math.isfinite(value) and value > 0):
                raise ValueError(
                    f"{name} is {value}, and only finite weights above 0 make a density of x given z; choose its "
                    "width by sigma"
                )
        return cls(beta_rec / beta_kl, kind)

    @classmethod
    def gaussian(cls, sigma: float) -> PixelDensity:
        """A Gaussian of that standard deviation, in the model's units.

        Raises:
            ValueError: it is not a finite number above 0.
        """
        if not (math.isfinite(sigma) and sigma > 0 and 0 < sigma * sigma < math.inf):
            raise ValueError(f"sigma is {sigma}, expected a finite number above 0")
        return cls(0.5 / sigma**2)

    def error(self, recon: Tensor, target: Tensor) -> Tensor:
        """Compute the error that `precision` is the factor of, [B]."""
        if self.kind == "chamfer":
            return ops.chamfer_distance(recon, target)
        return ops.reconstruction_error(recon, target, kind=self.kind)

    @property
    def sigma(self) -> float:
        """Standard deviation of an element."""
        return math.sqrt(2.0) / self.precision if self.kind == "l1" else math.sqrt(0.5 / self.precision)

    @property
    def log_normaliser(self) -> float:
        """Of one element: log sqrt(2 pi sigma²), or log 2b; 0 of bce, and of clouds, whose constant is left out."""
        if self.kind in ("bce", "chamfer"):
            return 0.0
        return 0.5 * math.log(math.pi / self.precision) if self.kind == "mse" else math.log(2.0 / self.precision)


class Estimates(NamedTuple):
    """The result of :func:`estimate`; float64 [N] on the CPU, in nats.

    Attributes:
        kl: KL(q(z|x) || p(z)); exact for the standard prior, else see :meth:`Components.kl`.
        elbo: the ELBO, with this kl and the mean of log p(x|z_k) over the samples.
        log_likelihood: the importance-weighted bound of as many samples.
    """

    kl: Tensor
    elbo: Tensor
    log_likelihood: Tensor


def kl_to_prior(model: VAEModel, x: Tensor, *, condition: Tensor | None = None) -> Tensor:
    """Compute KL(q(z|x) || p(z)) of each sample, without decoding; arguments as for :func:`estimate`.

    Returns:
        float64 [N] on the CPU, in nats; infinite where the encoder's output is not finite.
    """
    with evaluating(model):
        found = [
            _kl(model, *model.encode(chunk, given)) for chunk, given, _ in _chunks(model, x, condition, range(len(x)))
        ]
    return torch.cat(found).cpu() if found else torch.zeros(0, dtype=torch.float64)


def estimate(
    model: VAEModel,
    x: Tensor,
    *,
    density: PixelDensity,
    samples: int,
    seed: int = 0,
    numbers: Sequence[int] | None = None,
    condition: Tensor | None = None,
) -> Estimates:
    """Estimate log p(x) of each sample under a model and its prior.

    Images and samples of z are processed in portions of a few million values, so that a large K needs no memory, and
    the weights are summed as logarithms, so that a small sigma does not underflow. Networks run in their own dtype, in
    eval mode and without gradient, and the error of each decoded image is summed in it too (float32: to a relative 2e-5
    at worst); everything after that is float64. A sample whose weight is not a number counts as impossible.

    Args:
        model: it gets its mode back.
        x: [N, *sample_shape], in the model's value range, on any device.
        density: p(x|z).
        samples: K, at least 1.
        seed: of the noise, from 0 to 2^63 - 1.
        numbers: of the samples, below `NUMBER_LIMIT`: the noise of one depends on the seed and on its number alone.
            None: 0, 1, 2 …
        condition: [N, condition_dim], for a conditional model.

    Returns:
        See :class:`Estimates`. A larger K begins with the samples of a smaller one.

    Raises:
        ValueError: shapes, numbers or the count of samples are wrong.
    """
    if samples < 1:
        raise ValueError(f"estimate: samples is {samples}, expected at least 1")
    if samples > _BLOCK << _BLOCK_BITS:
        raise ValueError(f"estimate: samples is {samples}, expected at most {_BLOCK << _BLOCK_BITS:,}")
    found = []
    with evaluating(model):
        for chunk, given, named in _chunks(model, x, condition, range(len(x)) if numbers is None else numbers):
            found.append(_estimate(model, chunk, given, named, density, samples, seed))
    if not found:
        return Estimates(*(torch.zeros(0, dtype=torch.float64) for _ in range(3)))
    return Estimates(*(torch.cat(parts).cpu() for parts in zip(*found, strict=True)))


def _chunks(
    model: VAEModel, x: Tensor, condition: Tensor | None, numbers: Sequence[int]
) -> list[tuple[Tensor, Tensor | None, Sequence[int]]]:
    if tuple(x.shape[1:]) != tuple(model.sample_shape):
        raise ValueError(
            f"estimate: x is {list(x.shape)}, expected [N, {', '.join(map(str, model.sample_shape))}] for this model"
        )
    if len(numbers) != len(x):
        raise ValueError(f"estimate: {len(numbers)} numbers for {len(x)} samples, expected one for each")
    if not all(0 <= number < NUMBER_LIMIT for number in numbers):
        raise ValueError(f"estimate: numbers are from {min(numbers)} to {max(numbers)}, expected 0 to 2^39 - 1")
    place, dtype = device_and_dtype(model)
    size = samples_at_once(model.sample_shape)
    return [
        (
            x[start : start + size].to(place, dtype),
            None if condition is None else condition[start : start + size].to(place, dtype),
            numbers[start : start + size],
        )
        for start in range(0, len(x), size)
    ]


def _estimate(
    model: VAEModel,
    x: Tensor,
    condition: Tensor | None,
    numbers: Sequence[int],
    density: PixelDensity,
    samples: int,
    seed: int,
) -> tuple[Tensor, Tensor, Tensor]:
    mu, logvar = (values.double().flatten(1) for values in model.encode(x, condition))  # [B, z]
    kl, prior = _kl(model, mu, logvar), model.prior_components()
    scale = (0.5 * logvar).exp()
    log_sum = torch.full_like(kl, -math.inf)
    log_x_sum = torch.zeros_like(kl)
    constant = density.log_normaliser * math.prod(model.sample_shape)
    together = max(1, samples_at_once(model.sample_shape) // len(x))  # samples of z for each image in one pass
    for block in range(-(-samples // _BLOCK)):
        count = min(_BLOCK, samples - block * _BLOCK)
        for eps in _noise(seed, numbers, block, count, mu, x.dtype).split(together):  # [k, B, z]
            z = mu + scale * eps
            log_ratio = _log_ratio(z, eps, logvar, prior)
            given = None if condition is None else condition.repeat(len(eps), 1)
            latents = z.to(x.dtype).view(-1, *model.latent_shape)
            again = model.render(latents, given)  # [k B, ...]
            target = x if len(eps) == 1 else x.expand(len(eps), *x.shape).flatten(0, 1)
            rec = density.error(again, target).double().view_as(log_ratio)
            log_x = -density.precision * rec - constant
            log_sum = torch.logaddexp(log_sum, torch.logsumexp(_possible(log_x + log_ratio), 0))
            log_x_sum = log_x_sum + log_x.sum(0)
    return kl, _possible(log_x_sum / samples - kl), log_sum - math.log(samples)


def _log_ratio(z: Tensor, eps: Tensor, logvar: Tensor, prior: Components | None) -> Tensor:
    """Compute log p(z) - log q(z|x) of z [k, B, z_dim], of which (z - mu)² / sigma² is eps²: [k, B]."""
    if prior is None:  # the halves of log 2 pi cancel
        return 0.5 * (eps.square() + logvar - z.square()).sum(-1)
    of_posterior = -0.5 * (eps.square() + logvar + math.log(2.0 * math.pi)).sum(-1)
    return prior.log_prob(z.flatten(0, 1)).view_as(of_posterior) - of_posterior


def _kl(model: VAEModel, mu: Tensor, logvar: Tensor) -> Tensor:
    return model.kl(mu.double(), logvar.double()).nan_to_num(nan=math.inf, posinf=math.inf)


def _possible(log_weight: Tensor) -> Tensor:
    return log_weight.nan_to_num(nan=-math.inf, posinf=-math.inf, neginf=-math.inf)


def _noise(seed: int, numbers: Sequence[int], block: int, count: int, like: Tensor, dtype: torch.dtype) -> Tensor:
    """eps of a block of samples, [count, B, z_dim] in like's dtype; its values have the networks' precision."""
    shape = (count, like.shape[1])
    return torch.stack(
        [
            ops.philox_normal(seed, shape, offset=(number << _BLOCK_BITS) | block, device=like.device, dtype=dtype)
            for number in numbers
        ],
        dim=1,
    ).to(like.dtype)
