"""Test results of many megabytes, whose memory is kept for the next results of their size."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from sivae import ops
from sivae.ops.noise import PhiloxNoise

pytestmark = pytest.mark.skipif("native" not in ops.available_backends(), reason="the native backend is not built")

SHAPE = (4, 3, 512, 512)  # 12 MiB in float32
NOISE = PhiloxNoise(7)


def gradient(recon: Tensor, target: Tensor) -> Tensor:
    recon = recon.detach().requires_grad_()
    rec = ops.reconstruction_error(recon, target, backend="native")
    return torch.autograd.grad(rec.sum(), recon)[0]


@pytest.fixture
def pair() -> tuple[Tensor, Tensor]:
    return torch.rand(SHAPE), torch.rand(SHAPE)


def test_freed_memory_serves_the_next_result(pair):
    first = gradient(*pair)
    address = first.data_ptr()
    del first
    assert gradient(*pair).data_ptr() == address


def test_results_in_use_share_nothing(pair):
    kept = [gradient(*pair), gradient(*pair)]
    before = [gradient.clone() for gradient in kept]
    gradient(pair[1], pair[0])
    assert kept[0].data_ptr() != kept[1].data_ptr()
    assert all(torch.equal(now, then) for now, then in zip(kept, before, strict=True))


def test_more_than_is_kept_is_given_back():
    """Three gradients of 96 MiB are freed, at most 256 MiB are kept, and another is allocated."""
    recon, target = (torch.rand(1, 3, 1024, 1024).expand(8, -1, -1, -1) for _ in range(2))
    alive = [gradient(recon, target) for _ in range(3)]
    assert len({each.data_ptr() for each in alive}) == 3
    del alive
    assert torch.equal(gradient(recon, target)[:1], gradient(recon[:1], target[:1]))


def test_strides_follow_the_input(pair):
    recon, target = (tensor.to(memory_format=torch.channels_last) for tensor in pair)
    assert gradient(recon, target).is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(gradient(recon, target), gradient(*pair))


def test_a_result_can_be_resized(pair):
    grad = gradient(*pair)
    before = grad.clone()
    grad.resize_(2 * SHAPE[0], *SHAPE[1:])
    assert torch.equal(grad[: SHAPE[0]], before)


def test_the_profiler_sees_it(pair):
    gradient(*pair)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        grad = gradient(*pair)
    taken = sum(event.self_cpu_memory_usage for event in seen.events())
    assert taken >= grad.nbytes


def test_latents_use_it_too():
    mu, logvar = torch.randn(2048, 1024), torch.randn(2048, 1024)  # 8 MiB
    z = ops.reparameterize(mu, logvar, noise=NOISE, backend="native")
    address, values = z.data_ptr(), z.clone()
    del z
    again = ops.reparameterize(mu, logvar, noise=NOISE, backend="native")
    assert again.data_ptr() == address
    assert torch.equal(again, values)


@pytest.mark.parametrize(("shape", "dtype"), [((4097, 513), torch.float32), ((4097, 1025), torch.bfloat16)])
def test_streamed_gradients_of_latents_do_not_depend_on_layout_or_threads(shape, dtype):
    """Past 8 MiB dense gradients are streamed, in many stretches; transposed ones are not. Rows of an odd length."""
    mu, logvar, eps, grad_z = (torch.randn(shape, dtype=dtype) for _ in range(4))
    grad_kl = torch.randn(shape[0])

    def gradients(noise: Tensor | PhiloxNoise, *, transposed: bool) -> list[Tensor]:
        leaves = [mu, logvar, *([noise] if isinstance(noise, Tensor) else [])]
        if transposed:
            leaves = [leaf.t().contiguous().t() for leaf in leaves]
        leaves = [leaf.detach().requires_grad_() for leaf in leaves]
        given = leaves[2] if isinstance(noise, Tensor) else noise
        outputs = ops.reparameterize_kl(*leaves[:2], noise=given, backend="native")
        return list(torch.autograd.grad(outputs, leaves, [grad_z, grad_kl]))

    before = torch.get_num_threads()
    for noise in (NOISE, eps):
        expected = gradients(noise, transposed=True)
        for threads in (1, 3):
            torch.set_num_threads(threads)
            try:
                found = gradients(noise, transposed=False)
            finally:
                torch.set_num_threads(before)
            assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_a_last_row_that_starts_inside_a_cache_line():
    """Streamed rows of an odd length start at different positions of a cache line."""
    recon, target = torch.rand(2, 1048577 + 2), torch.rand(2, 1048577 + 2)
    torch.testing.assert_close(gradient(recon, target), 2 * (recon - target), rtol=0, atol=0)
