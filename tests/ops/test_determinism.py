"""Test that the same inputs give the same bits in every run and on any number of threads, and every instruction set."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sivae import ops

NOISE = ops.PhiloxNoise(2**40 + 5, 9)

# Sizes around the pieces of a row (1024 latents, 8192 pixels), short rows that share a piece, and enough work for
# several threads.
LATENT_SHAPES = [(1, 1023), (1, 1024), (1, 1025), (3, 1025), (700, 3), (513, 7), (33, 2049), (200, 512), (5, 8191)]
IMAGE_SHAPES = [(1, 8191), (1, 8192), (1, 8193), (3, 8193), (9000, 5), (7, 3, 64, 64), (2, 40_000), (17, 12_345)]
BATCHES = [1, 16_383, 16_384, 16_385, 100_000]


def latents(shape: tuple[int, ...], dtype: torch.dtype, backend: str) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    mu, logvar = (torch.randn(shape, generator=generator).to(dtype).requires_grad_() for _ in range(2))
    grad = torch.randn(shape, generator=generator).to(dtype)
    z, kl = ops.reparameterize_kl(mu, logvar, noise=NOISE, backend=backend)
    alone = ops.reparameterize(mu, logvar, noise=NOISE, backend=backend)
    reduced = [ops.gaussian_kl(mu, logvar, reduction=r, backend=backend) for r in ("mean", "sum")]
    through_both = torch.autograd.grad((z, kl), (mu, logvar), (grad, torch.randn(shape[0], generator=generator)))
    through_kl = torch.autograd.grad(reduced[0], (mu, logvar))
    return [z.detach(), kl.detach(), alone.detach(), *(r.detach() for r in reduced), *through_both, *through_kl]


def images(shape: tuple[int, ...], dtype: torch.dtype, kind: str, backend: str) -> list[Tensor]:
    generator = torch.Generator().manual_seed(2)
    recon, target = (torch.rand(shape, generator=generator).to(dtype).requires_grad_() for _ in range(2))
    outputs = [
        ops.reconstruction_error(recon, target, kind=kind, reduction=r, backend=backend)
        for r in ("none", "mean", "sum")
    ]
    gradients = torch.autograd.grad(outputs[0], (recon, target), torch.randn(shape[0], generator=generator))
    return [*(output.detach() for output in outputs), *gradients]


def exponentials(batch: int, backend: str) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    rec, kl = (torch.rand(batch, generator=generator).requires_grad_() for _ in range(2))
    outputs = [ops.exp_elbo(rec, kl, scale=1.0, reduction=r, backend=backend) for r in ("none", "mean", "sum")]
    gradients = torch.autograd.grad(outputs[1], (rec, kl))
    return [*(output.detach() for output in outputs), *gradients]


def assert_same_bits(first: list[Tensor], second: list[Tensor]) -> None:
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b)


class TestRepeats:
    def test_latents(self, backend):
        assert_same_bits(latents((33, 2049), torch.float32, backend), latents((33, 2049), torch.float32, backend))

    def test_images(self, backend):
        assert_same_bits(
            images((7, 3, 64, 64), torch.float32, "mse", backend), images((7, 3, 64, 64), torch.float32, "mse", backend)
        )

    def test_exponentials(self, backend):
        assert_same_bits(exponentials(100_000, backend), exponentials(100_000, backend))


@pytest.mark.usefixtures("restore_threads")
class TestThreads:
    """The compiled backends cut the work depending only on its shape."""

    @pytest.mark.parametrize("shape", LATENT_SHAPES, ids=str)
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
    def test_latents(self, compiled_backend, shape, dtype):
        torch.set_num_threads(1)
        alone = latents(shape, dtype, compiled_backend)
        for threads in (2, 3, 4):
            torch.set_num_threads(threads)
            assert_same_bits(latents(shape, dtype, compiled_backend), alone)

    @pytest.mark.parametrize("shape", IMAGE_SHAPES, ids=str)
    @pytest.mark.parametrize("kind", ["mse", "bce"])
    def test_images(self, compiled_backend, shape, kind):
        torch.set_num_threads(1)
        alone = images(shape, torch.float32, kind, compiled_backend)
        for threads in (2, 3, 4):
            torch.set_num_threads(threads)
            assert_same_bits(images(shape, torch.float32, kind, compiled_backend), alone)

    @pytest.mark.parametrize("batch", BATCHES)
    def test_exponentials(self, compiled_backend, batch):
        torch.set_num_threads(1)
        alone = exponentials(batch, compiled_backend)
        for threads in (2, 3, 4):
            torch.set_num_threads(threads)
            assert_same_bits(exponentials(batch, compiled_backend), alone)

    def test_philox_normal(self, compiled_backend):
        torch.set_num_threads(1)
        alone = ops.philox_normal(3, (100_003,), backend=compiled_backend)
        for threads in (2, 3, 4):
            torch.set_num_threads(threads)
            assert torch.equal(ops.philox_normal(3, (100_003,), backend=compiled_backend), alone)


# A short list of bounds derived in test_parity.py: sums of n terms of one sign, 2 (n + 64) u.
CHECK_AN_ISA = """
import sys
import torch
from sivae import _C, ops

