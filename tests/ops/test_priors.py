"""Test the KL to a prior of tensors, its gradients to the prior, and its balance, on every backend."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from sivae import ops

NOISE = ops.PhiloxNoise(7, 2)
U = 2.0**-24  # the unit roundoff of float32
SHAPES = [((), ()), ((4,), (4,)), ((1, 4), (3, 4)), ((3, 1), (4,)), ((3, 4), (1, 1))]


def leaf(*shape: int) -> Tensor:
    return (torch.rand(shape, dtype=torch.float64) * 3 - 1.5).requires_grad_()


def plain_kl(mu: Tensor, logvar: Tensor, prior_mu: Tensor | float, prior_logvar: Tensor | float) -> Tensor:
    """The formula in float64; torch's own distributions have it, too, but not for a batch of numbers."""
    mu, logvar = mu.double(), logvar.double()
    prior_mu, prior_logvar = torch.as_tensor(prior_mu).double(), torch.as_tensor(prior_logvar).double()
    d = logvar - prior_logvar
    return (0.5 * (torch.expm1(d) - d + (mu - prior_mu) ** 2 * torch.exp(-prior_logvar))).flatten(1).sum(1)


def gradients(value: Tensor, *leaves: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(value.sum(), leaves, retain_graph=True))


@pytest.mark.parametrize("shapes", SHAPES, ids=str)
class TestTensors:
    def test_kl_is_that_of_the_formula(self, backend, shapes):
        """In float64, where the formula is exact to a few hundred units of the last place."""
        mu, logvar, prior = leaf(3, 4), leaf(3, 4), [leaf(*shape) for shape in shapes]
        settings = {"prior_mu": prior[0], "prior_logvar": prior[1], "backend": backend}
        expected = plain_kl(mu, logvar, *prior)
        leaves = [mu, logvar, *prior]
        for kl in (
            ops.gaussian_kl(mu, logvar, **settings),
            ops.reparameterize_kl(mu, logvar, noise=NOISE, **settings)[1],
            ops.elbo(torch.zeros(3, 1), torch.zeros(3, 1), mu, logvar, **settings)[2],
        ):
            torch.testing.assert_close(kl, expected, rtol=1e-13, atol=1e-13)
            found, wanted = gradients(kl, *leaves), gradients(expected, *leaves)
            torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)

    def test_gradients(self, backend, shapes):
        def call(mu: Tensor, logvar: Tensor, prior_mu: Tensor, prior_logvar: Tensor) -> tuple[Tensor, Tensor]:
            return ops.reparameterize_kl(
                mu, logvar, prior_mu=prior_mu, prior_logvar=prior_logvar, noise=NOISE, backend=backend
            )

        inputs = (leaf(3, 4), leaf(3, 4), *(leaf(*shape) for shape in shapes))
        assert gradcheck(call, inputs)
        if backend == "reference":
            assert gradgradcheck(call, inputs)

    def test_equal_to_numbers(self, backend, shapes):
        """Tensors that hold one number give the sample of that number exactly, and its KL to rounding."""
        mu, logvar = torch.randn(3, 4), torch.randn(3, 4)
        prior = [torch.full(shape, value) for shape, value in zip(shapes, (0.5, -1.25), strict=True)]
        z, kl = ops.reparameterize_kl(
            mu, logvar, prior_mu=prior[0], prior_logvar=prior[1], noise=NOISE, backend=backend
        )
        by_number = ops.reparameterize_kl(mu, logvar, prior_mu=0.5, prior_logvar=-1.25, noise=NOISE, backend=backend)
        assert torch.equal(z, by_number[0])
        torch.testing.assert_close(kl, by_number[1], rtol=64 * U, atol=0.0)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_one_tensor_and_one_number(backend, reduction):
    mu, logvar, other = leaf(3, 2, 2), leaf(3, 2, 2), leaf(2, 1)
    for prior in ((other, -0.5), (0.5, other)):
        kl = ops.gaussian_kl(mu, logvar, prior_mu=prior[0], prior_logvar=prior[1], reduction=reduction, backend=backend)
        expected = plain_kl(mu, logvar, *prior)
        expected = {"none": expected, "mean": expected.mean(), "sum": expected.sum()}[reduction]
        torch.testing.assert_close(kl, expected, rtol=1e-13, atol=1e-13)
        leaves = mu, logvar, other
        torch.testing.assert_close(gradients(kl, *leaves), gradients(expected, *leaves), rtol=1e-12, atol=1e-12)


