"""Compare gradients with finite differences in float64, and test that only needed ones are computed.

gradcheck's own bounds (1e-5 absolute, 1e-3 relative) hold for central differences with step 1e-6 in float64: their
truncation is about 1e-12 and their rounding 1e-10 of the values, here of order 1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.utils._python_dispatch import TorchDispatchMode

from sivae import ops

KINDS = ["mse", "l1", "bce", "bce_with_logits"]
REDUCTIONS = ["none", "mean", "sum"]
NOISE = ops.PhiloxNoise(20240607, 3)


def leaf(*shape: int, low: float = -1.5, high: float = 1.5) -> Tensor:
    return (torch.rand(shape, dtype=torch.float64) * (high - low) + low).requires_grad_()


def image_pair(kind: str, *shape: int) -> tuple[Tensor, Tensor]:
    """Away from points without a derivative: l1 at equality, bce at 0 and 1."""
    if kind == "l1":
        target = leaf(*shape)
        away = (torch.rand(shape, dtype=torch.float64) + 0.1) * torch.sign(torch.randn(shape, dtype=torch.float64))
        return (target.detach() + away).requires_grad_(), target
    if kind == "bce":
        return leaf(*shape, low=0.1, high=0.9), leaf(*shape, low=0.0, high=1.0)
    return leaf(*shape), leaf(*shape, low=0.0, high=1.0)


@pytest.mark.parametrize("prior", [(0.0, 0.0), (0.3, -0.7)], ids=["standard", "other prior"])
class TestLatentGradcheck:
    @pytest.mark.parametrize("reduction", REDUCTIONS)
    def test_gaussian_kl(self, backend, reduction, prior):
        def call(mu: Tensor, logvar: Tensor) -> Tensor:
            return ops.gaussian_kl(
                mu, logvar, prior_mu=prior[0], prior_logvar=prior[1], reduction=reduction, backend=backend
            )

        assert gradcheck(call, (leaf(3, 4), leaf(3, 4)))
        assert gradcheck(call, (leaf(2, 2, 3), leaf(2, 2, 3, low=1.1, high=3.0)))

    def test_reparameterize_kl(self, backend, prior):
        def call(mu: Tensor, logvar: Tensor) -> tuple[Tensor, Tensor]:
            return ops.reparameterize_kl(
                mu, logvar, prior_mu=prior[0], prior_logvar=prior[1], noise=NOISE, backend=backend
            )

        assert gradcheck(call, (leaf(3, 4), leaf(3, 4)))

    def test_reparameterize_kl_explicit_noise(self, backend, prior):
        def call(mu: Tensor, logvar: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
            return ops.reparameterize_kl(
                mu, logvar, prior_mu=prior[0], prior_logvar=prior[1], noise=noise, backend=backend
            )

        assert gradcheck(call, (leaf(3, 4), leaf(3, 4), leaf(3, 4)))


def test_gradcheck_reparameterize(backend):
    assert gradcheck(lambda m, v: ops.reparameterize(m, v, noise=NOISE, backend=backend), (leaf(3, 4), leaf(3, 4)))
    assert gradcheck(
        lambda m, v, e: ops.reparameterize(m, v, noise=e, backend=backend), (leaf(3, 4), leaf(3, 4), leaf(3, 4))
    )


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_gradcheck_reconstruction_error(backend, kind, reduction):
    def call(recon: Tensor, target: Tensor) -> Tensor:
        return ops.reconstruction_error(recon, target, kind=kind, reduction=reduction, backend=backend)

    assert gradcheck(call, image_pair(kind, 3, 2, 4))


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_gradcheck_exp_elbo(backend, reduction):
    def call(rec: Tensor, kl: Tensor) -> Tensor:
        return ops.exp_elbo(
            rec, kl, scale=0.5, beta_rec=0.7, beta_kl=1.3, alpha=1.5, reduction=reduction, backend=backend
        )

    assert gradcheck(call, (leaf(5), leaf(5)))


def test_gradcheck_exp_elbo_beyond_the_joint(backend):
    """The linear continuation, scaled to values of order 1: its slope is exp(32) / alpha."""

    def call(rec: Tensor, kl: Tensor) -> Tensor:
        return ops.exp_elbo(rec, kl, scale=1.0, alpha=1.0, backend=backend) * 1e-14

    assert gradcheck(call, (leaf(4, low=-20.0, high=-18.0), leaf(4, low=-20.0, high=-18.0)))


@pytest.mark.parametrize("kind", KINDS)
def test_gradcheck_elbo(backend, kind):
    def call(recon: Tensor, target: Tensor, mu: Tensor, logvar: Tensor) -> tuple[Tensor, ...]:
        return ops.elbo(
            recon,
            target,
            mu,
            logvar,
            kind=kind,
            beta_rec=0.6,
            beta_kl=1.4,
            prior_mu=0.2,
            prior_logvar=0.4,
            backend=backend,
        )

    assert gradcheck(call, (*image_pair(kind, 3, 4), leaf(3, 2), leaf(3, 2)))


def test_gradcheck_log_exp_elbo():
    assert gradcheck(lambda r, k: ops.log_exp_elbo(r, k, scale=0.5, beta_kl=2.0), (leaf(5), leaf(5)))


@pytest.mark.parametrize("logits", [0.0, -0.0])
def test_bce_with_logits_is_smooth_at_zero(backend, logits):
    """A last layer that starts at zero gives exactly this: the derivative is sigmoid(0) - t."""
    recon = torch.full((2, 3), logits, dtype=torch.float64, requires_grad=True)
    target = torch.full((2, 3), 0.25, dtype=torch.float64)
    rec = ops.reconstruction_error(recon, target, kind="bce_with_logits", reduction="sum", backend=backend)
    (gradient,) = torch.autograd.grad(rec, recon)
    assert gradient.tolist() == [[0.25] * 3] * 2


def test_l1_has_derivative_zero_at_equality(backend):
    image = torch.rand(2, 3, requires_grad=True)
    rec = ops.reconstruction_error(image, image.detach().clone(), kind="l1", reduction="sum", backend=backend)
    assert torch.autograd.grad(rec, image)[0].tolist() == [[0.0] * 3] * 2


@pytest.mark.parametrize("strides", ["chunk", "transposed"])
def test_gradients_of_views_reach_the_whole(backend, strides):
    """The gradient reaches the encoder's output, of which mu and logvar are views."""

    def call(head: Tensor) -> tuple[Tensor, Tensor]:
        mu, logvar = head.chunk(2, dim=1) if strides == "chunk" else head.t().chunk(2, dim=1)
        return ops.reparameterize_kl(mu, logvar, noise=NOISE, backend=backend)

    assert gradcheck(call, (leaf(4, 4),))


