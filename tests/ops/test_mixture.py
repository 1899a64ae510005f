"""Test the log density of a mixture on every backend of the CPU: values, gradients, corners, layouts, memory."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from sivae import ops
from tests.ops.mixture_parity import assert_mixture, exact, mixture
from tests.ops.test_errors import FLOATING, refuses
from tests.ops.test_layouts import allocated_bytes

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
# (N, K, L): one of each; groups of rows, components and dimensions that are not full; several parts of the rows; more
# dimensions than one level of a sum takes.
SHAPES = [(1, 1, 1), (5, 3, 2), (9, 20, 65), (300, 5, 3), (40, 37, 130)]


def results(backend: str, *case: Tensor) -> list[Tensor]:
    """The value and all gradients."""
    leaves = [x.detach().requires_grad_() for x in case]
    log_prob = ops.mixture_log_prob(*leaves, backend=backend)
    weights = torch.linspace(-1, 1, len(log_prob), dtype=log_prob.dtype)
    return [log_prob.detach(), *torch.autograd.grad(log_prob, leaves, weights)]


def assert_same_bits(found: list[Tensor], expected: list[Tensor]) -> None:
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_and_gradients(backend, shape, dtype):
    assert_mixture(backend, *mixture(*shape, dtype))


def test_mixed_dtypes(backend):
    z, weights, mu, logvar = mixture(7, 3, 4)
    assert_mixture(backend, z.bfloat16(), weights, mu, logvar.half())
    assert_mixture(backend, z.half(), weights.bfloat16(), mu.bfloat16(), logvar.half())


def test_far_from_the_origin(backend):
    """Distances of size 0.01 around 100 keep their digits. Expanded into products, they have none."""
    mu = 100 + 0.01 * torch.randn(5, 4)
    z = mu[torch.randint(5, (50,))] + 0.01 * torch.randn(50, 4)
    weights, logvar = torch.full((5,), 0.2), torch.full((5, 4), 2 * math.log(0.01))
    assert_mixture(backend, z, weights, mu, logvar)
    precision = torch.exp(-logvar)
    distances = z**2 @ precision.t() - 2 * z @ (mu * precision).t() + (mu**2 * precision).sum(1)
    products = torch.logsumexp(weights.log() - 0.5 * (distances + (logvar + math.log(2 * math.pi)).sum(1)), 1)
    assert (products - exact(z, weights, mu, logvar)).abs().max() > 1


class TestCorners:
    def test_weights_are_not_normalised(self, backend):
        z, weights, mu, logvar = mixture(5, 3, 2, torch.float64)
        difference = ops.mixture_log_prob(z, 3 * weights, mu, logvar, backend=backend) - ops.mixture_log_prob(
            z, weights, mu, logvar, backend=backend
        )
        torch.testing.assert_close(difference, torch.full((5,), math.log(3), dtype=torch.float64))

    @pytest.mark.parametrize("weight", [0.0, 1e-309])
    def test_a_weight_of_zero(self, backend, weight):
        """Its component counts for nothing; its gradient is the density that it would add."""
        z, weights, mu, logvar = mixture(5, 3, 2, torch.float64)
        weights[1] = weight
        log_prob, by_z, by_weight, by_mu, by_logvar = results(backend, z, weights, mu, logvar)
        kept = torch.tensor([0, 2])
        without = results(backend, z, weights[kept], mu[kept], logvar[kept])
        for found, expected in zip(
            (log_prob, by_z, by_weight[kept], by_mu[kept], by_logvar[kept]), without, strict=True
        ):
            torch.testing.assert_close(found, expected)
        assert by_mu[1].tolist() == by_logvar[1].tolist() == [0.0, 0.0]
        alone = ops.mixture_log_prob(z, torch.ones(1, dtype=torch.float64), mu[1:2], logvar[1:2], backend="reference")
        expected = (torch.linspace(-1, 1, 5, dtype=torch.float64) * torch.exp(alone - log_prob)).sum()
        torch.testing.assert_close(by_weight[1], expected)

    def test_no_density(self, backend):
        """Without components, with weights of 0, and where every distance overflows: -inf with gradient 0."""
        z, weights, mu, logvar = mixture(5, 3, 2)
        far = torch.full_like(z, 1e30)
        for case in ((z, weights[:0], mu[:0], logvar[:0]), (z, 0 * weights, mu, logvar), (far, weights, mu, logvar)):
            log_prob, *grads = results(backend, *case)
            assert (log_prob == -math.inf).all()
            assert all((g == 0).all() for g in grads)

    def test_no_rows(self, backend):
        z, weights, mu, logvar = mixture(5, 3, 2)
        log_prob, by_z, *grads = results(backend, z[:0], weights, mu, logvar)
        assert log_prob.shape == (0,)
        assert by_z.shape == (0, 2)
        assert all((g == 0).all() for g in grads)

    def test_nan(self, backend):
        """A row keeps its NaN for itself; a component's reaches all rows, and so does a negative weight's."""
        z, weights, mu, logvar = mixture(12, 3, 2)
        z[4, 1] = math.nan
        log_prob, by_z, *grads = results(backend, z, weights, mu, logvar)
        bad = torch.arange(12) == 4
        assert torch.equal(log_prob.isnan(), bad)
        assert torch.equal(by_z.isnan().all(1), bad)
        assert all(g.isnan().all() for g in grads)
        for place in (1, 2, 3):
            case = list(mixture(12, 3, 2))
            case[place][0] = -1.0 if place == 1 else math.nan
            assert results(backend, *case)[0].isnan().all()

    def test_far_components(self, backend):
        """Nothing underflows: of three components around a row, each 1e4 nats away, the sum is their logarithm."""
        z, logvar = torch.zeros(1, 1), torch.zeros(3, 1)
        mu, weights = torch.full((3, 1), math.sqrt(2e4)), torch.ones(3)
        assert_mixture(backend, z, weights, mu, logvar)


class TestLayouts:
    def test_views_give_the_same_bits(self, compiled_backend):
        z, weights, mu, logvar = mixture(41, 20, 18)
        expected = results(compiled_backend, z, weights, mu, logvar)
        wide = torch.zeros(41, 36)
        wide[:, 1::2] = z
        views = z.t().contiguous().t(), wide[:, 1::2], torch.cat([z, z], 1).chunk(2, 1)[1]
        for view in views:
            assert_same_bits(results(compiled_backend, view, weights, mu.t().contiguous().t(), logvar), expected)

    def test_expanded_rows_and_gradients(self, compiled_backend):
        z, weights, mu, logvar = mixture(1, 20, 18)
        leaf = z.clone().requires_grad_()
        ops.mixture_log_prob(leaf.expand(9, 18), weights, mu, logvar, backend=compiled_backend).sum().backward()
        single = z.clone().requires_grad_()
        ops.mixture_log_prob(single, weights, mu, logvar, backend=compiled_backend).sum().backward()
        torch.testing.assert_close(leaf.grad, 9 * single.grad)

    def test_only_needed_gradients(self, compiled_backend):
        case = mixture(70, 5, 3)
        everything = results(compiled_backend, *case)[1:]
        for needed in range(4):
            leaves = [x.clone().requires_grad_(i == needed) for i, x in enumerate(case)]
            log_prob = ops.mixture_log_prob(*leaves, backend=compiled_backend)
            log_prob.backward(torch.linspace(-1, 1, 70))
            assert [x.grad is None for x in leaves] == [i != needed for i in range(4)]
            assert torch.equal(leaves[needed].grad, everything[needed])


def test_the_number_of_threads_changes_no_bit(compiled_backend, restore_threads):
    case = mixture(3000, 20, 18)
    torch.set_num_threads(1)
    expected = results(compiled_backend, *case)
    for threads in (2, 5):
        torch.set_num_threads(threads)
        assert_same_bits(results(compiled_backend, *case), expected)


def test_memory_grows_with_pairs_not_with_their_dimensions(compiled_backend):
    """Densities [N, K], and in the backward pass a gradient of z and sums of [K, L] for each of up to 32 parts."""
    rows, components, dims = 2000, 50, 128
    leaves = [x.requires_grad_() for x in mixture(rows, components, dims)]
    pairs = rows * components * dims * 4
    used = allocated_bytes(lambda: ops.mixture_log_prob(*leaves, backend=compiled_backend))
    assert used <= pairs / 20
    log_prob = ops.mixture_log_prob(*leaves, backend=compiled_backend)
    used = allocated_bytes(lambda: torch.autograd.grad(log_prob.sum(), leaves, retain_graph=True))
    assert used <= pairs / 10


class TestErrors:
    OP = "mixture_log_prob"

    def test_types(self):
        case = mixture(4, 3, 2)
        for place, name in enumerate(("z", "weights", "mu", "logvar")):
            wrong = [*case[:place], [1.0], *case[place + 1 :]]
            refuses(TypeError, f"{self.OP}: {name} is list, expected a torch.Tensor", ops.mixture_log_prob, *wrong)
            wrong[place] = case[place].long()
            message = f"{self.OP}: {name} has dtype torch.int64, {FLOATING}"
            refuses(TypeError, message, ops.mixture_log_prob, *wrong)

    def test_shapes(self):
        z, weights, mu, logvar = mixture(4, 3, 2)
        for call, message in (
            ((z[0], weights, mu, logvar), "z has shape [2], expected [N, L] with L above 0"),
            ((z[:, :0], weights, mu, logvar), "z has shape [4, 0], expected [N, L] with L above 0"),
            ((z, weights, mu[0], logvar), "mu has shape [2], expected [K, L] with L above 0"),
            ((z, weights, mu[:, :1], logvar), "mu has shape [3, 1], expected [K, 2] as z, with any K"),
            ((z, weights, mu, logvar[:2]), "logvar has shape [2, 2], expected [3, 2] as mu"),
            ((z, weights[:2], mu, logvar), "weights has shape [2], expected [3], one for each mu"),
        ):
            refuses(ValueError, f"{self.OP}: {message}", ops.mixture_log_prob, *call)

    def test_devices(self):
        z, weights, mu, logvar = mixture(4, 3, 2)
        meta = torch.device("meta")
        for call, message in (
            ((z, weights, mu.to(meta), logvar), "mu is on meta, expected cpu as z"),
            ((z, weights.to(meta), mu, logvar), "weights is on meta, expected cpu as z"),
            ((z, weights, mu, logvar.to(meta)), "logvar is on meta, expected cpu as mu"),
        ):
            refuses(ValueError, f"{self.OP}: {message}", ops.mixture_log_prob, *call)
