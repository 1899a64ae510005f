"""Tensors of more than 2^31 elements: positions beyond what 32 bits hold, in bfloat16 so that they fit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sivae import ops

pytestmark = pytest.mark.gpu

COUNT = 2**31 + 2**20  # elements
TAIL = 2**20  # at the end, beyond 2^31
NOISE = ops.PhiloxNoise(2**50 + 3, 4)


@pytest.fixture(autouse=True)
def enough_memory(on_the_gpu: None) -> None:
    """At most two inputs, a gradient and a result at a time, and as much again for what else is there."""
    needed = 6 * 2 * COUNT
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info()
    if free < needed:
        pytest.skip(f"{free >> 30} GiB of GPU memory are free, {needed >> 30} are needed")


def large(*shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.bfloat16).uniform_(0.1, 0.9)


@pytest.mark.parametrize(
    "shape", [(1, COUNT), (2, COUNT // 2), (COUNT // 1024, 1024)], ids=["one row", "long rows", "many rows"]
)
def test_images(compiled_backend, shape):
    """The last samples, and a gradient at the very end, are those of the same samples alone."""
    recon, target = large(*shape).requires_grad_(), large(*shape)
    rec = ops.reconstruction_error(recon, target, backend=compiled_backend)
    (gradient,) = torch.autograd.grad(rec, recon, torch.ones_like(rec))
    tail = recon.detach()[-1].flatten()[-1024:].double() - target[-1].flatten()[-1024:].double()
    # One product with 2, two roundings to float32, one to bfloat16 (2^-9).
    assert ((gradient[-1].flatten()[-1024:].double() - 2 * tail).abs() <= 2.0**-8 * (2 * tail).abs() + 1e-6).all()
    parts = zip(recon.detach()[-1].split(2**24), target[-1].split(2**24), strict=True)
    exact = torch.stack([(r.double() - t.double()).square().sum() for r, t in parts]).sum()
    # The stated bound of the sum: (16 + 1024 / 4) u.
    assert (rec[-1].double() - exact).abs() <= 272 * 2.0**-24 * exact


def test_latents(compiled_backend):
    """Normals at the end are those of their index: the counter's high word is in use there."""
    mu = torch.zeros(COUNT // 1024, 1024, dtype=torch.bfloat16)
    z, kl = ops.reparameterize_kl(mu, mu, noise=NOISE, backend=compiled_backend)
    assert not kl.any()
    assert z[-1].isfinite().all()
    alone = ops.philox_normal(
        NOISE.seed, (COUNT,), offset=NOISE.offset, device=mu.device, dtype=torch.bfloat16, backend=compiled_backend
    )
    assert torch.equal(z.flatten()[-TAIL:], alone[-TAIL:])
    # The stream does not begin again where 32 bits end.
    assert not torch.equal(alone[2**31 : 2**31 + 1024], alone[:1024])


def test_gradients_of_latents(compiled_backend):
    """At mu = 0 and logvar = 0 z is the noise, and its gradient by logvar half of it."""
    mu = torch.zeros(COUNT // 1024, 1024, dtype=torch.bfloat16)
    logvar = torch.zeros_like(mu).requires_grad_()
    z = ops.reparameterize(mu, logvar, noise=NOISE, backend=compiled_backend)
    (gradient,) = torch.autograd.grad(z, logvar, torch.ones_like(z))
    # Halving is exact, so both are the same normal rounded once.
    assert torch.equal(gradient.flatten()[-TAIL:], z.detach().flatten()[-TAIL:] / 2)
