"""Ops in exported programs take batches of any size."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from sivae import ops

NOISE = ops.PhiloxNoise(seed=3, offset=0)
CALLS: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], tuple[int, ...]]] = {
    "reparameterize, 2 wide": (lambda mu, logvar: ops.reparameterize(mu, logvar, noise=NOISE), (2,)),
    "reparameterize, 3 wide": (lambda mu, logvar: ops.reparameterize(mu, logvar, noise=NOISE), (3,)),
    "reparameterize_kl": (lambda mu, logvar: ops.reparameterize_kl(mu, logvar, noise=NOISE)[0], (6,)),
    "log_exp_elbo": (lambda rec, kl: ops.log_exp_elbo(rec, kl, scale=0.1), ()),
    "exp_elbo": (lambda rec, kl: ops.exp_elbo(rec, kl, scale=0.1), ()),
    "chamfer_distance": (lambda points, targets: ops.chamfer_distance(points, targets), (5, 3)),
    "mixture_log_prob": (lambda z, mu: ops.mixture_log_prob(z, torch.ones_like(mu[:, 0]), mu, mu), (3,)),
    "group_norm_silu": (lambda x, w: ops.group_norm_silu(x, 2, w[0, :, 0, 0], activation="leaky_relu"), (4, 3, 3)),
    "reconstruction_error": (lambda recon, target: ops.reconstruction_error(recon, target), (3, 4, 4)),
}


class _Module(nn.Module):
    def __init__(self, call: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.call = call

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return self.call(first, second)


@pytest.mark.parametrize("name", CALLS)
def test_an_exported_op_equals_the_op_at_other_batch_sizes(name: str) -> None:
    call, shape = CALLS[name]
    batch = {0: torch.export.Dim("batch")}
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, 4, *shape, generator=generator)
    program = torch.export.export(_Module(call), (first, second), dynamic_shapes=(batch, batch)).module()
    for rows in (1, 7, 300):
        first, second = torch.randn(2, rows, *shape, generator=generator)
        # The same numbers in another order of some roundings.
        assert torch.allclose(program(first, second), call(first, second), rtol=1e-5, atol=1e-6)


def test_a_forward_derivative_keeps_the_dtype() -> None:
    x = torch.ones(3)
    value, derivative = torch.func.jvp(lambda rec: ops.log_exp_elbo(rec, torch.ones(3), scale=0.1), (x,), (x,))
    assert (value.dtype, derivative.dtype) == (torch.float32, torch.float32)