assert _C.cpu_isa() == sys.argv[1], _C.cpu_isa()
torch.manual_seed(0)
u = 2.0**-24


def check(what, native, reference, bound):
    worst = ((native.double() - reference.double()).abs() - bound).max()
    assert worst <= 0, f"{what}: {worst} beyond the bound"


for shape in [(5, 37), (2, 1025), (700, 3)]:
    mu, logvar = torch.randn(shape), 3 * torch.randn(shape)
    results = []
    for backend in ("native", "reference"):
        m, v = mu.clone().requires_grad_(), logvar.clone().requires_grad_()
        z, kl = ops.reparameterize_kl(m, v, noise=ops.PhiloxNoise(2**33 + 1, 5), backend=backend)
        grads = torch.autograd.grad((z, kl), (m, v), (torch.ones(shape), torch.ones(shape[0])))
        results.append((z.detach(), kl.detach(), *grads))
    native, reference = results
    spread = (reference[0] - mu).abs().double()
    std, variance = (logvar.double() / 2).exp(), logvar.double().exp()
    check("z", native[0], reference[0], 2 * (4e-7 * (mu.abs() + spread) + 1e-6 * std))
    check("kl", native[1], reference[1], 2 * (shape[1] + 64) * u * reference[1].double())
    check("gradient of mu", native[2], reference[2], 16 * u * (1 + mu.abs()))
    check("gradient of logvar", native[3], reference[3], 2 * (1e-6 * std + 8 * u * spread + 32 * u * (1 + variance)))
    for dtype in (torch.bfloat16, torch.float16):
        half = [ops.gaussian_kl(mu.to(dtype), logvar.to(dtype), backend=b) for b in ("native", "reference")]
        check(f"{dtype} kl", *half, 2 * (shape[1] + 64) * u * half[1].double())

for kind in ("mse", "l1", "bce", "bce_with_logits"):
    for shape in [(5, 37), (2, 8193), (700, 3)]:
        recon, target = torch.rand(shape), torch.rand(shape)
        if kind == "bce_with_logits":
            recon = 8 * torch.randn(shape)
        pair = []
        for backend in ("native", "reference"):
            r = recon.clone().requires_grad_()
            rec = ops.reconstruction_error(r, target, kind=kind, backend=backend)
            pair.append((rec.detach(), *torch.autograd.grad(rec.sum(), r)))
        native, reference = pair
        absolute = 4 * u * recon.abs().sum(1) * 2 if kind == "bce_with_logits" else 0.0
        check(kind, native[0], reference[0], 2 * (shape[1] + 64) * u * reference[0].double() + absolute)
        check(f"{kind} gradient", native[1], reference[1], 32 * u * (1 + reference[1].abs()))
        for dtype in (torch.bfloat16, torch.float16):  # widened values, so a float32 call has the same results
            r = recon.to(dtype).requires_grad_()
            half = ops.reconstruction_error(r, target.to(dtype), kind=kind, backend="native")
            wide = r.detach().float().requires_grad_()
            full = ops.reconstruction_error(wide, target.to(dtype).float(), kind=kind, backend="native")
            assert torch.equal(half, full), (kind, dtype)
            grads = torch.autograd.grad(half.sum(), r)[0], torch.autograd.grad(full.sum(), wide)[0]
            assert torch.equal(grads[0], grads[1].to(dtype)), (kind, dtype, "gradient")

rec, kl = 50 * torch.rand(999), torch.rand(999)
native, reference = (ops.exp_elbo(rec, kl, scale=1.0, reduction="none", backend=b) for b in ("native", "reference"))
check("exp_elbo", native, reference, 2 * (3 * 102 + 16) * u * reference.double() + 1e-44)
normals = [ops.philox_normal(2**62 + 3, (5001,), offset=2**40, backend=b) for b in ("native", "reference")]
check("philox_normal", *normals, 1e-6)

