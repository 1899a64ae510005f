"""What a GPU adds to the ops: CUDA graphs, streams, autocast, generated code around them, no waiting for the host."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from sivae import ops
from sivae.method.plain import gaussian_kl

pytestmark = pytest.mark.gpu

Call = Callable[[], tuple[Tensor, ...]]
SHAPE, IMAGE = (33, 1027), (9, 3, 65, 64)


def losses_of(backend: str, noise: ops.PhiloxNoise | None = None) -> tuple[Call, list[Tensor]]:
    """Every op, forward and backward, and what it reads: mu, logvar, recon, target."""
    mu, logvar = torch.randn(IMAGE[0], 1027), torch.randn(IMAGE[0], 1027)
    recon, target = torch.rand(IMAGE), torch.rand(IMAGE)
    leaves = [tensor.requires_grad_() for tensor in (mu, logvar, recon)]

    def call() -> tuple[Tensor, ...]:
        z, kl = ops.reparameterize_kl(mu, logvar, noise=noise, backend=backend)
        rec = ops.reconstruction_error(recon, target, backend=backend)
        loss = ops.exp_elbo(rec, kl, scale=1e-4, backend=backend)
        gradients = torch.autograd.grad((z, rec, loss), leaves, (torch.ones_like(z), torch.ones_like(rec), None))
        return (z.detach(), kl.detach(), rec.detach(), loss.detach(), *gradients)

    return call, [mu, logvar, recon, target]


def on_side_stream(make: Callable[[torch.cuda.Stream], None]) -> None:
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        make(stream)
    torch.cuda.current_stream().wait_stream(stream)


def capture(call: Call) -> tuple[torch.cuda.CUDAGraph, tuple[Tensor, ...]]:
    def warm_up(stream: torch.cuda.Stream) -> None:
        for _ in range(3):
            call()

    on_side_stream(warm_up)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = call()
    return graph, results


def test_a_graph_replays_what_was_captured(backend):
    call, (mu, _, recon, _) = losses_of(backend, ops.PhiloxNoise(torch.tensor([7]), 1))
    graph, results = capture(call)
    for _ in range(2):
        with torch.no_grad():  # new content, same memory
            mu.normal_()
            recon.uniform_()
        graph.replay()
        for captured, expected in zip(results, call(), strict=True):
            assert torch.equal(captured, expected)


def test_each_replay_draws_fresh_noise(backend):
    mu, logvar = torch.zeros(SHAPE), torch.zeros(SHAPE)
    graph, (z, _) = capture(lambda: ops.reparameterize_kl(mu, logvar, backend=backend))
    draws = []
    for _ in range(3):
        graph.replay()
        draws.append(z.clone())
    assert not torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[1], draws[2])
    # Of N(0, 1) the mean has standard error 1 / sqrt(n); 5 of them are missed with probability 6e-7.
    assert all(draw.mean().abs() < 5 / draw.numel() ** 0.5 for draw in draws)


def test_backward_in_a_graph_has_the_noise_of_its_forward(backend):
    """z = eps exp(logvar / 2) at mu = 0, so its gradient by logvar is z / 2 whatever was drawn."""
    mu, logvar = torch.zeros(SHAPE), torch.zeros(SHAPE, requires_grad=True)

    def call() -> tuple[Tensor, ...]:
        z = ops.reparameterize(mu, logvar, backend=backend)
        return (z.detach(), *torch.autograd.grad(z, logvar, torch.ones_like(z)))

    graph, (z, gradient) = capture(call)
    for _ in range(3):
        graph.replay()
        # Both are one normal times exp(0) = 1; product and half are exact.
        assert torch.equal(gradient, z / 2)


def test_a_side_stream_is_where_the_work_goes(backend):
    """The stream is held up first: kernels of another one would read what is not written yet."""
    call, inputs = losses_of(backend, ops.PhiloxNoise(torch.tensor([7]), 1))
    fresh = [torch.rand(tensor.shape) for tensor in inputs]
    torch.cuda.synchronize()
    found: list[tuple[Tensor, ...]] = []

    def late(stream: torch.cuda.Stream) -> None:
        torch.cuda._sleep(50_000_000)
        with torch.no_grad():
            for tensor, content in zip(inputs, fresh, strict=True):
                tensor.copy_(content)
        found.append(call())

    on_side_stream(late)
    torch.cuda.synchronize()
    for actual, expected in zip(found[0], call(), strict=True):
        assert torch.equal(actual, expected)


def test_nothing_waits_for_the_host(compiled_backend):
    call, _ = losses_of(compiled_backend)
    call()
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        results = call()
    finally:
        torch.cuda.set_sync_debug_mode(before)
    assert all(result.isfinite().all() for result in results)


@pytest.mark.parametrize("shape", [(33, 2049), (4096, 512), (700, 3)], ids=str)
def test_repeats_have_the_same_bits(compiled_backend, shape):
    mu, logvar = torch.randn(shape, requires_grad=True), torch.randn(shape, requires_grad=True)
    recon, target = torch.rand(shape, requires_grad=True), torch.rand(shape)
    noise = ops.PhiloxNoise(2**40 + 5, 9)

    def call() -> list[Tensor]:
        z, kl = ops.reparameterize_kl(mu, logvar, noise=noise, backend=compiled_backend)
        outputs = [z, kl]
        for reduction in ("none", "mean", "sum"):
            rec = ops.reconstruction_error(recon, target, reduction=reduction, backend=compiled_backend)
            outputs += [rec, ops.gaussian_kl(mu, logvar, reduction=reduction, backend=compiled_backend)]
        outputs += [ops.exp_elbo(outputs[2], kl, scale=1e-3, backend=compiled_backend)]
        return [*outputs, *torch.autograd.grad(outputs, (mu, logvar, recon), [torch.ones_like(o) for o in outputs])]

    first = call()
    for _ in range(5):
        for again, expected in zip(call(), first, strict=True):
            assert torch.equal(again, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_under_autocast_losses_are_float32(backend, dtype):
    head, values = torch.nn.Linear(6, 8), torch.randn(5, 6)
    with torch.autocast("cuda", dtype=dtype):
        mu, logvar = head(values).chunk(2, dim=1)
        assert mu.dtype == dtype
        z, kl = ops.reparameterize_kl(mu, logvar, backend=backend)
        rec = ops.reconstruction_error(mu, logvar, backend=backend)
        loss = ops.exp_elbo(rec, kl, scale=0.1, backend=backend)
    assert z.dtype == dtype
    assert {kl.dtype, rec.dtype, loss.dtype} == {torch.float32}
    (loss + z.float().sum()).backward()
    assert head.weight.grad.isfinite().all()


def test_compiled_as_one_graph(compiled_backend):
    """Neighbours may be fused with other roundings: 64 units of float32, as on the CPU."""

    def call(head: Tensor, recon: Tensor, target: Tensor) -> Tensor:
        z, kl = ops.reparameterize_kl(
            *(2 * head).chunk(2, dim=1), noise=ops.PhiloxNoise(5, 1), backend=compiled_backend
        )
        rec = ops.reconstruction_error(recon.sigmoid(), target, backend=compiled_backend)
        return z.tanh().square().sum(1) + ops.exp_elbo(rec, kl, scale=0.01, reduction="none", backend=compiled_backend)

    head, recon, target = torch.randn(4, 12), torch.randn(4, 3, 9, 9), torch.rand(4, 3, 9, 9)
    leaves = [head.requires_grad_(), recon.requires_grad_()]
    compiled = torch.compile(call, fullgraph=True)
    for function in (compiled, compiled):
        actual, expected = function(head, recon, target), call(head, recon, target)
        assert ((actual - expected).abs() <= 64 * 2.0**-24 * expected.abs()).all()
        pairs = zip(torch.autograd.grad(actual.sum(), leaves), torch.autograd.grad(expected.sum(), leaves), strict=True)
        for a, e in pairs:
            assert ((a - e).abs() <= 64 * 2.0**-24 * (1 + e.abs())).all()


def test_another_device_than_the_current_one(compiled_backend):
    if torch.cuda.device_count() < 2:
        pytest.skip("there is one GPU only")
    mu, logvar = torch.randn(SHAPE, device="cuda:1"), torch.randn(SHAPE, device="cuda:1")
    kl = ops.gaussian_kl(mu, logvar, backend=compiled_backend)
    assert kl.device == mu.device
    # Terms of at most 12 u and a sum of 1027 of one sign.
    assert ((kl - gaussian_kl(mu.double(), logvar.double())).abs() <= (64 + 1027) * 2.0**-24 * kl).all()
