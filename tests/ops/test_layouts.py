"""Test that tensors of any memory layout are read in place and give the same results as their contiguous copies."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from sivae import ops
from tests.ops.parity import (
    DTYPES,
    KINDS,
    NOISE,
    REDUCTIONS,
    Tensors,
    assert_exp_elbo_parity,
    assert_latent_parity,
    assert_reconstruction_parity,
    evaluate,
    reconstruction_pair,
    storage_error,
)


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

    def test_reconstruction_adds_in_the_order_of_recons_memory(self, compiled_backend, first, second):
        """As if the dimensions of both were stored in that order, whatever the layout of the target."""
        recon, target = reconstruction_pair("mse", (4, 3, 5, 6), torch.float32)
        view = LAYOUTS[first](recon)
        order = [0, *sorted((1, 2, 3), key=view.stride, reverse=True)]
        rec = ops.reconstruction_error(view, LAYOUTS[second](target), backend=compiled_backend)
        recon, target = recon.permute(order).contiguous(), target.permute(order).contiguous()
        assert torch.equal(rec, ops.reconstruction_error(recon, target, backend=compiled_backend))

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


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("offset", [0, 1, 2, 4])
@pytest.mark.parametrize("gap", [0, 1, 4, 8])
def test_samples_of_whole_vectors(compiled_backend, dtype, offset, gap):
    """64 elements each, `gap` apart, from an element `offset` on: every alignment that matters for vector accesses."""

    def placed(values: Tensor) -> Tensor:
        room = values.new_full((offset + 5 * (64 + gap),), math.nan)
        return room[offset:].view(5, 64 + gap)[:, :64].copy_(values)

    mu, logvar, eps, grad = (torch.randn(5, 64).to(dtype) for _ in range(4))
    assert_latent_parity(compiled_backend, placed(mu), logvar, NOISE)
    assert_latent_parity(compiled_backend, mu, placed(logvar), placed(eps))
    recon, target = reconstruction_pair("mse", (5, 64), dtype)
    assert_reconstruction_parity(compiled_backend, placed(recon), target, "mse", "none")
    assert_reconstruction_parity(compiled_backend, recon, placed(target), "mse", "none")

    def sample(**t: Tensor) -> Tensor:
        return ops.reparameterize(**t, noise=NOISE, backend=compiled_backend)

    latents = {"mu": mu, "logvar": logvar}
    plain, strided = evaluate(sample, latents, (grad,)), evaluate(sample, latents, (placed(grad),))
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
    """[B]: one element per sample, at any stride."""
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
    """Neither the elements of a view nor the rest of its storage."""
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
    """48 MB, from inputs that are not aligned to vectors: every element, from the first to the last, is correct.

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
    """The bytes that torch's allocator hands out during the call, including those freed again."""
    call()  # a one-time setup does not count
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
