"""Compare every compiled backend with the reference: values and gradients, on ordinary and extreme inputs.

Tolerances are sums of both sides' rounding errors. u is the unit roundoff of the arithmetic: 2^-24 for float32 and the
half types, 2^-53 for float64. A sum of n terms of one sign, in any order, errs by at most (n - 1) u of itself.
"""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from sivae import ops
from tests.ops.parity import (
    DTYPES,
    KINDS,
    NOISE,
    REDUCTIONS,
    SPECIALS,
    assert_exp_elbo_parity,
    assert_latent_parity,
    assert_reconstruction_parity,
    assert_within,
    evaluate,
    hostile_latents,
    reconstruction_pair,
)


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

    @pytest.mark.parametrize("start", [0, 3])
    def test_long_rows(self, compiled_backend, kind, dtype, start):
        """Several blocks, the last of which ends within a cache line; rows that start with a line or within one."""
        wide = reconstruction_pair(kind, (2, start + 2 * 1024 + 256 + 32 + 5), dtype)
        recon, target = (images[:, start:] for images in wide)
        assert_reconstruction_parity(compiled_backend, recon, target, kind, "none")

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
    """t depends only on rec, with weight -1, so it is exact."""
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
