"""Shared parts of the parity tests: evaluate an op on a backend, and bound the difference of two backends."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import torch
from torch import Tensor

from sivae import ops

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
KINDS = ["mse", "l1", "bce", "bce_with_logits"]
REDUCTIONS = ["none", "mean", "sum"]
NOISE = ops.PhiloxNoise(0x1234_5678_9ABC, 7)
Tensors = dict[str, Tensor]


def roundoff(dtype: torch.dtype) -> float:
    return 2.0**-53 if dtype == torch.float64 else 2.0**-24


def storage_error(expected: Tensor, dtype: torch.dtype) -> Tensor | float:
    """Half types are rounded at the end: two results on both sides of a rounding border differ by one step."""
    if dtype in (torch.float64, torch.float32):
        return 0.0
    info = torch.finfo(dtype)
    return info.eps * expected.double().abs() + info.smallest_normal * info.eps


def assert_within(actual: Tensor, expected: Tensor, bound: Tensor | float, what: str) -> None:
    """NaN where NaN, the same infinity where infinite, and within `bound` elsewhere."""
    assert actual.shape == expected.shape, what
    assert actual.dtype == expected.dtype, what
    a, e = actual.detach().double(), expected.detach().double()
    assert torch.equal(a.isnan(), e.isnan()), f"{what}: NaN in different places"
    infinite = e.isinf()
    assert torch.equal(a.isinf(), infinite), f"{what}: infinite in different places"
    assert torch.equal(a[infinite], e[infinite]), what
    bounds = torch.as_tensor(bound, dtype=torch.float64).broadcast_to(e.shape)
    finite = e.isfinite()
    excess = ((a - e).abs() - bounds.nan_to_num(nan=0.0, posinf=math.inf))[finite]
    assert not (excess > 0).any(), f"{what}: {excess.max()} beyond the bound"


def rows(tensor: Tensor) -> Tensor:
    return tensor.double().reshape(tensor.shape[0], -1)


def per_row(values: Tensor, like: Tensor) -> Tensor:
    """[B] -> [B, 1, ...], to broadcast against the elements of each sample."""
    return values.reshape(-1, *[1] * (like.dim() - 1))


def reduced(per_sample: Tensor, reduction: str) -> Tensor:
    return {"none": per_sample, "mean": per_sample.mean(), "sum": per_sample.sum()}[reduction]


def upstream(shape: torch.Size, dtype: torch.dtype) -> Tensor:
    return torch.randn(shape).to(dtype)


def evaluate(call: Callable[..., Tensor | tuple[Tensor, ...]], inputs: Tensors, grads: tuple[Tensor, ...]) -> Tensors:
    """Outputs and the gradient of every input, by name."""
    leaves = {name: tensor.detach().requires_grad_() for name, tensor in inputs.items()}
    out = call(**leaves)
    outputs = out if isinstance(out, tuple) else (out,)
    results = {f"output {i}": o.detach() for i, o in enumerate(outputs)}
    gradients = torch.autograd.grad(outputs, list(leaves.values()), grads)
    return results | {f"gradient of {name}": g for name, g in zip(leaves, gradients, strict=True)}


def latent_bounds(
    mu: Tensor,
    logvar: Tensor,
    eps: Tensor,
    prior: tuple[float, float],
    grad_z: Tensor,
    grad_kl: Tensor,
    exact_eps: bool,
) -> Tensors:
    """Twice the error of one side.

    z: rounding of the product, the exponential (4 u) and the sum; normals of Philox differ by 1e-6 in float32 (a few
    hundred u in float64, whose angle 2 pi u is rounded before the cosine).
    KL terms: exp errs by at most 4 u, its square with two factors by 12 u, and exp(d) - 1 - d enlarges that at most 4
    times (at d = 1); the reference rounds d itself before the exponential, |d| u; the quadratic term errs by 8 u.
    """
    u = roundoff(mu.dtype)
    eps_error = 0.0 if exact_eps else (1e-6 if u > 2.0**-53 else 1e-12)
    m, lv, e = mu.double(), logvar.double(), eps.double()
    std, d = torch.exp(lv / 2), lv - prior[1]
    gz, gk = grad_z.double(), per_row(grad_kl.double(), mu)
    # A special value of the noise must not widen the bound of what does not depend on it: 0 * NaN would.
    noise_part = (std * e.abs() * 8 * u + std * eps_error).nan_to_num(nan=0.0, posinf=0.0)
    spread = (std * e.abs()).nan_to_num(nan=0.0, posinf=0.0)
    kl = 0.5 * (torch.expm1(d) - d + (m - prior[0]) ** 2 * math.exp(-prior[1]))
    kl_error = (64 + rows(d).abs().amax(1)) * u * rows(kl).sum(1) + rows(kl).shape[1] * u * rows(kl).sum(1)
    through_kl_mu = (gk * (m - prior[0]) * math.exp(-prior[1])).abs()
    # In the sum of the two parts of the gradient by logvar each keeps its own relative error.
    through_kl_logvar = (gk * torch.expm1(d) * 0.5).abs() * (32 + d.abs()) * u
    return {
        "z": 2 * (noise_part + 2 * u * (m.abs() + spread)),
        "kl": 2 * kl_error,
        "mu": 2 * (10 * u * through_kl_mu + u * gz.abs()),
        "logvar": 2 * (0.5 * gz.abs() * (noise_part + 2 * u * spread) + through_kl_logvar),
        "noise": 2 * 8 * u * gz.abs() * std,
    }


def assert_latent_parity(
    backend: str, mu: Tensor, logvar: Tensor, noise: Tensor | ops.PhiloxNoise, prior: tuple[float, float] = (0.0, 0.0)
) -> None:
    explicit = isinstance(noise, Tensor)
    eps = (
        noise
        if isinstance(noise, Tensor)
        else ops.philox_normal(
            noise.seed, mu.shape, offset=noise.offset, device=mu.device, dtype=torch.float64, backend="reference"
        )
    )
    grad_z, grad_kl = upstream(mu.shape, mu.dtype), upstream(mu.shape[:1], torch.float32)
    if mu.dtype == torch.float64:
        grad_kl = grad_kl.double()
    settings = {"prior_mu": prior[0], "prior_logvar": prior[1]}
    latents = {"mu": mu, "logvar": logvar}
    sampled = latents | ({"noise": noise} if isinstance(noise, Tensor) else {})
    fixed = {} if explicit else {"noise": noise}
    none_z, none_kl = torch.zeros_like(grad_z), torch.zeros_like(grad_kl)

    def compare(call: Callable[..., Tensor | tuple[Tensor, ...]], inputs: Tensors, grads: tuple[Tensor, ...]) -> None:
        gz = next((g for g in grads if g is grad_z), none_z)
        gk = next((g for g in grads if g is grad_kl), none_kl)
        bounds = latent_bounds(mu, logvar, eps, prior, gz, gk, explicit)
        names = ["z", "kl"] if len(grads) == 2 else ["z" if grads[0] is grad_z else "kl"]
        actual = evaluate(lambda **t: call(backend=backend, **t), inputs, grads)
        expected = evaluate(lambda **t: call(backend="reference", **t), inputs, grads)
        for key, value in expected.items():
            name = names[int(key.split()[-1])] if key.startswith("output") else key.split()[-1]
            assert_within(actual[key], value, bounds[name] + storage_error(value, value.dtype), f"{key} ({name})")

    compare(lambda **t: ops.reparameterize(**t, **fixed), sampled, (grad_z,))
    compare(lambda **t: ops.gaussian_kl(**t, **settings), latents, (grad_kl,))
    compare(lambda **t: ops.reparameterize_kl(**t, **fixed, **settings), sampled, (grad_z, grad_kl))


def reconstruction_bounds(recon: Tensor, target: Tensor, kind: str, grad: Tensor) -> Tensors:
    """Twice the error of one side, from the relative errors of its steps (logarithms and exponentials: 4 u), among them
    a gradient's product with the upstream one.

    The terms of bce_with_logits are differences: they err by up to 2 u (|r| + |r t|), however small they are.
    """
    u = roundoff(recon.dtype)
    r, t, g = recon.double(), target.double(), per_row(grad.double(), recon).abs()
    if kind == "mse":
        value, relative = (r - t) ** 2, 3 * u
        by_recon = by_target = 2 * (r - t).abs() * 4 * u
        absolute = torch.zeros_like(r)
    elif kind == "l1":
        value, relative = (r - t).abs(), u
        by_recon = by_target = torch.full_like(r, 2 * u)
        absolute = torch.zeros_like(r)
    elif kind == "bce":
        log_r, log_s = r.log().clamp(min=-100), torch.log1p(-r).clamp(min=-100)
        value, relative = (t * log_r).abs() + ((1 - t) * log_s).abs(), 12 * u
        by_recon = ((r - t) / (r * (1 - r)).clamp(min=1e-12)).abs() * 8 * u
        by_target = (log_r.abs() + log_s.abs()) * 10 * u
        absolute = torch.zeros_like(r)
    else:
        value = torch.where(r > 0, r * (1 - t), -r * t) + torch.log1p(torch.exp(-r.abs()))
        relative, absolute = 12 * u, 2 * u * (r.abs() + (r * t).abs())
        by_recon = 12 * u * (1 + t.abs())
        by_target = r.abs() * 2 * u
    n = rows(r).shape[1]
    total = rows(value.abs())
    return {
        "output": 2 * (total.sum(1) * (relative + n * u) + rows(absolute).sum(1)),
        "recon": 2 * g * by_recon,
        "target": 2 * g * by_target,
    }


def assert_reconstruction_parity(backend: str, recon: Tensor, target: Tensor, kind: str, reduction: str) -> None:
    batch = recon.shape[0]
    sums = torch.float64 if recon.dtype == torch.float64 else torch.float32
    grad = upstream(torch.Size([batch] if reduction == "none" else []), sums)
    share = {"none": grad, "mean": grad.expand(batch) / max(batch, 1), "sum": grad.expand(batch)}[reduction]
    bounds = reconstruction_bounds(recon, target, kind, share)
    inputs = {"recon": recon, "target": target}
    settings = {"kind": kind, "reduction": reduction}
    actual = evaluate(lambda **t: ops.reconstruction_error(**t, **settings, backend=backend), inputs, (grad,))
    expected = evaluate(lambda **t: ops.reconstruction_error(**t, **settings, backend="reference"), inputs, (grad,))
    value = expected["output 0"]
    # Summing the samples, and dividing, adds as many roundings as there are samples.
    more = 2 * (batch + 1) * roundoff(recon.dtype) * value.double().abs()
    assert_within(actual["output 0"], value, reduced(bounds["output"], reduction) + more, f"{kind} {reduction}")
    for name in inputs:
        key = f"gradient of {name}"
        bound = bounds[name] + storage_error(expected[key], recon.dtype)
        assert_within(actual[key], expected[key], bound, f"{kind} {reduction}: {key}")


def assert_exp_elbo_parity(backend: str, rec: Tensor, kl: Tensor, reduction: str, **settings: float) -> None:
    """t errs by 3 u of its two parts' sizes (weight, product, sum), the exponential by 4 u, its factors by 4 u more."""
    u = roundoff(rec.dtype)
    sums = torch.float64 if rec.dtype == torch.float64 else torch.float32
    batch = rec.shape[0]
    grad = upstream(torch.Size([batch] if reduction == "none" else []), sums)
    scale, beta_rec, beta_kl, alpha = (settings[name] for name in ("scale", "beta_rec", "beta_kl", "alpha"))
    weight_rec, weight_kl = -alpha * scale * beta_rec, -alpha * scale * beta_kl
    t = weight_rec * rec.double() + weight_kl * kl.double()
    t_error = 3 * u * ((weight_rec * rec.double()).abs() + (weight_kl * kl.double()).abs())
    slope = torch.exp(t.clamp(max=32.0)) / alpha
    value = torch.where(t > 32, math.exp(32.0) * (t - 31) / alpha, slope)
    tiny = 4 * torch.finfo(sums).smallest_normal * torch.finfo(sums).eps  # results below the normal numbers
    value_error = slope * t_error + 8 * u * value.abs() + tiny
    # Within the error of t the slope may be that of either side of 32.
    slope_error = slope * (t_error.clamp(max=1.0) * (t < 33) + 12 * u) + tiny
    share = {"none": grad, "mean": grad.expand(batch) / max(batch, 1), "sum": grad.expand(batch)}[reduction].double()
    inputs = {"rec": rec, "kl": kl}
    actual = evaluate(lambda **x: ops.exp_elbo(**x, **settings, reduction=reduction, backend=backend), inputs, (grad,))
    expected = evaluate(
        lambda **x: ops.exp_elbo(**x, **settings, reduction=reduction, backend="reference"), inputs, (grad,)
    )
    out = expected["output 0"]
    sums_error = 2 * (batch + 1) * u * reduced(value.abs(), reduction)
    assert_within(actual["output 0"], out, 2 * reduced(value_error, reduction) + sums_error, f"exp_elbo {reduction}")
    for name, weight in (("rec", weight_rec), ("kl", weight_kl)):
        key = f"gradient of {name}"
        bound = 2 * (share * weight).abs() * slope_error + tiny + storage_error(expected[key], rec.dtype)
        assert_within(actual[key], expected[key], bound, key)


def hostile_latents(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Every pair of the corners, one element per sample, so that no large one hides a small one."""
    logvars = [0.0, 1e-8, -1e-8, 1e-4, 0.5, -0.5, 0.999, 1.0, 1.001, -1.0, -1.001, 30.0, -30.0, 80.0, -80.0]
    mus = [0.0, -0.0, 1e-8, -1e-4, 1.0, -3.0, 1e4, -1e4]
    pairs = torch.tensor(list(itertools.product(mus, logvars)), dtype=torch.float64).to(dtype)
    return pairs[:, :1].contiguous(), pairs[:, 1:].contiguous()


SPECIALS = [math.nan, math.inf, -math.inf, 0.0, 1.0, -2.0]


def reconstruction_pair(kind: str, shape: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    recon = torch.rand(shape, dtype=torch.float64) * 0.98 + 0.01
    if kind == "bce_with_logits":
        recon = torch.logit(recon) * 2
    return recon.to(dtype), torch.rand(shape, dtype=torch.float64).to(dtype)
