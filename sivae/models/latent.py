"""Make points of the latent space, samples of the prior and paths between two points, and decode samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from sivae import ops
from sivae.models.base import VAEModel, device_and_dtype, samples_at_once

_UNDEFINED = 1e-8  # sine of the angle; below it the arc's plane is rounding error, and its chord is as good


def prior_noise(seed: int, count: int, z_dim: int) -> Tensor:
    """Draw from N(0, 1) on the CPU, the same on every machine. Row i does not depend on the number of rows.

    Args:
        seed: 0 or more, below 2^63.
        count: number of rows.
        z_dim: values per row.

    Returns:
        float32 [count, z_dim].
    """
    return ops.philox_normal(seed, (count, z_dim))


def prior_samples(model: VAEModel, seed: int, count: int) -> Tensor:
    """Draw the latents that :func:`generate` decodes, from the model's own prior.

    Args:
        model: any model.
        seed, count: as for :func:`generate`.

    Returns:
        [count, *latent_shape], float32 at least, on the model's device, without gradient.
    """
    return model.from_prior(prior_noise(seed, count, model.noise_dim).to(device_and_dtype(model)[0]))


def generate(
    model: VAEModel,
    count: int,
    *,
    seed: int,
    condition: Tensor | None = None,
    decode: Callable[[Tensor, Tensor | None], Tensor] | None = None,
) -> Iterator[Tensor]:
    """Decode samples of the prior, batch by batch; image i depends only on the seed and on i.

    Args:
        model: a model of images; it runs in its current mode, without gradients.
        count: number of images.
        seed: 0 or more; the latents are those of :func:`prior_samples`, equal on every device.
        condition: [count, condition_dim], for a conditional model.
        decode: a function of latents and conditions that returns images; None: the model's `render`.

    Yields:
        [B, C, H, W] in the model's value range, on its device. B keeps a batch below four million values.
    """
    device, dtype = device_and_dtype(model)
    latents = prior_samples(model, seed, count)
    size = samples_at_once(model.sample_shape)
    decode = decode or model.render
    for start in range(0, count, size):
        rows = slice(start, start + size)
        given = None if condition is None else condition[rows].to(device, dtype)
        with torch.no_grad():
            images = decode(latents[rows].to(dtype), given)
        yield images


def lerp(start: Tensor, end: Tensor, steps: int) -> Tensor:
    """Interpolate two latents linearly, at equal distances.

    Args:
        start, end: two latents of one shape, [z_dim] or [C, H, W], floating point.
        steps: number of points, both ends included; 1 gives the start.

    Returns:
        [steps, *shape] in their dtype; the first row is `start`, the last `end`.

    Raises:
        ValueError: the shapes differ or have no dimension, or steps is below 1.
    """
    t = _parameter("lerp", start, end, steps)
    return _between(start, end, 1.0 - t, t)


def slerp(start: Tensor, end: Tensor, steps: int) -> Tensor:
    """Interpolate two latents along an arc, at equal angles.

    Directions are interpolated on the unit sphere (Shoemake, SIGGRAPH 1985) and lengths linearly. Samples of N(0, 1)
    in many dimensions all have nearly the same length. This path keeps that length; the middle of a straight line is
    shorter by sqrt(2), and the decoder was not trained there. If no arc is defined (one end is zero, or the directions
    are parallel), the path is the straight line. Between opposite directions all arcs are equally short, and the path
    turns through the axis along which `start` is smallest.

    Args, returned value and errors are those of :func:`lerp`. Angle and lengths are those of all values of a latent.
    """
    t = _parameter("slerp", start, end, steps)
    a, b = start.double().flatten(), end.double().flatten()
    length_a, length_b = a.norm(), b.norm()
    if length_a == 0 or length_b == 0:
        return _between(start, end, 1.0 - t, t)
    u, v = a / length_a, b / length_b
    across = v - u * (u @ v)
    angle = torch.atan2(across.norm(), u @ v)  # acos of the product has half the digits near 0 and pi
    if across.norm() < _UNDEFINED and u @ v < 0:
        axis = torch.zeros_like(u)
        axis[u.abs().argmin()] = 1.0
        across = axis - u * (u @ axis)
    if across.norm() < _UNDEFINED:  # parallel; or opposite in one dimension, where every path crosses zero
        return _between(start, end, 1.0 - t, t)
    across = across / across.norm()
    turn = t * angle
    directions = turn.cos() * u + turn.sin() * across
    path = directions * ((1.0 - t) * length_a + t * length_b)
    return _with_ends(path, start, end)


def _parameter(name: str, start: Tensor, end: Tensor, steps: int) -> Tensor:
    """Check the arguments, and return the numbers from 0 to 1 in equal steps, float64 [steps, 1]."""
    if start.ndim == 0 or start.shape != end.shape:
        raise ValueError(
            f"{name}: ends are {list(start.shape)} and {list(end.shape)}, expected two latents of one shape, [z_dim] "
            "or [C, H, W]"
        )
    if steps < 1:
        raise ValueError(f"{name}: steps is {steps}, expected at least 1")
    return torch.linspace(0.0, 1.0, steps, dtype=torch.float64, device=start.device).unsqueeze(1)


def _between(start: Tensor, end: Tensor, of_start: Tensor, of_end: Tensor) -> Tensor:
    return _with_ends(of_start * start.double().flatten() + of_end * end.double().flatten(), start, end)


def _with_ends(path: Tensor, start: Tensor, end: Tensor) -> Tensor:
    path = path.to(start.dtype).unflatten(1, start.shape)
    path[0] = start
    if len(path) > 1:
        path[-1] = end
    return path