# Twice 3e-6 of the largest values, here below 8: sums of 600 terms in lanes; see styled_norm_parity.py.
for fmt in (torch.contiguous_format, torch.channels_last):
    for shape in [(2, 19, 4, 4), (2, 19, 24, 25)]:
        x = torch.randn(shape).to(memory_format=fmt)
        x = x + 0.1 * x.sign()  # clear of the kink
        style, noise, pair = torch.randn(2, 38), 0.01 * torch.rand(2, 1, *shape[2:]), []
        for backend in ("native", "reference"):
            v = x.clone(memory_format=torch.preserve_format).requires_grad_()
            w, b = (torch.full((19,), 0.01, requires_grad=True) for _ in range(2))
            a, s = (part.detach().requires_grad_() for part in style.chunk(2, 1))
            out = ops.styled_instance_norm(
                v, noise=noise, noise_weight=w, bias=b, scale=a, shift=s, statistics=True, backend=backend
            )
            grads = torch.autograd.grad(out, (v, w, b, a, s), (x.cos(), out[1].cos(), out[2].cos()))
            pair.append([*(o.detach() for o in out), *grads])
        for name, native, reference in zip(("y", "mean", "std", "x", "weight", "bias", "scale", "shift"), *pair):
            # The gradient of a channel is the sum over its pixels, whose terms cancel.
            size = 1200 if name in ("weight", "bias") else 64 if name in ("scale", "shift") else 8
            check(f"styled_instance_norm {name}", native, reference, 2 * 3e-6 * size)

# Sums of least distances, each with at most (D + 2) u, and two roundings more. Gradients in float64, then rounded.
for shape in [(2, 70, 150, 3), (1, 300, 40, 2), (1, 20, 30, 5)]:
    batch, count, others, dims = shape
    points, targets, pair = torch.randn(batch, count, dims), torch.randn(batch, others, dims), []
    for backend in ("native", "reference"):
        p, t = points.clone().requires_grad_(), targets.clone().requires_grad_()
        distance = ops.chamfer_distance(p, t, backend=backend)
        pair.append((distance.detach(), *torch.autograd.grad(distance.sum(), (p, t))))
    native, reference = pair
    check("chamfer_distance", native[0], reference[0], 2 * (dims + 4) * u * reference[0].double())
    for name, native, reference in zip(("points", "targets"), native[1:], reference[1:]):
        check(f"chamfer_distance {name}", native, reference, 1e-5 * (1 + reference.abs()))

# The bound of the docstring, of both, with the largest normalised value below 6; gradients are of its order.
for layout in (torch.contiguous_format, torch.channels_last):
    x = torch.randn(2, 24, 9, 13).contiguous(memory_format=layout)
    weight, bias, grad_y, pair = torch.randn(24), torch.randn(24), torch.randn(x.shape), []
    for backend in ("native", "reference"):
        leaves = [t.clone().requires_grad_() for t in (x, weight, bias)]
        y = ops.group_norm_silu(leaves[0], 3, *leaves[1:], backend=backend)
        pair.append((y.detach(), *torch.autograd.grad(y, leaves, grad_y)))
    for name, native, reference in zip(("y", "x", "weight", "bias"), *pair):
        size = grad_y.abs().sum((0, 2, 3)) if name in ("weight", "bias") else torch.tensor(4.0)
        check(f"group_norm_silu {name}", native, reference, 2 * 7 * 80 * u * size.double().expand_as(reference))
print("right")
"""


def run_with_isa(isa: str, program: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"SIVAE_CPU_ISA": isa, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-c", program, isa], env=environment, capture_output=True, text=True, timeout=300, check=False
    )


def cpu_has(isa: str) -> bool:
    needed = {"baseline": set(), "avx2": {"avx2", "fma"}, "avx512": {"avx512f", "avx512bw", "avx512dq", "avx512vl"}}
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    flags = next((line.split(":")[1].split() for line in lines if line.startswith("flags")), [])
    return needed[isa] <= set(flags)


@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
def test_every_instruction_set_agrees_with_the_reference(isa):
    if "native" not in ops.available_backends():
        pytest.skip(f"no native backend: {ops.backend_status()['native']['cpu']}")
    if not cpu_has(isa):
        pytest.skip(f"this processor has no {isa}")
    done = run_with_isa(isa, CHECK_AN_ISA)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["right"]


def test_an_unknown_instruction_set_is_an_error():
    if "native" not in ops.available_backends():
        pytest.skip(f"no native backend: {ops.backend_status()['native']['cpu']}")
    program = (
        "import torch\nfrom sivae import ops\n"
        "try:\n    ops.gaussian_kl(torch.zeros(2, 3), torch.zeros(2, 3), backend='native')\n"
        "except RuntimeError as error:\n    print(error)\n"
    )
    done = run_with_isa("sse9", program)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == (
        "SIVAE_CPU_ISA is 'sse9', expected baseline, or avx2 or avx512 on a processor that has them"
    )
