"""Every compiled backend against the reference: values and gradients, on friendly and hostile inputs, dtypes and views.

Tolerances are sums of both sides' rounding errors. u is the unit roundoff of the arithmetic: 2^-24 for float32 and the
half types, 2^-53 for float64. A sum of n terms of one sign, in any order, errs by at most (n - 1) u of itself.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

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
        else ops.philox_normal(noise.seed, mu.shape, offset=noise.offset, dtype=torch.float64, backend="reference")
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

    The terms of bce_with_logits are differences: they err by up to 2 u (|r| + |r t|) whatever their size.
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
    # Adding the samples up, and dividing, adds their number of roundings.
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
    # Within the error of t the slope may lie on either side of 32.
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


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("noise", ["philox", "explicit"])
@pytest.mark.parametrize("prior", [(0.0, 0.0), (0.5, -1.25)], ids=["standard", "other prior"])
class TestLatents:
    def noise_for(self, mu: Tensor, noise: str) -> Tensor | ops.PhiloxNoise:
        return NOISE if noise == "philox" else torch.randn(mu.shape, dtype=torch.float64).to(mu.dtype)

    def test_random(self, compiled_backend, dtype, noise, prior):
        mu = torch.randn(7, 37, dtype=torch.float64).to(dtype)
        logvar = (2 * torch.randn(7, 37, dtype=torch.float64)).to(dtype)
        assert_latent_parity(compiled_backend, mu, logvar, self.noise_for(mu, noise), prior)

    def test_corners(self, compiled_backend, dtype, noise, prior):
        mu, logvar = hostile_latents(dtype)
        assert_latent_parity(compiled_backend, mu, logvar, self.noise_for(mu, noise), prior)

    def test_nan_and_infinity(self, compiled_backend, dtype, noise, prior):
        pairs = torch.tensor(list(itertools.product(SPECIALS, SPECIALS)), dtype=dtype)
        mu, logvar = pairs[:, :1].contiguous(), pairs[:, 1:].contiguous()
        assert_latent_parity(compiled_backend, mu, logvar, self.noise_for(mu, noise), prior)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("special", [math.nan, math.inf, -math.inf, 1e4, 0.0])
def test_special_explicit_noise(compiled_backend, dtype, special):
    mu, logvar = torch.randn(3, 5).to(dtype), torch.randn(3, 5).to(dtype)
    noise = torch.randn(3, 5).to(dtype)
    noise[1, 2] = special
    assert_latent_parity(compiled_backend, mu, logvar, noise)


def reconstruction_pair(kind: str, shape: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    recon = torch.rand(shape, dtype=torch.float64) * 0.98 + 0.01
    if kind == "bce_with_logits":
        recon = torch.logit(recon) * 2
    return recon.to(dtype), torch.rand(shape, dtype=torch.float64).to(dtype)


HOSTILE_PAIRS = {
    "mse": list(itertools.product([0.0, 1e-8, -1.0, 1e4, math.nan, math.inf], [0.0, 1e-8, 1.0, 1e4, -math.inf])),
    "l1": list(itertools.product([0.0, -0.0, 1e-8, -1.0, 1e4, math.nan, math.inf], [0.0, 1e-8, 1.0, 1e4, math.inf])),
    "bce": list(
        itertools.product(
            [0.0, 1.0, 1e-30, 1e-8, 0.5, 1 - 2.0**-11, 1 - 2.0**-24, -0.5, 1.5, math.nan], [0.0, 1.0, 0.25, 0.5]
        )
    ),
    "bce_with_logits": list(
        itertools.product(
            [0.0, -0.0, 1e-8, -1e-8, 1.0, 30.0, -30.0, 80.0, -80.0, 1e4, -1e4, math.nan, math.inf, -math.inf],
            [0.0, 1.0, 0.25, 254 / 255],
        )
    ),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
class TestReconstruction:
    @pytest.mark.parametrize("reduction", REDUCTIONS)
    def test_random(self, compiled_backend, kind, dtype, reduction):
        recon, target = reconstruction_pair(kind, (5, 3, 4, 7), dtype)
        assert_reconstruction_parity(compiled_backend, recon, target, kind, reduction)

    def test_corners(self, compiled_backend, kind, dtype):
        pairs = torch.tensor(HOSTILE_PAIRS[kind], dtype=torch.float64).to(dtype)
        assert_reconstruction_parity(
            compiled_backend, pairs[:, :1].contiguous(), pairs[:, 1:].contiguous(), kind, "none"
        )

    def test_identical_images(self, compiled_backend, kind, dtype):
        image = (torch.rand(3, 3, 8, 8, dtype=torch.float64) * 0.9 + 0.05).to(dtype)
        assert_reconstruction_parity(compiled_backend, image, image.clone(), kind, "none")
        assert_reconstruction_parity(compiled_backend, image, image, kind, "mean")
        if kind in ("mse", "l1"):
            assert ops.reconstruction_error(image, image, kind=kind, backend=compiled_backend).tolist() == [0.0] * 3

    def test_a_nan_stays_in_its_sample(self, compiled_backend, kind, dtype):
        recon, target = reconstruction_pair(kind, (3, 3000), dtype)
        recon[1, 2500] = math.nan
        rec = ops.reconstruction_error(recon, target, kind=kind, backend=compiled_backend)
        assert rec.isnan().tolist() == [False, True, False]


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
class TestExpElbo:
    def test_random(self, compiled_backend, dtype, reduction):
        rec, kl = (torch.rand(33, dtype=torch.float64) * 500).to(dtype), (torch.rand(33) * 20).to(dtype)
        assert_exp_elbo_parity(
            compiled_backend, rec, kl, reduction, scale=1 / 192, beta_rec=1.0, beta_kl=256.0, alpha=2.0
        )

    def test_no_weight_on_one_part(self, compiled_backend, dtype, reduction):
        rec, kl = torch.rand(9).to(dtype), torch.rand(9).to(dtype)
        assert_exp_elbo_parity(compiled_backend, rec, kl, reduction, scale=1.0, beta_rec=0.0, beta_kl=1.0, alpha=2.0)
        assert_exp_elbo_parity(compiled_backend, rec, kl, reduction, scale=1.0, beta_rec=1.0, beta_kl=0.0, alpha=2.0)

    def test_negative_weight(self, compiled_backend, dtype, reduction):
        rec, kl = torch.rand(9).to(dtype), torch.rand(9).to(dtype)
        assert_exp_elbo_parity(compiled_backend, rec, kl, reduction, scale=0.5, beta_rec=-3.0, beta_kl=2.0, alpha=1.0)


# Exponents along the whole curve: underflow, the last normal and subnormal numbers, the joint at 32, far beyond.
EXPONENTS = [
    -1e20,
    -1e4,
    -200.0,
    -104.0,
    -103.0,
    -100.0,
    -88.0,
    -87.0,
    -1.0,
    0.0,
    1.0,
    31.9,
    32.0,
    32.1,
    33.0,
    1e4,
    1e20,
]


@pytest.mark.parametrize("exponent", [*EXPONENTS, math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_exp_elbo_along_the_curve(compiled_backend, dtype, exponent):
    """rec alone makes t, with weight -1: t is exact."""
    if dtype == torch.float16 and math.isfinite(exponent) and abs(exponent) > 6e4:
        exponent = math.copysign(6e4, exponent)
    rec = torch.tensor([-exponent, 1.0], dtype=dtype)
    kl = torch.zeros(2, dtype=dtype)
    settings = {"scale": 1.0, "beta_rec": 1.0, "beta_kl": 1.0, "alpha": 1.0}
    for reduction in REDUCTIONS:
        assert_exp_elbo_parity(compiled_backend, rec, kl, reduction, **settings)


def test_exp_elbo_is_finite_and_keeps_its_sign(backend):
    rec = torch.tensor([1e20, -1e20], requires_grad=True)
    out = ops.exp_elbo(rec, torch.zeros(2), scale=1.0, alpha=1.0, reduction="none", backend=backend)
    (gradient,) = torch.autograd.grad(out.sum(), rec)
    assert out[0] == 0.0
    assert gradient[0] == 0.0
    assert out[1].isfinite()
    assert out[1] > 1e33
    assert gradient[1].isfinite()
    assert gradient[1] < 0


def test_elbo_agrees(compiled_backend):
    recon, target = reconstruction_pair("mse", (4, 3, 5, 5), torch.float32)
    mu, logvar = torch.randn(4, 6), torch.randn(4, 6)
    inputs = {"recon": recon, "target": target, "mu": mu, "logvar": logvar}
    grads = tuple(torch.randn(4) for _ in range(3))
    actual = evaluate(lambda **t: ops.elbo(**t, beta_rec=0.5, beta_kl=3.0, backend=compiled_backend), inputs, grads)
    expected = evaluate(lambda **t: ops.elbo(**t, beta_rec=0.5, beta_kl=3.0, backend="reference"), inputs, grads)
    u = 2.0**-24
    rec, kl = expected["output 1"].double(), expected["output 2"].double()
    # rec sums 75 terms of 3 u, kl 6 terms of 64 u; the weighted sum has three more roundings.
    bounds = [0.5 * rec * 2 * 84 * u + 3.0 * kl * 2 * 80 * u, rec * 2 * 80 * u, kl * 2 * 75 * u]
    for i, bound in enumerate(bounds):
        assert_within(actual[f"output {i}"], expected[f"output {i}"], bound, f"output {i}")
    # Each gradient is an upstream weight (4 roundings) times a derivative of at most 32 u.
    weight = grads[0].abs().max() * 3.0 + max(grads[1].abs().max(), grads[2].abs().max())
    derivatives = {"recon": 2.0, "target": 2.0, "mu": float(mu.abs().max()), "logvar": float(logvar.exp().max())}
    for name, derivative in derivatives.items():
        key = f"gradient of {name}"
        assert_within(actual[key], expected[key], 2 * 40 * u * derivative * float(weight), key)


# Layouts of one 4-dimensional tensor's values in memory.
def halves(values: Tensor, index: int) -> Tensor:
    parts = [torch.full_like(values, math.nan), values] if index else [values, torch.full_like(values, math.nan)]
    return torch.cat(parts, dim=1).chunk(2, dim=1)[index]


def with_steps(values: Tensor) -> Tensor:
    room = values.new_full([2 * values.shape[0], *values.shape[1:-1], 3 * values.shape[-1]], math.nan)
    view = room[::2, ..., 1::3]
    view.copy_(values)
    return view


def permuted(values: Tensor, order: tuple[int, ...]) -> Tensor:
    inverse = sorted(range(len(order)), key=order.__getitem__)
    return values.permute(order).contiguous().permute(inverse)


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda v: v.clone(memory_format=torch.contiguous_format),
    "first half": lambda v: halves(v, 0),
    "second half": lambda v: halves(v, 1),
    "channels last": lambda v: v.clone(memory_format=torch.channels_last),
    "transposed": lambda v: permuted(v, (0, 1, 3, 2)),
    "batch innermost": lambda v: permuted(v, (1, 2, 3, 0)),
    "steps": with_steps,
    "offset": lambda v: torch.cat([v.new_full([1], math.nan), v.reshape(-1)])[1:].view(v.shape),
}


@pytest.mark.parametrize("second", LAYOUTS)
@pytest.mark.parametrize("first", LAYOUTS)
class TestLayouts:
    def test_latents(self, compiled_backend, first, second):
        mu, logvar = torch.randn(4, 3, 5, 6), torch.randn(4, 3, 5, 6)
        mu_view, logvar_view = LAYOUTS[first](mu), LAYOUTS[second](logvar)
        assert torch.equal(mu_view, mu)
        assert_latent_parity(compiled_backend, mu_view, logvar_view, NOISE)
        assert_latent_parity(compiled_backend, mu_view, logvar, LAYOUTS[second](torch.randn(4, 3, 5, 6)))

    def test_latents_ignore_strides(self, compiled_backend, first, second):
        """Sums run in logical order: the same bits from any layout, forward and backward."""
        mu, logvar = torch.randn(4, 3, 5, 6), torch.randn(4, 3, 5, 6)
        grads = (torch.randn(4, 3, 5, 6), torch.randn(4))

        def call(**t: Tensor) -> tuple[Tensor, ...]:
            return ops.reparameterize_kl(**t, noise=NOISE, backend=compiled_backend)

        plain = evaluate(call, {"mu": mu, "logvar": logvar}, grads)
        views = evaluate(call, {"mu": LAYOUTS[first](mu), "logvar": LAYOUTS[second](logvar)}, grads)
        for key, value in plain.items():
            assert torch.equal(views[key], value), key

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
    def test_reconstruction(self, compiled_backend, first, second, dtype):
        recon, target = reconstruction_pair("mse", (4, 3, 5, 6), dtype)
        for kind in ("mse", "bce"):
            assert_reconstruction_parity(compiled_backend, LAYOUTS[first](recon), LAYOUTS[second](target), kind, "none")

    def test_strided_upstream_gradient(self, compiled_backend, first, second):
        mu, logvar = LAYOUTS[second](torch.randn(4, 3, 5, 6)), torch.randn(4, 3, 5, 6)
        grad = torch.randn(4, 3, 5, 6)
        plain = evaluate(
            lambda **t: ops.reparameterize(**t, noise=NOISE, backend=compiled_backend),
            {"mu": mu, "logvar": logvar},
            (grad,),
        )
        strided = evaluate(
            lambda **t: ops.reparameterize(**t, noise=NOISE, backend=compiled_backend),
            {"mu": mu, "logvar": logvar},
            (LAYOUTS[first](grad),),
        )
        for key, value in plain.items():
            assert torch.equal(strided[key], value), key


@pytest.mark.parametrize("dims", [(0,), (1,), (2, 3), (0, 1, 2, 3)], ids=str)
def test_expanded_inputs(compiled_backend, dims):
    """Stride 0: the same memory read as many elements."""
    shape = [1 if d in dims else size for d, size in enumerate((4, 3, 5, 6))]
    mu, logvar = torch.randn(shape).expand(4, 3, 5, 6), torch.randn(shape).expand(4, 3, 5, 6)
    assert 0 in mu.stride()
    assert_latent_parity(compiled_backend, mu, logvar, NOISE)
    assert_latent_parity(compiled_backend, mu, torch.randn(4, 3, 5, 6), torch.randn(shape).expand(4, 3, 5, 6))
    recon = torch.rand(shape).expand(4, 3, 5, 6)
    for other in (torch.rand(4, 3, 5, 6), torch.rand(4, 3, 5, 6).to(memory_format=torch.channels_last)):
        assert_reconstruction_parity(compiled_backend, recon, other, "mse", "none")
        assert_reconstruction_parity(compiled_backend, other, recon, "l1", "mean")


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_expanded_and_strided_upstream_of_losses(compiled_backend, reduction):
    """`loss.sum().backward()` sends an expanded gradient, a slice of another tensor a strided one."""
    mu, logvar = torch.randn(6, 5), torch.randn(6, 5)
    recon, target = torch.rand(6, 5), torch.rand(6, 5)
    rec, kl = torch.rand(6), torch.rand(6)
    shape = [6] if reduction == "none" else []
    upstreams = [torch.tensor(0.75).expand(shape)]
    if reduction == "none":
        upstreams += [torch.randn(18)[::3], torch.randn(6).flip(0), torch.randn(6, 2)[:, 1]]
    calls: list[tuple[Callable[..., Tensor], Tensors]] = [
        (lambda **t: ops.gaussian_kl(**t, reduction=reduction, backend=compiled_backend), {"mu": mu, "logvar": logvar}),
        (
            lambda **t: ops.reconstruction_error(**t, reduction=reduction, backend=compiled_backend),
            {"recon": recon, "target": target},
        ),
        (
            lambda **t: ops.exp_elbo(**t, scale=0.5, reduction=reduction, backend=compiled_backend),
            {"rec": rec, "kl": kl},
        ),
    ]
    for call, inputs in calls:
        for grad in upstreams:
            strided, dense = evaluate(call, inputs, (grad,)), evaluate(call, inputs, (grad.clone(),))
            for key, value in dense.items():
                assert torch.equal(strided[key], value), key


@pytest.mark.parametrize(
    "values",
    [torch.rand(12)[::2], torch.rand(6, 3)[:, 1], torch.rand(1).expand(6), torch.rand(6).flip(0)],
    ids=["steps", "column", "expanded", "flipped"],
)
def test_exp_elbo_views(compiled_backend, values):
    for reduction in REDUCTIONS:
        assert_exp_elbo_parity(
            compiled_backend, values, torch.rand(6), reduction, scale=0.5, beta_rec=1.0, beta_kl=2.0, alpha=2.0
        )
        assert_exp_elbo_parity(
            compiled_backend, torch.rand(6), values, reduction, scale=0.5, beta_rec=1.0, beta_kl=2.0, alpha=2.0
        )


@pytest.mark.parametrize(
    "shape", [(1,), (5,), (3, 1), (1, 7), (2, 1, 1, 1), (2, 3, 1, 4, 5), (2, 1, 3, 2, 1, 2, 3), (2,) * 10], ids=str
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_numbers_of_dimensions(compiled_backend, shape, dtype):
    mu, logvar = torch.randn(shape).to(dtype), torch.randn(shape).to(dtype)
    backwards = tuple(reversed(range(len(shape))))
    for view in (mu, permuted(mu, backwards)):
        assert_latent_parity(compiled_backend, view, logvar, NOISE)
    recon, target = torch.rand(shape).to(dtype), torch.rand(shape).to(dtype)
    for kind in KINDS:
        assert_reconstruction_parity(compiled_backend, permuted(recon, backwards), target, kind, "sum")


def test_one_dimensional_views(compiled_backend):
    """[B]: one element per sample, whatever the distance between them."""
    room = torch.rand(6, 3)
    assert_latent_parity(compiled_backend, room[:, 0], room[:, 2], NOISE)
    assert_latent_parity(compiled_backend, torch.rand(1).expand(6), room[:, 2], NOISE)
    assert_reconstruction_parity(compiled_backend, room[:, 0], room[:, 1], "mse", "none")


def test_more_dimensions_than_memory_has_runs(compiled_backend):
    """Twelve dimensions in reverse order, of which no two are one run of memory."""
    values = torch.randn((2,) * 12)
    mixed = permuted(values, tuple(reversed(range(12))))
    assert_latent_parity(compiled_backend, mixed, torch.randn((2,) * 12), NOISE)


def bits(tensor: Tensor) -> Tensor:
    return tensor.view({8: torch.int64, 4: torch.int32, 2: torch.int16}[tensor.element_size()]).clone()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_inputs_are_not_written(backend, dtype):
    """Not the elements of a view, nor those of its storage beside it."""
    storage = {name: torch.rand(4, 6, 5, 6).to(dtype) for name in ("mu", "logvar", "recon", "target", "noise")}
    before = {name: bits(tensor) for name, tensor in storage.items()}
    views = {name: tensor.chunk(2, dim=1)[1] for name, tensor in storage.items()}
    latents = {name: views[name] for name in ("mu", "logvar", "noise")}
    images = {name: views[name] for name in ("recon", "target")}
    grad_z = torch.randn(4, 3, 5, 6).to(dtype)
    grad_kl = torch.randn(4, dtype=torch.float64 if dtype == torch.float64 else torch.float32)
    grads_before = bits(grad_z), bits(grad_kl)
    evaluate(lambda **t: ops.reparameterize_kl(**t, backend=backend), latents, (grad_z, grad_kl))
    for kind in KINDS:
        evaluate(lambda kind=kind, **t: ops.reconstruction_error(**t, kind=kind, backend=backend), images, (grad_kl,))
    for name, tensor in storage.items():
        assert torch.equal(bits(tensor), before[name]), name
    assert torch.equal(bits(grad_z), grads_before[0])
    assert torch.equal(bits(grad_kl), grads_before[1])


def test_lazy_clones_are_not_copied(compiled_backend):
    """torch's copy-on-write tensors stay unwritten views of the original when they are only read."""
    originals = [torch.rand(4, 6) for _ in range(4)]
    lazy = [torch._lazy_clone(tensor) for tensor in originals]
    assert all(torch._C._is_cow_tensor(tensor) for tensor in lazy)
    ops.reconstruction_error(lazy[0], lazy[1], backend=compiled_backend)
    ops.reparameterize_kl(lazy[2], lazy[3], backend=compiled_backend)
    ops.exp_elbo(lazy[0][:, 0], lazy[1][:, 0], scale=1.0, backend=compiled_backend)
    assert all(torch._C._is_cow_tensor(tensor) for tensor in lazy)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("offset", [0, 1, 3])
