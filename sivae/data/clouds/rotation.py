"""Turn point clouds by random angles about an axis."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

Axis = Literal["x", "y", "z"]
_OTHERS: dict[Axis, tuple[int, int]] = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}


def rotate(
    clouds: Tensor, *, axis: Axis = "z", degrees: float = 180.0, generator: torch.Generator | None = None
) -> Tensor:
    """Turn each cloud by its own angle about an axis through 0.

    Args:
        clouds: [B, N, 3] or [N, 3], floating point.
        axis: "y" is upright in ShapeNet and the built-in shapes, "z" in ModelNet; the official program turns about z.
        degrees: angles are uniform between minus and plus this.
        generator: of the CPU, whatever the clouds' device; None: torch's default one.

    Returns:
        The turned clouds, as `clouds` in shape, dtype and device.

    Raises:
        ValueError: not such clouds, or no such axis.
    """
    if clouds.ndim not in (2, 3) or clouds.shape[-1] != 3:
        raise ValueError(f"rotate: clouds are {list(clouds.shape)}, expected [B, N, 3] or [N, 3]")
    if axis not in _OTHERS:
        raise ValueError(f"rotate: axis = {axis!r}, expected x, y or z")
    count = 1 if clouds.ndim == 2 else len(clouds)
    turns = torch.rand(count, generator=generator, dtype=torch.float64).mul_(2.0).sub_(1.0)
    angles = (turns * math.radians(degrees)).to(clouds)[:, None]
    cos, sin = angles.cos(), angles.sin()
    first, second = _OTHERS[axis]
    turned = clouds.clone()
    u, v = clouds[..., first], clouds[..., second]
    turned[..., first] = cos * u - sin * v if clouds.ndim == 3 else (cos * u - sin * v)[0]
    turned[..., second] = sin * u + cos * v if clouds.ndim == 3 else (sin * u + cos * v)[0]
    return turned
