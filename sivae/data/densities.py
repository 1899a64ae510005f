"""Draw points from the five two-dimensional toy densities of the Soft-IntroVAE experiments.

Every sampler draws independent points with a few tensor operations, so that a new batch takes little time of a training
step. Randomness comes only from the given generator (or the device's default one), in a fixed order: the same generator
state gives the same points.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, partial

import torch
from torch import Tensor

Centres = tuple[tuple[float, float], ...]
Sampler = Callable[[int, torch.Generator | None, torch.device, torch.dtype], Tensor]


@dataclass(frozen=True, eq=False, slots=True)
class Density:
    """A two-dimensional density that can be sampled.

    Attributes:
        name: the key in :data:`DENSITIES`.
        extent: a quarter of the plotting square's side: grids and histograms span ``[-2·extent, 2·extent]²``.
        centres: the centres of a Gaussian mixture with equal weights; None for the other densities.
        sigma: the standard deviation of each coordinate around its centre; None for the other densities.
    """

    name: str
    extent: float
    _sampler: Sampler = field(repr=False)
    centres: Centres | None = field(default=None, repr=False)
    sigma: float | None = None

    @property
    def modes(self) -> Tensor | None:
        """The mixture's centres, float64 ``[K, 2]`` on the CPU; None where the density is no mixture."""
        return None if self.centres is None else torch.tensor(self.centres, dtype=torch.float64)

    def sample(
        self,
        count: int,
        *,
        generator: torch.Generator | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """Draw ``count`` independent points.

        Args:
            count: number of points, 0 or more.
            generator: source of randomness, on ``device``; None: the device's default generator.
            device: device of the points.
            dtype: a real floating-point type. Types narrower than float32 are drawn in float32 and then rounded.

        Returns:
            Tensor ``[count, 2]`` of ``dtype`` on ``device``.

        Raises:
            ValueError: ``count`` is negative.
            TypeError: ``dtype`` is not a real floating-point type.
        """
        if count < 0:
            raise ValueError(f"{self.name}: count must be 0 or more, got {count}")
        if dtype is torch.float32 or dtype is torch.float64:
            return self._sampler(count, generator, torch.device(device), dtype)
        if not dtype.is_floating_point:
            raise TypeError(f"{self.name}: dtype must be a real floating-point type, got {dtype}")
        return self._sampler(count, generator, torch.device(device), torch.float32).to(dtype)


@cache
def _centre_table(centres: Centres, device: torch.device, dtype: torch.dtype) -> Tensor:
    # Kept on each device, because copying the centres for every draw would make a GPU wait for the host.
    return torch.tensor(centres, device=device, dtype=dtype)


def _mixture(
    count: int,
    generator: torch.Generator | None,
    device: torch.device,
    dtype: torch.dtype,
    *,
    centres: Centres,
    sigma: float,
) -> Tensor:
    mode = torch.randint(len(centres), (count,), generator=generator, device=device)
    noise = torch.randn(count, 2, generator=generator, device=device, dtype=dtype)
    return _centre_table(centres, device, dtype).index_select(0, mode).add_(noise, alpha=sigma)


def _two_spirals(count: int, generator: torch.Generator | None, device: torch.device, dtype: torch.dtype) -> Tensor:
    uniform = torch.rand(4, count, generator=generator, device=device, dtype=dtype)
    noise = torch.randn(count, 2, generator=generator, device=device, dtype=dtype)
    turn = uniform[0].sqrt().mul_(3 * math.pi)
    # (−n·cos n, n·sin n) is the point at radius n and angle π − n.
    arm = torch.view_as_real(torch.polar(turn, math.pi - turn)).add_(uniform[1:3].T, alpha=0.5)
    third = (uniform[3] < 0.5).to(dtype).sub_(0.5).mul_(2 / 3)  # ±1/3: which arm, and the division by 3
    return noise.mul_(0.1).addcmul_(arm, third.unsqueeze(1))


def _checkerboard(count: int, generator: torch.Generator | None, device: torch.device, dtype: torch.dtype) -> Tensor:
    uniform = torch.rand(3, count, generator=generator, device=device, dtype=dtype)
    first = uniform[0].mul(4).sub_(2)
    parity = first.floor().remainder_(2)
    lowered = (uniform[2] < 0.5).to(dtype)
    second = uniform[1].add(parity).sub_(lowered, alpha=2)
    return torch.stack((first, second), dim=1).mul_(2)


def _rings(count: int, generator: torch.Generator | None, device: torch.device, dtype: torch.dtype) -> Tensor:
    # The whole part of one uniform number in [0, 4) chooses the circle, the rest is the angle in turns.
    turns = torch.rand(count, generator=generator, device=device, dtype=dtype).mul_(4)
    noise = torch.randn(count, 2, generator=generator, device=device, dtype=dtype)
    radius = turns.floor().add_(1).mul_(0.75)
    angle = turns.frac().mul_(2 * math.pi)
    return noise.mul_(0.08).add_(torch.view_as_real(torch.polar(radius, angle)))


def _gaussian_mixture(name: str, extent: float, centres: Centres, sigma: float) -> Density:
    return Density(name, extent, partial(_mixture, centres=centres, sigma=sigma), centres, sigma)


_EIGHT_CENTRES: Centres = tuple(
    (2 * math.cos(k * math.pi / 4) / 1.414, 2 * math.sin(k * math.pi / 4) / 1.414) for k in range(8)
)
_GRID = tuple(2 * c / 2.828 for c in (-4.0, -2.0, 0.0, 2.0, 4.0))
_TWENTY_FIVE_CENTRES: Centres = tuple((x, y) for x in _GRID for y in _GRID)

DENSITIES: dict[str, Density] = {
    density.name: density
    for density in (
        _gaussian_mixture("8gaussians", 1.0, _EIGHT_CENTRES, 0.02 / 1.414),
        _gaussian_mixture("25gaussians", 2.0, _TWENTY_FIVE_CENTRES, 2 * 0.05 / 2.828),
        Density("2spirals", 2.0, _two_spirals),
        Density("checkerboard", 2.0, _checkerboard),
        Density("rings", 2.0, _rings),
    )
}


def get_density(name: str) -> Density:
    """Return the density called ``name``.

    Raises:
        ValueError: the name is unknown; the message lists the known ones.
    """
    try:
        return DENSITIES[name]
    except KeyError:
        raise ValueError(f"unknown density {name!r}; known densities: {', '.join(DENSITIES)}") from None