def test_gradients_larger_than_the_caches(compiled_backend, dtype, offset):
    """48 MB, from inputs that start off any vector's alignment: every element, first to last, is the formula's.

    2 (r - t) g in float32 errs by 4 u of itself, and the half type rounds once.
    """
    shape, count = (4, 3_000_001), 12_000_004
    recon = torch.rand(count + offset).to(dtype)[offset:].view(shape).requires_grad_()
    target = torch.rand(count + offset).to(dtype)[offset:].view(shape)
    rec = ops.reconstruction_error(recon, target, backend=compiled_backend)
    (gradient,) = torch.autograd.grad(rec, recon, torch.tensor([1.0, -0.5, 3.0, 0.125]))
    for row, weight in enumerate((1.0, -0.5, 3.0, 0.125)):
        exact = 2 * weight * (recon[row].detach().double() - target[row].double())
        bound = 4 * 2.0**-24 * exact.abs() + storage_error(exact, dtype)
        assert ((gradient[row].double() - exact).abs() <= bound).all()


def allocated_bytes(call: Callable[[], object]) -> int:
    """What torch's allocator hands out during the call, freed again or not."""
    call()  # what is only set up once does not count
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        result = call()
    del result
    events = profiler.profiler.kineto_results.events()
    return sum(max(event.nbytes(), 0) for event in events if event.name() == "[memory]")


