"""Compare the Triton kernels in the interpreter with the reference, within the bounds for every backend."""

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
    hostile_latents,
    reconstruction_pair,
)

pytestmark = pytest.mark.usefixtures("interpreter")


def noise_for(mu: Tensor, noise: str) -> Tensor | ops.PhiloxNoise:
    return NOISE if noise == "philox" else torch.randn(mu.shape, dtype=torch.float64).to(mu.dtype)


def latents(shape: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    mu, logvar = torch.randn(2, *shape, dtype=torch.float64)
    return mu.to(dtype), (2 * logvar).to(dtype)


class TestLatents:
    @pytest.mark.parametrize(
        ("dtype", "noise", "prior"),
        [
            (torch.float64, "philox", (0.5, -1.25)),
            (torch.float32, "philox", (0.0, 0.0)),
            (torch.float32, "explicit", (0.5, -1.25)),
            (torch.bfloat16, "philox", (0.0, 0.0)),
            (torch.float16, "explicit", (0.0, 0.0)),
        ],
        ids=str,
    )
    def test_dtypes(self, dtype, noise, prior):
        mu, logvar = latents((7, 37), dtype)
        assert_latent_parity("triton", mu, logvar, noise_for(mu, noise), prior)

    def test_prior_of_tensors(self):
        """In float64, where both agree to a few hundred units of the last place."""
        mu, logvar = (x.requires_grad_() for x in latents((5, 7), torch.float64))
        prior_mu, prior_logvar = (x.requires_grad_() for x in latents((1, 7), torch.float64))
        leaves, found = (mu, logvar, prior_mu, prior_logvar), []
        for backend in ("triton", "reference"):
            z, kl = ops.reparameterize_kl(
                mu, logvar, prior_mu=prior_mu, prior_logvar=prior_logvar, noise=NOISE, kl_balance=0.8, backend=backend
            )
            found.append([z, kl, *torch.autograd.grad(z.sum() + kl.sum(), leaves)])
        torch.testing.assert_close(*found, rtol=1e-12, atol=1e-12)

    @pytest.mark.parametrize("shape", [(1, 1), (5, 1), (6, 2), (9,), (3, 4), (2, 3, 1, 5)], ids=str)
    def test_shapes(self, shape):
        mu, logvar = latents(shape, torch.float32)
        assert_latent_parity("triton", mu, logvar, NOISE)

    @pytest.mark.parametrize("shape", [(1, 33), (3, 41), (9, 6), (2, 64)], ids=str)
    def test_several_blocks(self, small_blocks, shape):
        """Rows that start inside a group of four normals, rows longer than a block, batches larger than a block."""
        mu, logvar = latents(shape, torch.float32)
        assert_latent_parity("triton", mu, logvar, NOISE)

    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_corners(self, dtype):
        mu, logvar = hostile_latents(dtype)
        assert_latent_parity("triton", mu, logvar, NOISE if dtype == torch.float32 else torch.randn(mu.shape).to(dtype))

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
    def test_nan_and_infinity(self, dtype):
        pairs = torch.tensor(list(itertools.product(SPECIALS, SPECIALS)), dtype=dtype)
        mu, logvar = pairs[:, :1].contiguous(), pairs[:, 1:].contiguous()
        assert_latent_parity("triton", mu, logvar, NOISE, (0.5, -1.25))

    @pytest.mark.parametrize("special", [math.nan, math.inf])
    def test_special_explicit_noise(self, special):
        mu, logvar = latents((3, 5), torch.float32)
        noise = torch.randn(3, 5)
        noise[1, 2] = special
        assert_latent_parity("triton", mu, logvar, noise)


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
class TestReconstruction:
    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    @pytest.mark.parametrize("reduction", REDUCTIONS)
    def test_dtypes(self, kind, dtype, reduction):
        recon, target = reconstruction_pair(kind, (5, 3, 4, 7), dtype)
        assert_reconstruction_parity("triton", recon, target, kind, reduction)

    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_corners(self, kind, dtype):
        pairs = torch.tensor(HOSTILE_PAIRS[kind], dtype=torch.float64).to(dtype)
        assert_reconstruction_parity("triton", pairs[:, :1].contiguous(), pairs[:, 1:].contiguous(), kind, "none")

    def test_identical_images(self, kind):
        image = torch.rand(3, 3, 8, 8) * 0.9 + 0.05
        assert_reconstruction_parity("triton", image, image, kind, "mean")


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("shape", [(1, 1), (4, 33), (2, 3, 5, 5), (9, 6)], ids=str)
def test_reconstruction_of_several_blocks(small_blocks, shape, reduction):
    recon, target = reconstruction_pair("mse", shape, torch.float32)
    assert_reconstruction_parity("triton", recon, target, "mse", reduction)


def test_a_nan_stays_in_its_sample(small_blocks):
    recon, target = reconstruction_pair("mse", (3, 40), torch.float32)
    recon[1, 35] = math.nan
    rec = ops.reconstruction_error(recon, target, backend="triton")
    assert rec.isnan().tolist() == [False, True, False]


@pytest.mark.parametrize("reduction", REDUCTIONS)
class TestExpElbo:
    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_dtypes(self, dtype, reduction):
        rec, kl = (torch.rand(33, dtype=torch.float64) * 500).to(dtype), (torch.rand(33) * 20).to(dtype)
        assert_exp_elbo_parity("triton", rec, kl, reduction, scale=1 / 192, beta_rec=1.0, beta_kl=256.0, alpha=2.0)

    @pytest.mark.parametrize("batch", [1, 16, 41])
    def test_several_blocks(self, small_blocks, batch, reduction):
        rec, kl = torch.rand(batch), torch.rand(2 * batch)[::2]
        assert_exp_elbo_parity("triton", rec, kl, reduction, scale=0.5, beta_rec=-3.0, beta_kl=2.0, alpha=1.0)

    def test_no_weight_on_one_part(self, reduction):
        rec, kl = torch.rand(9), torch.rand(9)
        assert_exp_elbo_parity("triton", rec, kl, reduction, scale=1.0, beta_rec=0.0, beta_kl=1.0, alpha=2.0)


# Exponents along the whole curve: underflow, the last normal and subnormal numbers, the joint at 32, far beyond.
EXPONENTS = [-1e20, -1e4, -200.0, -104.0, -103.0, -100.0, -88.0, -87.0, -1.0, 0.0, 31.9, 32.0, 32.1, 33.0, 1e4, 1e20]
EXPONENTS += [math.nan, math.inf, -math.inf]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_exp_elbo_along_the_curve(dtype):
    """t depends only on rec, with weight -1, so it is exact."""
    rec = -torch.tensor(EXPONENTS, dtype=torch.float64).to(dtype)
    settings = {"scale": 1.0, "beta_rec": 1.0, "beta_kl": 1.0, "alpha": 1.0}
    assert_exp_elbo_parity("triton", rec, torch.zeros_like(rec), "none", **settings)


LAYOUTS = ["chunk", "channels last", "mixed", "slices", "transposed", "expanded", "permuted"]


def laid_out(layout: str, tensor: Tensor) -> Tensor:
    """The values of `tensor` [3, 4, 3, 2], in another memory layout where possible."""
    if layout == "chunk":
        return torch.cat([tensor, tensor], dim=1).chunk(2, dim=1)[1]
    if layout in ("channels last", "mixed"):
        return tensor.contiguous(memory_format=torch.channels_last)
    if layout == "slices":
        wide = tensor.new_zeros(6, 5, 6, 3)
        wide[::2, 1:, ::2, :2] = tensor
        return wide[::2, 1:, ::2, :2]
    if layout == "transposed":
        return tensor.transpose(0, 1).contiguous().transpose(0, 1)
    if layout == "expanded":
        return tensor[:1, :, :1].expand(3, 4, 3, 2)
    return tensor.permute(3, 1, 0, 2).contiguous().permute(2, 1, 3, 0)


@pytest.mark.parametrize("blocks", ["interpreter", "small_blocks"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(request, layout, blocks):
    """Views are read in place: the same bits as for their contiguous copies, except for the order of a sum.

    Only "mixed" pairs two layouts; reconstruction's columns then follow the first tensor's memory.
    """
    request.getfixturevalue(blocks)
    first, second = (laid_out(layout, torch.rand(3, 4, 3, 2)) for _ in range(2))
    if layout == "mixed":
        second = second.contiguous()
    z, kl = ops.reparameterize_kl(first, second, noise=NOISE, backend="triton")
    plain_z, plain_kl = ops.reparameterize_kl(first.contiguous(), second.contiguous(), noise=NOISE, backend="triton")
    assert torch.equal(z, plain_z)
    assert torch.equal(kl, plain_kl)
    rec = ops.reconstruction_error(first, second, backend="triton")
    plain_rec = ops.reconstruction_error(first.contiguous(), second.contiguous(), backend="triton")
    # Sums of 24 terms of one sign, in two orders: 23 roundings of 2^-24 each.
    assert ((rec - plain_rec).abs() <= 2 * 23 * 2.0**-24 * plain_rec).all()


@pytest.mark.parametrize("layout", ["chunk", "mixed", "slices", "expanded"])
def test_layouts_of_gradients(layout):
    """With strided and expanded inputs and upstream gradients, the gradients are those of contiguous copies."""
    inputs = [laid_out(layout, torch.rand(3, 4, 3, 2)) for _ in range(2)]
    if layout == "mixed":
        inputs[1] = inputs[1].contiguous()
    grad_z, grad_kl = laid_out("slices", torch.rand(3, 4, 3, 2)), torch.tensor(0.5).expand(3)

    def gradients(first: Tensor, second: Tensor) -> list[Tensor]:
        leaves = [t.detach().requires_grad_() for t in (first, second)]
        out = ops.reparameterize_kl(*leaves, noise=NOISE, backend="triton")
        rec = ops.reconstruction_error(*leaves, kind="l1", backend="triton")
        return [
            *torch.autograd.grad(out, leaves, (grad_z, grad_kl)),
            *torch.autograd.grad(rec, leaves, torch.rand(6, generator=torch.Generator().manual_seed(1))[::2]),
        ]

    plain = gradients(*(t.contiguous() for t in inputs))
    assert all(torch.equal(g, p) for g, p in zip(gradients(*inputs), plain, strict=True))


def test_offsets_in_64_bits(small_blocks, monkeypatch):
    """The code for rows of more than 2^31 elements, run on small ones, gives the same bits."""
    first, second = (laid_out("slices", torch.rand(3, 4, 3, 2)) for _ in range(2))

    def results() -> list[Tensor]:
        leaves = [t.detach().requires_grad_() for t in (first, second)]
        z, kl = ops.reparameterize_kl(*leaves, noise=NOISE, backend="triton")
        rec = ops.reconstruction_error(*leaves, backend="triton")
        return [z, kl, rec, *torch.autograd.grad(z.sum() + kl.sum() + rec.sum(), leaves)]

    narrow = results()
    monkeypatch.setattr("sivae.ops.triton.layout._INT32_LIMIT", 0)
    assert all(torch.equal(w, n) for w, n in zip(results(), narrow, strict=True))
