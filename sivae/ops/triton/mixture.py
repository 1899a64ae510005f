"""The log density of a mixture: a kernel for the densities [N, K] and one for each side's gradient.

What is computed from [N, K] and [K, L] alone is left to torch. The formulas are those of csrc/mixture_ops.h.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from sivae.ops.library import REDUCTIONS, sum_dtype
from sivae.ops.triton import blocks
from sivae.ops.triton.blocks import power_of_two_from
from sivae.ops.triton.launch import launch
from sivae.ops.triton.operands import FLOATING, check_operand, check_row_gradient
from sivae.ops.triton.scalar_math import compute_type, narrow, widen

_LARGEST_EXPONENT = {torch.float32: 88.0, torch.float64: 709.0}


@triton.jit
def mixture_densities_kernel(
    z, mu, inv_std, peaks, densities, z_strides, rows, components, dims, splits,
    DTYPE: tl.constexpr, ROWS: tl.constexpr, COMPONENTS: tl.constexpr, DIMS: tl.constexpr,
):  # fmt: skip
    """The log density of ROWS rows under COMPONENTS components, whose mu and inv_std are [L, K]."""
    pid = tl.program_id(0).to(tl.int64)
    row = (pid // splits) * ROWS + tl.arange(0, ROWS)[:, None]
    k = (pid % splits) * COMPONENTS + tl.arange(0, COMPONENTS)[None, :]
    total = tl.zeros((ROWS, COMPONENTS), DTYPE)
    first = 0
    while first < dims:
        part = tl.zeros((ROWS, COMPONENTS), DTYPE)
        for i in range(DIMS):
            dim = first + i + tl.zeros((1, 1), tl.int32)  # a tensor, for the masks
            inside = (k < components) & (dim < dims)
            point = tl.load(z + row * z_strides[0] + dim * z_strides[1], mask=(row < rows) & (dim < dims), other=0.0)
            mean = tl.load(mu + dim * components + k, mask=inside, other=0.0)
            scaled = (widen(point) - mean) * tl.load(inv_std + dim * components + k, mask=inside, other=0.0)
            part += scaled * scaled
        total += part
        first += DIMS
    peak = tl.load(peaks + k, mask=k < components, other=0.0)
    place = densities + row * components + k
    tl.store(place, (peak - 0.5 * total).to(DTYPE), mask=(row < rows) & (k < components))


@triton.jit
def mixture_rows_kernel(
    z, mu, inv_variance, shares, grad_z, z_strides, grad_strides, rows, components, dims, splits,
    DTYPE: tl.constexpr, ROWS: tl.constexpr, DIMS: tl.constexpr,
):  # fmt: skip
    """The gradient of DIMS elements of ROWS rows: -sum_k shares (z - mu) / variance."""
    pid = tl.program_id(0).to(tl.int64)
    row = (pid // splits) * ROWS + tl.arange(0, ROWS)[:, None]
    dim = (pid % splits) * DIMS + tl.arange(0, DIMS)[None, :]
    inside = (row < rows) & (dim < dims)
    point = widen(tl.load(z + row * z_strides[0] + dim * z_strides[1], mask=inside, other=0.0))
    total = tl.zeros((ROWS, DIMS), DTYPE)
    k = 0
    while k < components:
        share = tl.load(shares + row * components + k, mask=row < rows, other=0.0)
        mean = tl.load(mu + k * dims + dim, mask=dim < dims, other=0.0)
        total -= share * (point - mean) * tl.load(inv_variance + k * dims + dim, mask=dim < dims, other=0.0)
        k += 1
    place = grad_z + row * grad_strides[0] + dim * grad_strides[1]
    tl.store(place, narrow(total, grad_z.dtype.element_ty), mask=inside)


@triton.jit
def mixture_components_kernel(
    z, mu, shares, first, second, z_strides, rows, components, dims, rows_each, component_tiles, dim_tiles,
    DTYPE: tl.constexpr, COMPONENTS: tl.constexpr, DIMS: tl.constexpr,
):  # fmt: skip
    """The sums of shares (z - mu) and of shares (z - mu)^2 over `rows_each` rows, of a tile of [K, L]."""
    pid = tl.program_id(0).to(tl.int64)
    k = (pid // dim_tiles % component_tiles) * COMPONENTS + tl.arange(0, COMPONENTS)[:, None]
    dim = (pid % dim_tiles) * DIMS + tl.arange(0, DIMS)[None, :]
    part = pid // dim_tiles // component_tiles
    inside = (k < components) & (dim < dims)
    mean = tl.load(mu + k * dims + dim, mask=inside, other=0.0)
    by_mean = tl.zeros((COMPONENTS, DIMS), DTYPE)
    by_square = tl.zeros((COMPONENTS, DIMS), DTYPE)
    row = part * rows_each
    last = tl.minimum(row + rows_each, rows)
    while row < last:
        share = tl.load(shares + row * components + k, mask=k < components, other=0.0)
        point = tl.load(z + row * z_strides[0] + dim * z_strides[1], mask=dim < dims, other=0.0)
        difference = widen(point) - mean
        by_mean += share * difference
        by_square += share * difference * difference
        row += 1
    place = (part * components + k) * dims + dim
    tl.store(first + place, by_mean, mask=inside)
    tl.store(second + place, by_square, mask=inside)


def _check(z: Tensor, weights: Tensor, mu: Tensor, logvar: Tensor) -> None:
    if z.dim() != 2 or mu.dim() != 2 or z.shape[1] == 0:
        raise ValueError(
            f"sivae: z and mu have shapes {list(z.shape)} and {list(mu.shape)}, expected [N, L] and [K, L]"
        )
    check_operand("z", z, z, z.shape, *FLOATING)
    check_operand("weights", weights, z, mu.shape[:1], z.dtype)
    for name, tensor in (("mu", mu), ("logvar", logvar)):
        check_operand(name, tensor, z, (mu.shape[0], z.shape[1]), z.dtype)


def _in_arithmetic(z: Tensor, *parameters: Tensor) -> list[Tensor]:
    """Weights, mu and logvar, dense; weights that count as 0 are 0."""
    dtype = sum_dtype(z.dtype)
    weights, mu, logvar = (parameter.to(dtype).contiguous() for parameter in parameters)
    return [weights.masked_fill(weights.abs() < torch.finfo(dtype).tiny, 0.0), mu, logvar]


def _tile(rows: int, columns: int) -> tuple[int, int]:
    """A tile of [rows, columns] with few rows, because columns are side by side in memory."""
    limit = blocks.MIXTURE.elements
    tile_columns = min(power_of_two_from(columns), blocks.MIXTURE_COLUMNS)
    return min(power_of_two_from(rows), limit // blocks.MIXTURE_COLUMNS), tile_columns


def mixture_log_prob(z: Tensor, weights: Tensor, mu: Tensor, logvar: Tensor) -> tuple[Tensor, Tensor]:
    _check(z, weights, mu, logvar)
    (rows, dims), components = z.shape, mu.shape[0]
    weights, mu, logvar = _in_arithmetic(z, weights, mu, logvar)
    densities = mu.new_empty((rows, components))
    if densities.numel() == 0:
        return mu.new_full((rows,), -math.inf), densities
    peaks = -0.5 * (logvar.sum(1) + dims * math.log(2.0 * math.pi))
    tile_rows, tile_components = _tile(rows, components)
    splits = triton.cdiv(components, tile_components)
    launch(
        mixture_densities_kernel, triton.cdiv(rows, tile_rows) * splits,
        z, mu.t().contiguous(), torch.exp(-0.5 * logvar).t().contiguous(), peaks, densities, z.stride(),
        rows, components, dims, splits,
        DTYPE=compute_type(z.dtype), ROWS=tile_rows, COMPONENTS=tile_components,
        DIMS=min(power_of_two_from(dims), blocks.MIXTURE_DIMS), num_warps=blocks.MIXTURE.warps,
    )  # fmt: skip
    return torch.logsumexp(densities + weights.log(), 1), densities


def mixture_log_prob_backward(
    grad: Tensor,
    z: Tensor,
    weights: Tensor,
    mu: Tensor,
    logvar: Tensor,
    log_prob: Tensor,
    densities: Tensor,
    need_z: bool,
    need_weights: bool,
    need_mu: bool,
    need_logvar: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    _check(z, weights, mu, logvar)
    check_row_gradient(grad, z, REDUCTIONS.index("none"))
    (rows, dims), components = z.shape, mu.shape[0]
    dtype = sum_dtype(z.dtype)
    check_operand("log_prob", log_prob, z, (rows,), dtype)
    check_operand("densities", densities, z, (rows, components), dtype)
    grad_z = torch.empty_like(z) if need_z else z.new_empty((0,))
    given = (weights, mu, logvar)
    grads = [
        p.new_zeros(p.shape if need else (0,))
        for p, need in zip(given, (need_weights, need_mu, need_logvar), strict=True)
    ]
    if densities.numel() == 0:
        return grad_z.zero_(), grads[0], grads[1], grads[2]
    weights, mu, logvar = _in_arithmetic(z, *given)
    inv_variance = torch.exp(-logvar)
    exponents = (densities - log_prob[:, None]).clamp(max=_LARGEST_EXPONENT[dtype])
    by_density = torch.where(log_prob[:, None] == -math.inf, 0.0, exponents.exp()) * grad[:, None]
    shares = by_density * weights
    by_weight = by_density.sum(0, dtype=torch.float64)
    options = {"DTYPE": compute_type(z.dtype), "num_warps": blocks.MIXTURE.warps}
    if need_z:
        tile_rows, tile_dims = _tile(rows, dims)
        splits = triton.cdiv(dims, tile_dims)
        launch(
            mixture_rows_kernel, triton.cdiv(rows, tile_rows) * splits,
            z, mu, inv_variance, shares, grad_z, z.stride(), grad_z.stride(), rows, components, dims, splits,
            ROWS=tile_rows, DIMS=tile_dims, **options,
        )  # fmt: skip
    if need_weights:
        grads[0].copy_(by_weight)
    if need_mu or need_logvar:
        rows_each = max(triton.cdiv(rows, blocks.MIXTURE_PARTS), blocks.MIXTURE_LEAST_ROWS)
        parts = triton.cdiv(rows, rows_each)
        first, second = mu.new_empty((2, parts, components, dims))
        tile_components, tile_dims = _tile(components, dims)
        tiles = triton.cdiv(components, tile_components), triton.cdiv(dims, tile_dims)
        launch(
            mixture_components_kernel, parts * tiles[0] * tiles[1],
            z, mu, shares, first, second, z.stride(), rows, components, dims, rows_each, *tiles,
            COMPONENTS=tile_components, DIMS=tile_dims, **options,
        )  # fmt: skip
        if need_mu:
            grads[1].copy_(first.sum(0, dtype=torch.float64) * inv_variance)
        if need_logvar:
            squares = second.sum(0, dtype=torch.float64) * inv_variance
            grads[2].copy_(0.5 * (squares - (by_weight * weights)[:, None]))
    return grad_z, grads[0], grads[1], grads[2]
