"""Arguments of the low-level ops, for torch's checks of registered ops."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
from torch import Tensor

from sivae.ops import library

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
FORWARD = list(library.OP_NAMES)
ALL_OPS = list(library._FAKES)
SEED = torch.tensor([2**40 + 3])


def low_level(name: str, backend: str):
    return getattr(getattr(torch.ops, f"sivae_{backend}"), name).default


def pair(layout: str, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    if layout == "chunk":
        return torch.rand(3, 8).to(dtype).chunk(2, dim=1)
    if layout == "channels last":
        return tuple(torch.rand(2, 3, 4, 5).to(dtype).to(memory_format=torch.channels_last) for _ in range(2))
    if layout == "transposed":
        return tuple(torch.rand(5, 3).to(dtype).t() for _ in range(2))
    if layout == "expanded":
        return tuple(torch.rand(1, 4).to(dtype).expand(3, 4) for _ in range(2))
    if layout == "empty":
        return tuple(torch.rand(0, 4).to(dtype) for _ in range(2))
    return tuple(torch.rand(3, 4).to(dtype) for _ in range(2))


LAYOUTS = ["contiguous", "chunk", "channels last", "transposed", "expanded", "empty"]


def images(layout: str, dtype: torch.dtype) -> Tensor:
    shape = (0 if layout == "empty" else 2, 8, 3, 4)
    if layout == "chunk":
        return torch.rand(2, 16, 3, 4).to(dtype).chunk(2, dim=1)[1]
    if layout == "channels last":
        return torch.rand(shape).to(dtype).to(memory_format=torch.channels_last)
    if layout == "transposed":
        return torch.rand(2, 8, 4, 3).to(dtype).transpose(2, 3)
    if layout == "expanded":
        return torch.rand(1, 8, 3, 4).to(dtype).expand(shape)
    return torch.rand(shape).to(dtype)


def styled_norm_samples(name: str, layout: str, dtype: torch.dtype, grad: bool) -> list[tuple]:
    x = images(layout, dtype).requires_grad_(grad)
    sums, (batch, channels, height, width) = library.sum_dtype(dtype), x.shape
    noise, weight = torch.rand(batch, 1, height, width).to(dtype), torch.rand(channels, dtype=sums)
    bias = torch.rand(channels).to(dtype)
    styles = torch.rand(batch, 2 * channels).to(dtype)
    for leaf in (weight, bias, styles):
        leaf.requires_grad_(grad)
    scale, shift = styles.chunk(2, dim=1)
    settings = 0.2, 1e-8
    if name == "styled_instance_norm":
        shared = torch.rand(1, 1, height, width, dtype=sums)
        return [
            (x, None, None, bias, None, None, *settings),
            (x, shared, weight, None, scale, shift, *settings),
            (x, noise, weight, bias, scale, shift, *settings),
        ]
    grad_y, (mean, std, grad_mean) = torch.rand(x.shape).to(dtype), torch.rand(3, batch, channels, dtype=sums) + 0.5
    saved, plain = (
        (x, noise, weight, bias, scale, mean, std, *settings),
        (x, None, None, bias, None, mean, std, *settings),
    )
    return [
        (grad_y, None, None, *plain, True, False, True, False, False),
        (None, grad_mean, grad_mean, *saved, False, True, False, True, True),
        (None, None, None, *saved, True, True, True, True, True),
        (grad_y, grad_mean, grad_mean, *saved, True, True, True, True, True),
    ]


def cloud(layout: str, dtype: torch.dtype, count: int) -> Tensor:
    batch = 0 if layout == "empty" else 2
    if layout == "chunk":
        return torch.rand(2, count, 6).to(dtype).chunk(2, dim=2)[1]
    if layout in ("channels last", "transposed"):
        return torch.rand(2, 3, count).to(dtype).transpose(1, 2)
    if layout == "expanded":
        return torch.rand(1, count, 3).to(dtype).expand(2, count, 3)
    return torch.rand(batch, count, 3).to(dtype)


def chamfer_samples(name: str, layout: str, dtype: torch.dtype, grad: bool) -> list[tuple]:
    points, targets = (cloud(layout, dtype, count).requires_grad_(grad) for count in (5, 4))
    if name == "chamfer_distance":
        return [(points, targets, r) for r in range(3)]
    batch, sums = len(points), library.sum_dtype(dtype)
    grads = torch.rand(batch, dtype=sums), torch.rand((), dtype=sums), torch.rand((), dtype=sums)
    nearest = torch.randint(4, (batch, 5)).int(), torch.randint(5, (batch, 4)).int()
    flags = [(True, True), (False, True), (True, False)]
    return [(grads[r], points, targets, *nearest, r, *flags[r]) for r in range(3)]


def mixture_samples(name: str, layout: str, dtype: torch.dtype, grad: bool) -> list[tuple]:
    z = cloud(layout, dtype, 5)[:1].reshape(-1, 3) if layout != "transposed" else torch.rand(3, 5).to(dtype).t()
    weights, mu, logvar = torch.rand(4).to(dtype), torch.rand(4, 3).to(dtype), torch.rand(4, 3).to(dtype)
    leaves = [tensor.detach().requires_grad_(grad) for tensor in (z, weights, mu, logvar)]
    if name == "mixture_log_prob":
        return [tuple(leaves)]
    sums = library.sum_dtype(dtype)
    saved = torch.rand(len(z), dtype=sums), torch.rand(len(z), 4, dtype=sums)
    flags = [(True, True, True, True), (True, False, False, False), (False, True, False, True)]
    return [(torch.rand(len(z), dtype=sums), *leaves, *saved, *needed) for needed in flags]


def group_norm_samples(name: str, layout: str, dtype: torch.dtype, grad: bool) -> list[tuple]:
    x = images(layout, dtype).requires_grad_(grad)
    weight, bias = torch.rand(8, dtype=library.sum_dtype(dtype)).requires_grad_(grad), torch.rand(8).to(dtype)
    bias.requires_grad_(grad)
    if name == "group_norm_silu":
        return [
            (x, None, None, 4, 1, 0.2, 1e-5),
            (x, weight, None, 8, 0, 0.2, 1e-5),
            (x, weight, bias, 2, 2, 0.2, 1e-5),
        ]
    grad_y, (mean, inverse_std) = torch.rand(x.shape).to(dtype), torch.rand(2, len(x), 2, dtype=torch.float64) + 0.5
    operands = (grad_y, x, weight, bias, mean, inverse_std, 2)
    flags = [(True, True, True), (True, False, False), (False, True, False), (False, False, False)]
    return [(grad_y, x, None, None, mean, inverse_std, 2, 2, 0.2, True, False, False)] + [
        (*operands, activation % 3, 0.2, *needed) for activation, needed in enumerate(flags)
    ]


def wrong_operands(name: str) -> Iterator[tuple]:
    """Arguments of the op of which one tensor has another shape or dtype than it must have."""
    cases = samples(name, "contiguous", torch.float32)
    case = max(cases, key=lambda arguments: sum(isinstance(argument, Tensor) for argument in arguments))
    for place, given in enumerate(case):
        if not isinstance(given, Tensor):
            continue
        wrong = [given.to(torch.int32 if given.dtype != torch.int32 else torch.int64), given.new_empty(0)]
        if given.dim() > 0 and (name, place) != ("group_norm_silu", 0):  # which may have any number of pixels
            wrong.append(given[..., :-1])
        if given.dtype != torch.int64:  # a seed may have any number of dimensions
            wrong.append(given[None])
        if given.dim() > 1:
            wrong += [given.flatten(), given.new_ones(())]
        for tensor in wrong:
            yield (*case[:place], tensor, *case[place + 1 :])


def samples(name: str, layout: str, dtype: torch.dtype, grad: bool = False) -> list[tuple]:
    """Positional arguments of the low-level op; with `grad` its inputs require gradients."""
    if name.startswith("styled_instance_norm"):
        return styled_norm_samples(name, layout, dtype, grad)
    if name.startswith("group_norm_silu"):
        return group_norm_samples(name, layout, dtype, grad)
    if name.startswith("chamfer_distance"):
        return chamfer_samples(name, layout, dtype, grad)
    if name.startswith("mixture_log_prob"):
        return mixture_samples(name, layout, dtype, grad)
    a, b = (
        t.detach().clone(memory_format=torch.preserve_format).requires_grad_() if grad else t
        for t in pair(layout, dtype)
    )
    sums = library.sum_dtype(dtype)
    batch = a.shape[0]
    eps = torch.randn(a.shape).to(dtype).requires_grad_(grad)
    grads = {0: torch.rand(batch, dtype=sums), 1: torch.rand((), dtype=sums), 2: torch.rand((), dtype=sums)}
    gz = torch.rand(a.shape).to(dtype)
    rec, kl = (torch.rand(2 * batch).to(dtype)[::2].clone().requires_grad_(grad) for _ in range(2))
    strided = torch.rand(6).to(dtype)[::2]
    flags = list(itertools.product([True, False], repeat=2))
    return {
        "reparameterize": lambda: [(a, b, SEED, 5), (a, b, eps, 0)],
        "gaussian_kl": lambda: [(a, b, 0.5, -0.25, r) for r in range(3)],
        "reparameterize_kl": lambda: [(a, b, SEED, 5, 0.0, 0.0), (a, b, eps, 0, 0.5, -0.25)],
        "latent_backward": lambda: [
            (gz, None, a, b, SEED, 5, 0.0, 0.0, 0, True, True, False),
            (None, grads[1], a, b, None, 0, 0.5, 0.25, 1, True, False, False),
            (gz, grads[0], a, b, eps, 0, 0.0, 0.0, 0, True, True, True),
            (gz, grads[0].new_ones(()).expand(batch), a, b, eps, 0, 0.0, 0.0, 0, False, True, False),
            (None, None, a, b, eps, 0, 0.0, 0.0, 0, True, True, True),
            (None, grads[2], a, b, eps, 0, 0.0, 0.0, 2, False, False, True),
        ],
        "reconstruction_error": lambda: [(a, b, k, r) for k in range(4) for r in range(3)],
        "reconstruction_error_backward": lambda: [(grads[r], a, b, r, r, *f) for r in range(3) for f in flags],
        "exp_elbo": lambda: (
            [(rec, kl, 0.5, 1.0, 2.0, 1.5, r) for r in range(3)]
            + ([(strided, strided, 0.5, 1.0, 2.0, 1.5, 0)] if not grad else [])
        ),
        "exp_elbo_backward": lambda: [(grads[r], rec, kl, 0.5, 1.0, 2.0, 1.5, r, *f) for r in range(3) for f in flags],
        "philox_normal": lambda: [(SEED, 3, [3, 5], dtype), (SEED, 0, [], dtype), (SEED, 0, [0, 2], dtype)],
    }[name]()
