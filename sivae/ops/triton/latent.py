"""Sampling and KL of the posterior: one kernel forward, one backward. The formulas are those of csrc/gaussian.h."""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from sivae.ops.library import REDUCTIONS
from sivae.ops.triton import blocks
from sivae.ops.triton.blocks import Blocks, Cut, cut
from sivae.ops.triton.launch import launch
from sivae.ops.triton.layout import first_col_of, offsets_of, share_layout
from sivae.ops.triton.operands import check_row_gradient, check_seed
from sivae.ops.triton.philox import normals_of, words_of
from sivae.ops.triton.scalar_math import compute_type, exp, narrow, scalar, widen
from sivae.ops.triton.sums import Sums, store_sums


@triton.jit
def expm1_minus_x_near(x):
    """exp(x) - 1 - x = x^2 (1/2! + x/3! + x^2/4! + ...) for |x| <= 1, where the plain form cancels."""
    if x.dtype == tl.float64:
        total = 1.0 + x * (1.0 / 20)  # nested Taylor terms; the next, x^21/21!, is below 1e-19 of the sum
        for i in tl.static_range(17):
            total = 1.0 + total * (x * (1.0 / (19 - i)))
        result = 0.5 * x * x * total
    else:
        p = 0.0013885451 + x * (0.00019844023 + x * (2.5354830e-05 + x * 2.7722831e-06))
        result = x * x * (0.5 + x * (0.16666667 + x * (0.041666735 + x * (0.0083333105 + x * p))))
    return result


@triton.jit
def kl_term(mu, logvar, std, prior_mu, prior_logvar, prior_inv_std):
    """One element of the KL in nats; std = exp(logvar / 2)."""
    scaled = (mu - prior_mu) * prior_inv_std
    d = logvar - prior_logvar
    ratio = std * prior_inv_std  # squared, so that neither factor overflows alone
    exact = tl.where(tl.abs(d) <= 1.0, expm1_minus_x_near(d), ratio * ratio - 1.0 - d)
    return 0.5 * (exact + scaled * scaled)


@triton.jit
def kl_grad_logvar(logvar, std, prior_logvar, prior_inv_std):
    d = logvar - prior_logvar
    ratio = std * prior_inv_std
    return 0.5 * tl.where(tl.abs(d) <= 1.0, d + expm1_minus_x_near(d), ratio * ratio - 1.0)