BIG_VIEWS: dict[str, Callable[[], Tensor]] = {
    "chunk half": lambda: torch.rand(64, 2 * 16384).chunk(2, dim=1)[1],
    "channels last": lambda: torch.rand(64, 4, 64, 64).to(memory_format=torch.channels_last),
    "transposed": lambda: torch.rand(64, 128, 128).transpose(1, 2),
    "steps": lambda: torch.rand(64, 2 * 16384)[:, ::2],
    "expanded": lambda: torch.rand(1, 16384).expand(64, 16384),
}
BIG = 64 * 16384 * 4  # bytes of such a view's elements
SMALL = 128 * 1024  # results per sample, their weights, Python's own small tensors: far below one copy


class TestViewsAreReadInPlace:
    def test_the_meter_sees_a_copy(self):
        view = BIG_VIEWS["chunk half"]()
        assert allocated_bytes(view.contiguous) >= BIG
        assert allocated_bytes(lambda: view * 2) >= BIG

    @pytest.mark.parametrize("layout", BIG_VIEWS)
    def test_latents_forward(self, compiled_backend, layout):
        mu, logvar = BIG_VIEWS[layout](), BIG_VIEWS[layout]()
        assert allocated_bytes(lambda: ops.gaussian_kl(mu, logvar, backend=compiled_backend)) < SMALL
        z_only = allocated_bytes(lambda: ops.reparameterize(mu, logvar, noise=NOISE, backend=compiled_backend))
        assert z_only < BIG + SMALL
        both = allocated_bytes(lambda: ops.reparameterize_kl(mu, logvar, noise=NOISE, backend=compiled_backend))
        assert both < BIG + SMALL

    @pytest.mark.parametrize("layout", BIG_VIEWS)
    def test_latents_backward(self, compiled_backend, layout):
        """Two gradients, and neither eps nor a copy of mu, logvar or the strided upstream gradient."""
        mu, logvar = BIG_VIEWS[layout]().requires_grad_(), BIG_VIEWS[layout]().requires_grad_()
        z, kl = ops.reparameterize_kl(mu, logvar, noise=NOISE, backend=compiled_backend)
        grads = BIG_VIEWS[layout](), torch.ones(()).expand(64)
        used = allocated_bytes(lambda: torch.autograd.grad((z, kl), (mu, logvar), grads, retain_graph=True))
        assert used < 2 * BIG + SMALL

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("layout", BIG_VIEWS)
    def test_reconstruction(self, compiled_backend, layout, kind):
        recon, target = BIG_VIEWS[layout]().requires_grad_(), BIG_VIEWS[layout]()
        forward = allocated_bytes(
            lambda: ops.reconstruction_error(recon.detach(), target, kind=kind, backend=compiled_backend)
        )
        assert forward < SMALL
        rec = ops.reconstruction_error(recon, target, kind=kind, backend=compiled_backend)
        used = allocated_bytes(lambda: torch.autograd.grad(rec.sum(), recon, retain_graph=True))
        assert used < BIG + SMALL
