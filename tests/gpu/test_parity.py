"""On the GPU, with the inputs there: every compiled backend against the reference, and every backend against float64.

The tests are those of the CPU; only where tensors are made differs. The bounds do not depend on the device.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from sivae import ops
from tests.ops import test_accuracy, test_parity
from tests.ops.parity import (
    KINDS,
    NOISE,
    assert_exp_elbo_parity,
    assert_latent_parity,
    assert_reconstruction_parity,
    latent_bounds,
    per_row,
    reconstruction_bounds,
    reconstruction_pair,
    storage_error,
)
from tests.ops.test_accuracy import (  # noqa: F401  (collected here, with the GPU's fixtures)
    TestReconstruction,
    test_a_megapixel_image,
    test_bound_of_gaussian_kl,
    test_bound_of_reconstruction_error,
    test_bound_of_reparameterize,
    test_exp_elbo_beyond_its_joint,
    test_exp_elbo_underflows_to_an_exact_zero,
    test_kl_next_to_the_prior,
)
from tests.ops.test_layouts import TestLayouts, test_expanded_inputs  # noqa: F401
from tests.ops.test_parity import (  # noqa: F401
    TestExpElbo,
    TestLatents,
    test_elbo_agrees,
    test_exp_elbo_along_the_curve,
    test_exp_elbo_is_finite_and_keeps_its_sign,
    test_special_explicit_noise,
)

pytestmark = pytest.mark.gpu

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SHAPES = [(512, 2), (32, 128), (32, 512), (4096, 512), (8, 4, 128, 128), (1, 1), (3, 1027), (1, 100_003)]
IMAGES = [(32, 3, 32, 32), (4, 3, 256, 256), (1, 3, 1024, 1024), (5, 1, 1, 1), (2, 8193), (3000, 7)]


class TestReconstructionParity(test_parity.TestReconstruction):
    """By another name than the accuracy's."""


class TestLatentsAccuracy(test_accuracy.TestLatents):
    """By another name than the parity's, as the next."""


class TestExpElboAccuracy(test_accuracy.TestExpElbo):
    pass


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_latents_of_the_shapes_that_people_train_with(compiled_backend, shape, dtype):
    mu, logvar = torch.randn(shape).to(dtype), torch.randn(shape).to(dtype)
    assert_latent_parity(compiled_backend, mu, logvar, NOISE)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", IMAGES, ids=str)
def test_images_of_the_shapes_that_people_train_with(compiled_backend, shape, dtype, kind):
    recon, target = reconstruction_pair(kind, shape, dtype)
    assert_reconstruction_parity(compiled_backend, recon, target, kind, "none")


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("batch", [0, 1, 32, 512, 4096, 100_003])
def test_exp_elbo_of_the_batches_that_people_train_with(compiled_backend, batch, reduction):
    rec, kl = torch.rand(batch) * 500, torch.rand(batch) * 20
    settings = {"scale": 1 / 192, "beta_rec": 1.0, "beta_kl": 256.0, "alpha": 2.0}
    assert_exp_elbo_parity(compiled_backend, rec, kl, reduction, **settings)


def half_within(actual: Tensor, exact: Tensor, bound: Tensor) -> None:
    """Within half of the parity bound, which is twice the error of one side, and the rounding to the result's dtype."""
    error = (actual.detach().double().cpu() - exact).abs()
    assert (error <= bound / 2 + storage_error(exact, actual.dtype)).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_latents_against_float64_on_the_cpu(backend, dtype):
    """Not against the reference on the same device: against the formulas, in float64, on the other one."""
    mu, logvar = (torch.randn(33, 1027).to(dtype).requires_grad_() for _ in range(2))
    z, kl = ops.reparameterize_kl(mu, logvar, noise=NOISE, backend=backend)
    grad_z, grad_kl = torch.randn(z.shape).to(dtype), torch.randn(kl.shape)
    gradients = torch.autograd.grad((z, kl), (mu, logvar), (grad_z, grad_kl))
    m, lv, gz, gk = (t.detach().cpu() for t in (mu, logvar, grad_z, grad_kl))
    eps = ops.philox_normal(
        NOISE.seed, m.shape, offset=NOISE.offset, device="cpu", dtype=torch.float64, backend="reference"
    )
    bounds = latent_bounds(m, lv, eps, (0.0, 0.0), gz, gk, exact_eps=False)
    m, lv, gz, gk = m.double(), lv.double(), gz.double(), per_row(gk.double(), m)
    spread = (lv / 2).exp() * eps
    half_within(z, m + spread, bounds["z"])
    half_within(kl, 0.5 * (torch.expm1(lv) - lv + m**2).sum(1), bounds["kl"])
    half_within(gradients[0], gz + gk * m, bounds["mu"])
    half_within(gradients[1], 0.5 * gz * spread + 0.5 * gk * torch.expm1(lv), bounds["logvar"])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_mse_against_float64_on_the_cpu(backend, dtype):
    recon, target = (t.requires_grad_() for t in reconstruction_pair("mse", (5, 3, 64, 65), dtype))
    rec = ops.reconstruction_error(recon, target, backend=backend)
    grad = torch.randn(rec.shape)
    gradients = torch.autograd.grad(rec, (recon, target), grad)
    r, t, g = (x.detach().cpu() for x in (recon, target, grad))
    bounds = reconstruction_bounds(r, t, "mse", g)
    difference = r.double() - t.double()
    half_within(rec, (difference**2).flatten(1).sum(1), bounds["output"])
    half_within(gradients[0], 2 * per_row(g.double(), r) * difference, bounds["recon"])
    half_within(gradients[1], -2 * per_row(g.double(), r) * difference, bounds["target"])


@pytest.mark.parametrize("seed", [0, 2**32, 2**63 - 1])
@pytest.mark.parametrize("offset", [0, 2**32 + 1])
def test_the_noise_is_that_of_the_cpu(backend, seed, offset):
    """In float64 to 1e-12: one different bit of an integer would move u by 2^-23. In float32 to 1e-6, as stated."""
    for dtype, bound in ((torch.float64, 1e-12), (torch.float32, 1e-6)):
        there = ops.philox_normal(seed, (100_003,), offset=offset, device="cuda", dtype=dtype, backend=backend)
        here = ops.philox_normal(seed, (100_003,), offset=offset, device="cpu", dtype=dtype, backend="reference")
        assert there.device.type == torch.zeros(()).device.type
        assert (there.cpu() - here).abs().max() <= bound


def test_an_empty_batch(backend):
    mu = torch.zeros(0, 5, requires_grad=True)
    z, kl = ops.reparameterize_kl(mu, mu, backend=backend)
    rec = ops.reconstruction_error(mu, mu, backend=backend)
    assert z.shape == (0, 5) and kl.shape == rec.shape == (0,)
    assert math.isnan(ops.exp_elbo(rec, kl, scale=1.0, backend=backend).item())
    (gradient,) = torch.autograd.grad(z.sum() + kl.sum() + rec.sum(), mu)
    assert gradient.shape == (0, 5)
