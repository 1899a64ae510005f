"""Test the ops under the transforms of `torch.func`, forward-mode derivatives and batched gradients, on each backend.

Each result is compared with one that uses no transform: calls in a loop, or gradients one at a time. Everything is in
float64, where the normals of two backends agree to 1e-12 and all else to a few hundred units of the last place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

from sivae import ops
from sivae.ops.library import KINDS

Call = Callable[[Tensor, Tensor], Tensor]
NOISE = ops.PhiloxNoise(7, 2)


def calls(backend: str | None) -> dict[str, Call]:
    """Each public op as a function of two tensors [4, 6] in (0, 1)."""

    def latents(mu: Tensor, logvar: Tensor) -> Tensor:
        z, kl = ops.reparameterize_kl(mu, logvar, noise=NOISE, backend=backend)
        return z.sum(1) + kl

    def styled(x: Tensor, s: Tensor) -> Tensor:
        y, mean, std = ops.styled_instance_norm(
            x.reshape(2, 3, 2, 2), bias=s[0, :3], scale=s[:2, :3], shift=s[2:, 3:], statistics=True, backend=backend
        )
        return (y * y).sum((2, 3)) + mean + std

    return {
        "reparameterize": lambda m, v: ops.reparameterize(m, v, noise=NOISE, backend=backend),
        "reparameterize with eps": lambda m, e: ops.reparameterize(m, m, noise=e, backend=backend),
        "gaussian_kl": lambda m, v: ops.gaussian_kl(m, v, prior_mu=0.5, backend=backend),
        "gaussian_kl to a tensor": lambda m, v: ops.gaussian_kl(
            m, v, prior_mu=v[0] * v[0], prior_logvar=v[:, :1], kl_balance=0.5, backend=backend
        ),
        "reparameterize_kl": latents,
        **{
            kind: lambda r, t, kind=kind: ops.reconstruction_error(r, t, kind=kind, reduction="mean", backend=backend)
            for kind in KINDS
        },
        "exp_elbo": lambda r, k: ops.exp_elbo(r[:, 0], k[:, 1], scale=0.5, backend=backend),
        "log_exp_elbo": lambda r, k: ops.log_exp_elbo(r[:, 0], k[:, 1], scale=0.5),
        "elbo": lambda r, m: ops.elbo(r, r * r, m, r, backend=backend)[0],
        "styled_instance_norm": styled,
        "group_norm_silu": lambda x, p: ops.group_norm_silu(
            x.reshape(2, 4, 3), 2, p[0, :4], p[1, :4], eps=1e-2, backend=backend
        ),
        "chamfer_distance": lambda p, t: ops.chamfer_distance(p.reshape(2, 4, 3), t.reshape(2, 4, 3), backend=backend),
        "mixture_log_prob": lambda z, m: ops.mixture_log_prob(z, m[:, 0], m, m * m, backend=backend),
    }


OPS = list(calls(None))


@pytest.fixture(autouse=True)
def no_fallback() -> Iterator[None]:
    """Have an op without a rule for vmap raise an error, where torch would print a warning once in a process."""
    torch._C._functorch._set_vmap_fallback_enabled(False)
    yield
    torch._C._functorch._set_vmap_fallback_enabled(True)


def inputs(*batch: int) -> tuple[Tensor, Tensor]:
    return tuple(torch.rand(*batch, 4, 6, dtype=torch.float64) * 0.8 + 0.1 for _ in range(2))


def assert_close(found: Tensor, expected: Tensor) -> None:
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    assert ((found - expected).abs() <= 4e-12 * (1 + expected.abs())).all()


def jacobian(call: Call, a: Tensor, b: Tensor) -> Tensor:
    """By autograd, one backward pass for each value of the result."""
    return torch.autograd.functional.jacobian(lambda a: call(a, b), a)


@pytest.mark.parametrize("name", OPS)
class TestTransforms:
    def test_vmap(self, backend, name):
        call = calls(backend)[name]
        a, b = inputs(3)
        expected = torch.stack([call(*pair) for pair in zip(a, b, strict=True)])
        assert_close(torch.func.vmap(call)(a, b), expected)
        expected = torch.stack([call(x, b[0]) for x in a])
        assert_close(torch.func.vmap(call, in_dims=(1, None))(a.transpose(0, 1), b[0]), expected)

    def test_gradients_of_each_sample(self, backend, name):
        call = calls(backend)[name]
        a, b = inputs(3)
        found = torch.func.vmap(torch.func.grad(lambda a, b: call(a, b).sum(), argnums=(0, 1)))(a, b)
        for k in range(3):
            leaves = [x[k].clone().requires_grad_() for x in (a, b)]
            for gradient, expected in zip(found, torch.autograd.grad(call(*leaves).sum(), leaves), strict=True):
                assert_close(gradient[k], expected)

    def test_jacobians(self, backend, name):
        call = calls(backend)[name]
        a, b = inputs()
        expected = jacobian(call, a, b)
        assert_close(torch.func.jacrev(call)(a, b), expected)
        assert_close(torch.func.jacfwd(call)(a, b), expected)

    def test_forward_mode(self, backend, name):
        call = calls(backend)[name]
        a, b = inputs()
        direction = torch.randn(4, 6, dtype=torch.float64)
        expected = (jacobian(call, a, b) * direction).sum((-2, -1))
        with forward_ad.dual_level():
            found = forward_ad.unpack_dual(call(forward_ad.make_dual(a, direction), b)).tangent
        assert_close(found, expected)
        assert_close(torch.func.jvp(lambda a: call(a, b), (a,), (direction,))[1], expected)

    def test_hessian(self, backend, name):
        a, b = inputs()
        found = torch.func.hessian(lambda a: calls(backend)[name](a, b).sum())(a)
        reference = calls("reference")[name]
        assert_close(found, torch.autograd.functional.hessian(lambda a: reference(a, b).sum(), a))

    def test_batched_gradients_of_a_recorded_graph(self, backend, name):
        """The forward pass is outside of the transform, and runs on the backend."""
        call = calls(backend)[name]
        a, b = inputs()
        found = torch.autograd.functional.jacobian(lambda a: call(a, b), a, vectorize=True)
        assert_close(found, jacobian(call, a, b))


@pytest.mark.parametrize("name", ["reparameterize_kl", "bce", "styled_instance_norm"])
def test_compiled(compiled_backend, name):
    """torch.compile traces through a transform."""
    torch._dynamo.reset()
    call = calls(compiled_backend)[name]
    each = torch.func.vmap(torch.func.grad(lambda a, b: call(a, b).sum()))
    a, b = inputs(2)
    assert_close(torch.compile(each, fullgraph=True, backend="aot_eager")(a, b), each(a, b))
    torch._dynamo.reset()


def test_normals(backend):
    """Each seed of a batch gives the normals that it gives alone."""
    seeds = torch.tensor([[3], [2**40 + 1]])
    found = torch.func.vmap(lambda seed: ops.philox_normal(seed, (5,), offset=4, backend=backend))(seeds)
    expected = [ops.philox_normal(int(seed), (5,), offset=4, backend="reference") for seed in seeds]
    assert torch.equal(found, torch.stack(expected))


@pytest.mark.parametrize("compiled", [False, True])
class TestFreshNoise:
    """vmap's own setting decides whether the samples share their noise."""

    @pytest.fixture(autouse=True)
    def fresh_dynamo(self) -> Iterator[None]:
        torch._dynamo.reset()
        yield
        torch._dynamo.reset()

    def draw(self, backend: str, randomness: str, compiled: bool) -> Tensor:
        sample = torch.func.vmap(lambda mu: ops.reparameterize(mu, mu, backend=backend), randomness=randomness)
        if compiled:
            sample = torch.compile(sample, fullgraph=True, backend="eager")
        return sample(torch.zeros(2, 3, 5))

    def test_different(self, backend, compiled):
        first, second = self.draw(backend, "different", compiled)
        assert not torch.equal(first, second)

    def test_same(self, backend, compiled):
        first, second = self.draw(backend, "same", compiled)
        assert torch.equal(first, second)

    def test_not_set(self, backend, compiled):
        with pytest.raises(Exception, match="called random operation while in randomness error mode"):
            self.draw(backend, "error", compiled)