class CallRecorder(TorchDispatchMode):
    """The calls of the package's own low-level ops, with their arguments by name."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, dict[str, Any]]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace.startswith("sivae"):
            names = [argument.name for argument in func._schema.arguments]
            self.calls.append((func._opname, dict(zip(names, args, strict=False)) | (kwargs or {})))
        return func(*args, **(kwargs or {}))

    def backward_needs(self) -> list[dict[str, bool]]:
        return [
            {key.removeprefix("need_"): value for key, value in arguments.items() if key.startswith("need_")}
            for name, arguments in self.calls
            if name.endswith("_backward")
        ]


def needs_of(loss: Tensor, inputs: list[Tensor] | None = None) -> list[dict[str, bool]]:
    with CallRecorder() as recorder:
        if inputs is None:
            loss.backward()
        else:
            torch.autograd.grad(loss, inputs, retain_graph=True)
    return recorder.backward_needs()


class TestOnlyWhatIsNeeded:
    @pytest.mark.parametrize(
        "wanted",
        [("mu",), ("logvar",), ("noise",), ("mu", "noise"), ("mu", "logvar", "noise")],
        ids=str,
    )
    def test_latents_that_require_gradients(self, compiled_backend, wanted):
        tensors = {name: torch.randn(3, 4, requires_grad=name in wanted) for name in ("mu", "logvar", "noise")}
        z, kl = ops.reparameterize_kl(**tensors, backend=compiled_backend)
        needs = needs_of(z.sum() + kl.sum())
        assert needs == [{name: name in wanted for name in tensors}]
        assert {name for name, tensor in tensors.items() if tensor.grad is not None} == set(wanted)

    @pytest.mark.parametrize(
        "wanted",
        [("recon",), ("target",), ("recon", "target")],
        ids=str,
    )
    def test_images_that_require_gradients(self, compiled_backend, wanted):
        tensors = {name: torch.rand(3, 4, requires_grad=name in wanted) for name in ("recon", "target")}
        needs = needs_of(ops.reconstruction_error(**tensors, reduction="sum", backend=compiled_backend))
        assert needs == [{name: name in wanted for name in tensors}]

    @pytest.mark.parametrize(
        "wanted",
        [("rec",), ("kl",), ("rec", "kl")],
        ids=str,
    )
    def test_errors_that_require_gradients(self, compiled_backend, wanted):
        tensors = {name: torch.rand(3, requires_grad=name in wanted) for name in ("rec", "kl")}
        needs = needs_of(ops.exp_elbo(**tensors, scale=1.0, backend=compiled_backend))
        assert needs == [{name: name in wanted for name in tensors}]

    def test_pruned_by_inputs(self, compiled_backend):
        mu, logvar = torch.randn(3, 4, requires_grad=True), torch.randn(3, 4, requires_grad=True)
        kl = ops.gaussian_kl(mu, logvar, reduction="sum", backend=compiled_backend)
        assert needs_of(kl, [mu]) == [{"mu": True, "logvar": False, "noise": False}]
        assert needs_of(kl, [logvar]) == [{"mu": False, "logvar": True, "noise": False}]

    def test_one_of_two_outputs(self, compiled_backend):
        """An unused output has no gradient, rather than a tensor of zeros."""
        mu, logvar = torch.randn(3, 4, requires_grad=True), torch.randn(3, 4, requires_grad=True)
        for used, unused in ((0, "grad_kl"), (1, "grad_z")):
            outputs = ops.reparameterize_kl(mu, logvar, noise=NOISE, backend=compiled_backend)
            with CallRecorder() as recorder:
                outputs[used].sum().backward()
            (arguments,) = [arguments for name, arguments in recorder.calls if name == "latent_backward"]
            assert arguments[unused] is None

    def test_no_graph_without_gradients(self, backend):
        z, kl = ops.reparameterize_kl(torch.randn(3, 4), torch.randn(3, 4), backend=backend)
        assert not z.requires_grad
        assert not kl.requires_grad
        with torch.no_grad():
            recon = torch.rand(3, 4, requires_grad=True)
            assert not ops.reconstruction_error(recon, torch.rand(3, 4), backend=backend).requires_grad


@pytest.mark.parametrize("used", [0, 1], ids=["z only", "kl only"])
def test_one_output_used_equals_the_single_op(backend, used):
    mu, logvar = torch.randn(3, 4, requires_grad=True), torch.randn(3, 4, requires_grad=True)
    both = ops.reparameterize_kl(mu, logvar, noise=NOISE, backend=backend)[used]
    single = (
        ops.reparameterize(mu, logvar, noise=NOISE, backend=backend)
        if used == 0
        else ops.gaussian_kl(mu, logvar, backend=backend)
    )
    assert torch.equal(both, single)
    upstream = torch.randn(both.shape)
    for a, b in zip(
        torch.autograd.grad(both, (mu, logvar), upstream),
        torch.autograd.grad(single, (mu, logvar), upstream),
        strict=True,
    ):
        assert torch.equal(a, b)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_backward_draws_the_noise_of_forward(backend, dtype):
    """With mu = 0 and logvar = 0, z is eps and dz/dlogvar = eps / 2, exactly."""
    mu = torch.zeros(5, 307, dtype=dtype)
    logvar = torch.zeros(5, 307, dtype=dtype, requires_grad=True)
    for noise in (None, NOISE):
        z = ops.reparameterize(mu, logvar, noise=noise, backend=backend)
        (gradient,) = torch.autograd.grad(z.sum(), logvar)
        assert torch.equal(gradient, z.detach() / 2)


def calls_to_differentiate(backend: str) -> dict[str, tuple[Callable[..., Tensor], tuple[Tensor, ...]]]:
    latents = leaf(3, 4), leaf(3, 4)
    return {
        "reparameterize": (lambda m, v: ops.reparameterize(m, v, noise=NOISE, backend=backend), latents),
        "gaussian_kl": (lambda m, v: ops.gaussian_kl(m, v, backend=backend), latents),
        "reparameterize_kl": (
            lambda m, v: torch.cat(
                [part.flatten() for part in ops.reparameterize_kl(m, v, noise=NOISE, backend=backend)]
            ),
            latents,
        ),
        "reconstruction_error": (
            lambda r, t: ops.reconstruction_error(r, t, kind="bce_with_logits", backend=backend),
            image_pair("bce_with_logits", 3, 4),
        ),
        "exp_elbo": (lambda r, k: ops.exp_elbo(r, k, scale=0.5, backend=backend), (leaf(4), leaf(4))),
        "styled_instance_norm": (
            lambda x, b: ops.styled_instance_norm(x, bias=b, negative_slope=1.0, eps=0.1, backend=backend),
            (leaf(2, 2, 2, 3), leaf(2)),
        ),
        "chamfer_distance": (
            lambda p, t: ops.chamfer_distance(p, t, backend=backend),
            (leaf(2, 4, 3), leaf(2, 5, 3)),
        ),
        "mixture_log_prob": (
            lambda z, w, m, v: ops.mixture_log_prob(z, w, m, v, backend=backend),
            (leaf(4, 3), leaf(5, low=0.1), leaf(5, 3), leaf(5, 3)),
        ),
    }


OPS = list(calls_to_differentiate("reference"))


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("dims", [1, 2, 3, 5])
def test_chamfer_distance(backend, dims, reduction):
    """Where no two distances are so close that a step changes which is the least."""
    points, targets = leaf(2, 4, dims), leaf(2, 5, dims)
    assert gradcheck(lambda p, t: ops.chamfer_distance(p, t, reduction=reduction, backend=backend), (points, targets))


@pytest.mark.parametrize("shape", [(4, 1, 2), (3, 5, 4)], ids=str)
def test_mixture_log_prob(backend, shape):
    rows, components, dims = shape
    inputs = leaf(rows, dims), leaf(components, low=0.1), leaf(components, dims), leaf(components, dims)
    assert gradcheck(lambda *case: ops.mixture_log_prob(*case, backend=backend), inputs)


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("activation", ["silu", "none"])
def test_group_norm_silu(backend, activation, groups):
    def call(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return ops.group_norm_silu(x, groups, weight, bias, activation=activation, backend=backend)

    assert gradcheck(call, (leaf(2, 4, 3, 2), leaf(4), leaf(4)))


class TestSecondDerivatives:
    @pytest.mark.parametrize("op", OPS)
    def test_compiled_backends_refuse_by_name(self, compiled_backend, op):
        call, inputs = calls_to_differentiate(compiled_backend)[op]
        gradients = torch.autograd.grad(call(*inputs).square().sum(), inputs, create_graph=True)
        with pytest.raises(RuntimeError, match=rf"sivae\.ops\.{op}: no second derivative") as caught:
            sum(g.square().sum() for g in gradients).backward()
        assert 'backend="reference"' in str(caught.value)

    @pytest.mark.parametrize("op", OPS)
    def test_create_graph_alone_is_no_error(self, compiled_backend, op):
        call, inputs = calls_to_differentiate(compiled_backend)[op]
        plain = torch.autograd.grad(call(*inputs).sum(), inputs)
        graphed = torch.autograd.grad(call(*inputs).sum(), inputs, create_graph=True)
        assert all(torch.equal(a, b) for a, b in zip(plain, graphed, strict=True))

    @pytest.mark.parametrize("op", OPS)
    def test_the_reference_supports_them(self, op):
        call, inputs = calls_to_differentiate("reference")[op]
        assert gradgradcheck(call, inputs)

    @pytest.mark.parametrize("kind", ["mse", "bce"])
    def test_the_reference_supports_every_smooth_kind(self, kind):
        assert gradgradcheck(
            lambda r, t: ops.reconstruction_error(r, t, kind=kind, backend="reference"), image_pair(kind, 3, 4)
        )