def test_accuracy_next_to_the_prior(backend):
    """The KL keeps its relative accuracy: both differences are exact there (Sterbenz), and the bound is the op's."""
    prior_mu, prior_logvar = torch.randn(1, 64), torch.randn(1, 64) * 3
    mu, logvar = prior_mu * (1 + 1e-4 * torch.randn(50, 64)), prior_logvar + 1e-4 * torch.randn(50, 64)
    kl = ops.gaussian_kl(mu, logvar, prior_mu=prior_mu, prior_logvar=prior_logvar, backend=backend)
    d = logvar.double() - prior_logvar.double()
    terms = d * d * (0.5 + d / 6 + d * d / 24)  # of exp(d) - 1 - d; the next is below 1e-15 of it
    exact = (0.5 * (terms + (mu.double() - prior_mu.double()) ** 2 * torch.exp(-prior_logvar.double()))).sum(1)
    assert ((kl - exact).abs() <= (48 + 64 / 4) * U * exact).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_dtypes(backend, dtype):
    """Nothing is rounded before the KL; each gradient has the dtype of its tensor."""
    mu, logvar = torch.randn(3, 4).to(dtype).requires_grad_(), torch.randn(3, 4).to(dtype).requires_grad_()
    prior_mu, prior_logvar = torch.randn(4).requires_grad_(), torch.randn(1, 4).to(dtype).requires_grad_()
    z, kl = ops.reparameterize_kl(
        mu, logvar, prior_mu=prior_mu, prior_logvar=prior_logvar, noise=NOISE, backend=backend
    )
    assert (z.dtype, kl.dtype) == (dtype, torch.float32)
    torch.testing.assert_close(kl, plain_kl(mu, logvar, prior_mu, prior_logvar).float(), rtol=1e-5, atol=1e-5)
    leaves = mu, logvar, prior_mu, prior_logvar
    assert [g.dtype for g in gradients(kl, *leaves)] == [x.dtype for x in leaves]
    double = ops.gaussian_kl(mu, logvar, prior_mu=prior_mu.detach().double(), backend=backend)
    assert double.dtype == torch.float64


def test_no_samples(backend):
    prior = torch.zeros(4, requires_grad=True)
    kl = ops.gaussian_kl(torch.zeros(0, 4), torch.zeros(0, 4), prior_mu=prior, prior_logvar=prior, backend=backend)
    assert kl.shape == (0,)
    assert gradients(kl, prior)[0].tolist() == [0.0] * 4


@pytest.mark.parametrize("balance", [0.0, 0.3, 1.0])
class TestBalance:
    def test_gradients_are_shared_out(self, backend, balance):
        mu, logvar, prior_mu, prior_logvar = leaves = leaf(3, 4), leaf(3, 4), leaf(4), leaf(1, 4)
        prior = {"prior_mu": prior_mu, "prior_logvar": prior_logvar, "backend": backend}
        plain = ops.gaussian_kl(mu, logvar, **prior)
        kl = ops.gaussian_kl(mu, logvar, **prior, kl_balance=balance)
        assert torch.equal(kl, plain)
        expected = gradients(plain, *leaves)
        for gradient, whole, share in zip(
            gradients(kl, *leaves), expected, (balance, balance, 1 - balance, 1 - balance), strict=True
        ):
            torch.testing.assert_close(gradient, share * whole, rtol=1e-14, atol=1e-15)

    def test_a_sample_keeps_its_gradients(self, backend, balance):
        mu, logvar = leaf(3, 4), leaf(3, 4)
        z, kl = ops.reparameterize_kl(mu, logvar, prior_mu=0.5, noise=NOISE, kl_balance=balance, backend=backend)
        plain = ops.reparameterize_kl(mu, logvar, prior_mu=0.5, noise=NOISE, backend=backend)
        assert torch.equal(z, plain[0])
        assert torch.equal(kl, plain[1])
        expected = [
            by_z + balance * by_kl
            for by_z, by_kl in zip(gradients(plain[0], mu, logvar), gradients(plain[1], mu, logvar), strict=True)
        ]
        torch.testing.assert_close(gradients(z.sum() + kl.sum(), mu, logvar), expected, rtol=1e-14, atol=1e-15)

    def test_an_infinite_kl_stays_infinite(self, backend, balance):
        far, zeros = torch.tensor([[math.inf], [0.0]]), torch.zeros(2, 1)
        for prior_mu in (0.0, torch.zeros(1)):
            kl = ops.gaussian_kl(far, zeros, prior_mu=prior_mu, kl_balance=balance, backend=backend)
            assert kl.tolist() == [math.inf, 0.0]


def test_compiled(compiled_backend):
    """torch.compile traces through the rewriting without a break."""

    def call(mu: Tensor, logvar: Tensor, prior_mu: Tensor, prior_logvar: Tensor) -> Tensor:
        z, kl = ops.reparameterize_kl(
            mu, logvar, prior_mu=prior_mu, prior_logvar=prior_logvar, noise=NOISE, kl_balance=0.7,
            backend=compiled_backend,
        )  # fmt: skip
        return z.sum(1) + kl

    torch._dynamo.reset()
    leaves = leaf(3, 4), leaf(3, 4), leaf(4), leaf(1, 4)
    found, expected = torch.compile(call, fullgraph=True, backend="aot_eager")(*leaves), call(*leaves)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradients(found, *leaves), gradients(expected, *leaves))
    torch._dynamo.reset()
