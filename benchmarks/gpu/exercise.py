"""Run every op of a backend forward and backward on small tensors, for compute-sanitizer or a profiler to watch.

`python -m benchmarks.gpu.exercise DEVICE BACKEND ...`. The shapes are odd, and each needs more than one block.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import torch
from torch import Tensor

from sivae import ops
from sivae.ops.library import KINDS, REDUCTIONS

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
LATENTS = ((5, 3), (3, 1027))
IMAGES = ((3, 3, 5, 7), (2, 3, 64, 65))
BATCHES = (1, 1031)
CLOUDS = ((3, 5, 7, 3), (2, 300, 1100, 2), (1, 130, 257, 4))  # B, N, M, D: one block, and several with several tiles
MIXTURES = ((1, 1, 1), (300, 37, 130), (5000, 10, 3))  # N, K, L
GROUPED = ((3, 6, 5, 7), (1, 300, 33, 65))
STYLED = ((3, 5, 7, 9), (1, 8, 128, 132))  # a plane in one segment, and in several


def exercise(backend: str, device: torch.device) -> int:
    """Run the ops on a backend, in every dtype.

    Returns:
        The number of calls; a forward with its backward counts as two.
    """
    with torch.device(device):
        calls = _latents(backend) + _images(backend) + _exponentials(backend)
        calls += _styled(backend) + _clouds(backend) + _mixtures(backend) + _group_norms(backend)
    for dtype in DTYPES:
        ops.philox_normal(3, (1027,), device=device, dtype=dtype, backend=backend)
    return calls + len(DTYPES)


def _backward(*outputs: Tensor, inputs: Sequence[Tensor]) -> int:
    upstream = [torch.ones_like(output) for output in outputs]
    gradients = torch.autograd.grad(outputs, inputs, upstream)
    assert all(gradient.isfinite().all() for gradient in gradients)
    return 2


def _latents(backend: str) -> int:
    calls = 0
    for dtype in DTYPES:
        for shape in LATENTS:
            head = torch.randn(shape[0], 2 * shape[1]).to(dtype).requires_grad_()
            mu, logvar = head.chunk(2, dim=1)  # strided
            z, kl = ops.reparameterize_kl(mu, logvar, backend=backend)
            calls += _backward(z, kl, inputs=[head])
            noise = torch.randn(shape).to(dtype).requires_grad_()
            calls += _backward(ops.reparameterize(mu, logvar, noise=noise, backend=backend), inputs=[head, noise])
            for reduction in REDUCTIONS:
                kl = ops.gaussian_kl(mu, logvar, prior_logvar=0.5, reduction=reduction, backend=backend)
                calls += _backward(kl, inputs=[head])
    return calls


def _images(backend: str) -> int:
    calls = 0
    for dtype in DTYPES:
        for shape in IMAGES:
            for kind in KINDS:
                recon, target = (
                    (0.1 + 0.8 * torch.rand(shape)).to(dtype).to(memory_format=layout).requires_grad_()
                    for layout in (torch.contiguous_format, torch.channels_last)
                )
                for reduction in REDUCTIONS:
                    rec = ops.reconstruction_error(recon, target, kind=kind, reduction=reduction, backend=backend)
                    calls += _backward(rec, inputs=[recon, target])
    return calls


def _exponentials(backend: str) -> int:
    calls = 0
    for batch in BATCHES:
        for reduction in REDUCTIONS:
            rec, kl = (torch.rand(batch).requires_grad_() for _ in range(2))
            loss = ops.exp_elbo(rec, kl, scale=0.5, reduction=reduction, backend=backend)
            calls += _backward(loss, inputs=[rec, kl])
    return calls


def _styled(backend: str) -> int:
    calls = 0
    for dtype in DTYPES:
        for batch, channels, *plane in STYLED:
            noise = torch.randn(batch, 1, *plane).to(dtype)
            noise_weight, bias = (torch.randn(channels).to(dtype).requires_grad_() for _ in range(2))
            scale, shift = (torch.randn(batch, channels).to(dtype).requires_grad_() for _ in range(2))
            for layout in (torch.contiguous_format, torch.channels_last):
                x = torch.randn(batch, channels, *plane).to(dtype).to(memory_format=layout).requires_grad_()
                y, mean, std = ops.styled_instance_norm(
                    x,
                    noise=noise,
                    noise_weight=noise_weight,
                    bias=bias,
                    scale=scale,
                    shift=shift,
                    statistics=True,
                    backend=backend,
                )
                calls += _backward(y, mean, std, inputs=[x, noise_weight, bias, scale, shift])
    return calls


def _clouds(backend: str) -> int:
    calls = 0
    for dtype in DTYPES:
        for batch, count, others, dims in CLOUDS:
            points, targets = (torch.randn(batch, size, dims).to(dtype).requires_grad_() for size in (count, others))
            for reduction in REDUCTIONS:
                distance = ops.chamfer_distance(points, targets, reduction=reduction, backend=backend)
                calls += _backward(distance, inputs=[points, targets])
    return calls


def _mixtures(backend: str) -> int:
    calls = 0
    for dtype in DTYPES:
        for rows, components, dims in MIXTURES:
            z, mu, logvar = (torch.randn(n, dims).to(dtype) for n in (rows, components, components))
            inputs = [x.requires_grad_() for x in (z, torch.rand(components).to(dtype), mu, logvar)]
            calls += _backward(ops.mixture_log_prob(*inputs, backend=backend), inputs=inputs)
    return calls


def _group_norms(backend: str) -> int:
    calls = 0
    for dtype in DTYPES:
        for shape in GROUPED:
            weight, bias = (torch.randn(shape[1]).to(dtype).requires_grad_() for _ in range(2))
            for layout in (torch.contiguous_format, torch.channels_last):
                x = torch.randn(shape).to(dtype).to(memory_format=layout).requires_grad_()
                y = ops.group_norm_silu(x, 3, weight, bias, backend=backend)
                calls += _backward(y, inputs=[x, weight, bias])
    return calls


def main(arguments: Sequence[str]) -> None:
    """Run the backends that are named after the device."""
    device = torch.device(arguments[0])
    for backend in arguments[1:]:
        print(f"{backend}: {exercise(backend, device)} calls")
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    main(sys.argv[1:])