@triton.jit
def noise_of(
    eps,
    eps_strides,
    seed,
    offset_low,
    offset_high,
    row,
    first_col,
    shift,
    sizes,
    rows,
    cols,
    dtype: tl.constexpr,
    COLS: tl.constexpr,
):
    """eps of the columns [first_col - shift, first_col - shift + COLS), in `dtype`: read, or drawn."""
    if eps is not None:
        col = first_col + tl.arange(0, COLS)[None, :]
        mask = (row < rows) & (col < cols)
        noise = widen(tl.load(eps + offsets_of(row, col, eps_strides, sizes), mask=mask, other=0.0))
    else:
        group = ((row * cols - shift + first_col) >> 2) + tl.arange(0, COLS // 4)[None, :]  # [R, COLS / 4]
        noise = normals_of(seed, offset_low, offset_high, group, dtype)
    return noise


@triton.jit
def shift_of(row, cols, SHIFTED: tl.constexpr):
    """The number of columns by which a tile of `row` starts earlier, so that it starts with a group of four normals."""
    return ((row * cols) & 3).to(tl.int32) if SHIFTED else 0  # [R, 1]


@triton.jit(do_not_specialize=["rows", "splits", "offset_low", "offset_high"])
def latent_forward_kernel(
    mu, logvar, z, eps, seed, kl,  # z, kl: None where not wanted; eps, seed: at most one of them
    mu_strides, logvar_strides, z_strides, eps_strides, sizes,
    rows, cols, splits, offset_low: tl.int64, offset_high: tl.int64,
    prior_mu: tl.float64, prior_logvar: tl.float64, prior_inv_std: tl.float64, share: tl.float64,
    DTYPE: tl.constexpr, REDUCED: tl.constexpr, SHIFTED: tl.constexpr, WIDE: tl.constexpr,
    ROWS: tl.constexpr, COLS: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    pid = tl.program_id(0)
    split = pid % splits
    first_row = (pid // splits).to(tl.int64) * ROWS
    row = first_row + tl.arange(0, ROWS)[:, None]  # [ROWS, 1]
    shift = shift_of(row, cols, SHIFTED)
    p_mu, p_logvar, p_inv_std = scalar(prior_mu, DTYPE), scalar(prior_logvar, DTYPE), scalar(prior_inv_std, DTYPE)
    total = tl.zeros((ROWS, COLS), DTYPE)
    for step in range(STEPS):  # rolled: unrolled, the loads of all steps would not fit the registers
        first_col = first_col_of(split, STEPS * COLS, WIDE) + step * COLS
        col = first_col - shift + tl.arange(0, COLS)[None, :]  # [ROWS or 1, COLS]
        mask = (row < rows) & (col < cols)
        if SHIFTED:
            mask = mask & (col >= 0)
        m = widen(tl.load(mu + offsets_of(row, col, mu_strides, sizes), mask=mask, other=0.0))
        lv = widen(tl.load(logvar + offsets_of(row, col, logvar_strides, sizes), mask=mask, other=0.0))
        std = exp(0.5 * lv)
        if z is not None:
            noise = noise_of(
                eps, eps_strides, seed, offset_low, offset_high, row, first_col, shift, sizes, rows, cols, DTYPE, COLS
            )
            sample = narrow(m + std * noise, z.dtype.element_ty)
            tl.store(z + offsets_of(row, col, z_strides, sizes), sample, mask=mask)
        if kl is not None:
            total += tl.where(mask, kl_term(m, lv, std, p_mu, p_logvar, p_inv_std), 0.0)
    if kl is not None:
        store_sums(kl, total, pid, split, splits, first_row, rows, scalar(share, tl.float64), REDUCED, ROWS)


@triton.jit(do_not_specialize=["rows", "splits", "offset_low", "offset_high"])
def latent_backward_kernel(
    mu, logvar, grad_z, grad_kl, eps, seed,  # grad_z, grad_kl: at least one of them; eps, seed: at most one
    grad_mu, grad_logvar, grad_eps,  # None where not needed
    mu_strides, logvar_strides, grad_z_strides, eps_strides, grad_mu_strides, grad_logvar_strides, grad_eps_strides,
    sizes, grad_kl_stride,
    rows, cols, splits, offset_low: tl.int64, offset_high: tl.int64,
    prior_mu: tl.float64, prior_logvar: tl.float64, prior_inv_std: tl.float64, share: tl.float64,
    DTYPE: tl.constexpr, SHIFTED: tl.constexpr, WIDE: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    pid = tl.program_id(0)
    row = (pid // splits).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]  # [ROWS, 1]
    shift = shift_of(row, cols, SHIFTED)
    p_mu, p_logvar, p_inv_std = scalar(prior_mu, DTYPE), scalar(prior_logvar, DTYPE), scalar(prior_inv_std, DTYPE)
    first_col = first_col_of(pid % splits, COLS, WIDE)
    col = first_col - shift + tl.arange(0, COLS)[None, :]  # [ROWS or 1, COLS]
    mask = (row < rows) & (col < cols)
    if SHIFTED:
        mask = mask & (col >= 0)
    if grad_z is not None:
        gz = widen(tl.load(grad_z + offsets_of(row, col, grad_z_strides, sizes), mask=mask, other=0.0))
    if grad_kl is not None:
        weight = tl.load(grad_kl + row * grad_kl_stride, mask=row < rows, other=0.0).to(tl.float64)
        gkl = (weight * scalar(share, tl.float64)).to(DTYPE)  # [ROWS, 1]
    if grad_mu is not None:
        if grad_kl is not None:
            m = widen(tl.load(mu + offsets_of(row, col, mu_strides, sizes), mask=mask, other=0.0))
            by_mu = gkl * ((m - p_mu) * p_inv_std * p_inv_std)
            if grad_z is not None:
                by_mu = gz + by_mu
        else:
            by_mu = gz
        place = grad_mu + offsets_of(row, col, grad_mu_strides, sizes)
        tl.store(place, narrow(by_mu, grad_mu.dtype.element_ty), mask=mask)
    if grad_logvar is not None or grad_eps is not None:
        lv = widen(tl.load(logvar + offsets_of(row, col, logvar_strides, sizes), mask=mask, other=0.0))
        std = exp(0.5 * lv)
    if grad_logvar is not None:
        if grad_z is not None:
            noise = noise_of(
                eps, eps_strides, seed, offset_low, offset_high, row, first_col, shift, sizes, rows, cols, DTYPE, COLS
            )
            by_logvar = 0.5 * gz * std * noise
            if grad_kl is not None:
                by_logvar = by_logvar + gkl * kl_grad_logvar(lv, std, p_logvar, p_inv_std)
        else:
            by_logvar = gkl * kl_grad_logvar(lv, std, p_logvar, p_inv_std)
        place = grad_logvar + offsets_of(row, col, grad_logvar_strides, sizes)
        tl.store(place, narrow(by_logvar, grad_logvar.dtype.element_ty), mask=mask)
    if grad_eps is not None:
        place = grad_eps + offsets_of(row, col, grad_eps_strides, sizes)
        tl.store(place, narrow(gz * std, grad_eps.dtype.element_ty), mask=mask)


def _cut(limits: Blocks, rows: int, cols: int, draws: bool, whole: bool) -> tuple[Cut, bool]:
    """The cut, and whether tiles are shifted to groups of four normals, because rows do not start with one."""
    if not draws:
        return cut(limits, rows, cols, whole=whole), False
    # Row r starts at position r cols mod 4 of its group.
    reach = {0: 0, 1: 3, 2: 2, 3: 3}[cols % 4] if rows > 1 else 0
    return cut(limits, rows, cols + reach, least_cols=4, whole=whole), reach > 0


def _seed_and_eps(noise: Tensor | None, mu: Tensor) -> tuple[Tensor | None, Tensor | None]:
    if noise is None or noise.dtype is not torch.int64:
        return None, noise
    check_seed(noise, mu.device)
    return noise, None


def _forward(
    mu: Tensor,
    logvar: Tensor,
    noise: Tensor | None,
    offset: int,
    wants_kl: bool,
    prior_mu: float,
    prior_logvar: float,
    reduction: int,
) -> tuple[Tensor | None, Tensor | None]:
    """z if noise is given, and kl if it is wanted."""
    z = None if noise is None else torch.empty_like(mu)
    seed, eps = _seed_and_eps(noise, mu)
    layout = share_layout([mu, logvar, z, eps])
    sums = Sums(mu, layout.rows, reduction)
    if mu.numel() > 0:
        plan, shifted = _cut(
            blocks.LATENT_FORWARD, layout.rows, layout.cols, seed is not None, wants_kl and sums.reduced
        )
        launch(
            latent_forward_kernel, plan.programs,
            mu, logvar, z, eps, seed, sums.partial(plan) if wants_kl else None,
            *layout.strides, layout.sizes,
            layout.rows, layout.cols, plan.splits, *words_of(offset),
            prior_mu, prior_logvar, math.exp(-0.5 * prior_logvar), sums.share,
            DTYPE=compute_type(mu.dtype), REDUCED=sums.reduced, SHIFTED=shifted, WIDE=layout.wide,
            ROWS=plan.tile_rows, COLS=plan.tile_cols, STEPS=plan.steps, num_warps=plan.warps,
        )  # fmt: skip
    return z, sums.finish() if wants_kl else None


def reparameterize(mu: Tensor, logvar: Tensor, noise: Tensor, offset: int) -> Tensor:
    z, _ = _forward(mu, logvar, noise, offset, False, 0.0, 0.0, 0)
    assert z is not None
    return z


def gaussian_kl(mu: Tensor, logvar: Tensor, prior_mu: float, prior_logvar: float, reduction: int) -> Tensor:
    _, kl = _forward(mu, logvar, None, 0, True, prior_mu, prior_logvar, reduction)
    assert kl is not None
    return kl


def reparameterize_kl(
    mu: Tensor, logvar: Tensor, noise: Tensor, offset: int, prior_mu: float, prior_logvar: float
) -> tuple[Tensor, Tensor]:
    z, kl = _forward(mu, logvar, noise, offset, True, prior_mu, prior_logvar, REDUCTIONS.index("none"))
    assert z is not None
    assert kl is not None
    return z, kl


def latent_backward(
    grad_z: Tensor | None,
    grad_kl: Tensor | None,
    mu: Tensor,
    logvar: Tensor,
    noise: Tensor | None,
    offset: int,
    prior_mu: float,
    prior_logvar: float,
    reduction: int,
    need_mu: bool,
    need_logvar: bool,
    need_noise: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    seed, eps = _seed_and_eps(noise, mu)
    check_row_gradient(grad_kl, mu, reduction)
    make = torch.empty_like if grad_z is not None or grad_kl is not None else torch.zeros_like
    grad_mu = make(mu) if need_mu else mu.new_empty((0,))
    grad_logvar = make(logvar) if need_logvar else logvar.new_empty((0,))
    like_noise = mu if eps is None else eps
    make_noise = torch.zeros_like if grad_z is None else torch.empty_like
    grad_noise = make_noise(like_noise) if need_noise else like_noise.new_empty((0,))
    results = grad_mu, grad_logvar, grad_noise
    noise_written = need_noise and grad_z is not None
    if (grad_z is None and grad_kl is None) or mu.numel() == 0 or not (need_mu or need_logvar or noise_written):
        return results
    if grad_z is None or not need_logvar:
        seed, eps = None, None  # the noise is not read
    layout = share_layout([
        mu, logvar, grad_z, eps,
        grad_mu if need_mu else None, grad_logvar if need_logvar else None, grad_noise if noise_written else None,
    ])  # fmt: skip
    plan, shifted = _cut(blocks.LATENT_BACKWARD, layout.rows, layout.cols, seed is not None, False)
    none_reduced = REDUCTIONS[reduction] == "none"
    launch(
        latent_backward_kernel, plan.programs,
        mu, logvar, grad_z, grad_kl, eps, seed,
        grad_mu if need_mu else None, grad_logvar if need_logvar else None, grad_noise if noise_written else None,
        *layout.strides, layout.sizes, grad_kl.stride(0) if grad_kl is not None and none_reduced else 0,
        layout.rows, layout.cols, plan.splits, *words_of(offset),
        prior_mu, prior_logvar, math.exp(-0.5 * prior_logvar),
        1.0 / layout.rows if REDUCTIONS[reduction] == "mean" else 1.0,
        DTYPE=compute_type(mu.dtype), SHIFTED=shifted, WIDE=layout.wide,
        ROWS=plan.tile_rows, COLS=plan.tile_cols, num_warps=plan.warps,
    )  # fmt: skip
    return results
