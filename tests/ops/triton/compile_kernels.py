"""Compile the Triton kernels for a GPU that need not be present; print a line of JSON for each kernel.

The ops are called with CPU tensors; every launch compiles its kernel with the launch's specialization and runs nothing.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import sys
from typing import Any

import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

import sivae.ops.triton  # noqa: F401 (registers torch.ops.sivae_triton)


class Absent:
    """The part of Triton's driver that compiling needs."""

    def __init__(self, arch: int) -> None:
        self.target = GPUTarget("cuda", arch, 32)

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int | None = None) -> int:
        return 0


def compile_calls(dtype: torch.dtype) -> None:
    """Every family with aligned rows, then with rows that no wide access fits: views, odd lengths, two dimensions."""
    ops = torch.ops.sivae_triton
    sums = torch.float64 if dtype == torch.float64 else torch.float32
    seed, grad = torch.tensor([5]), torch.rand(64, dtype=sums)
    a, b = (torch.rand(64, 1024).to(dtype) for _ in range(2))
    ops.reparameterize(a, b, seed, 3)
    ops.reparameterize_kl(a, b, seed, 3, 0.0, 0.0)
    ops.latent_backward(a, grad, a, b, seed, 3, 0.0, 0.0, 0, True, True, False)
    ops.philox_normal(seed, 3, [4096], dtype)
    for kind in range(4):
        ops.reconstruction_error(a, b, kind, 0)
        ops.reconstruction_error_backward(grad, a, b, kind, 0, True, True)
    rec, kl = torch.rand(2, 64).to(dtype)
    ops.exp_elbo(rec, kl, 1.0, 1.0, 1.0, 2.0, 1)
    ops.exp_elbo_backward(grad[0], rec, kl, 1.0, 1.0, 1.0, 2.0, 1, True, True)
    for dims in (2, 3):
        points, targets = (torch.empty(2, count, dims, dtype=dtype) for count in (2048, 1000))
        distance, *nearest = ops.chamfer_distance(points, targets, 0)
        ops.chamfer_distance_backward(distance, points, targets, *nearest, 0, True, True)
    points, (mu, logvar) = torch.rand(2000, 128).to(dtype), torch.rand(2, 100, 128).to(dtype)
    mixture = points, torch.rand(100).to(dtype), mu, logvar
    log_prob, densities = ops.mixture_log_prob(*mixture)
    ops.mixture_log_prob_backward(log_prob, *mixture, log_prob, densities, True, True, True, True)
    for memory in (torch.contiguous_format, torch.channels_last):
        group_norms(torch.empty(2, 128, 32, 32, dtype=dtype).to(memory_format=memory))
        for size in (32, 256):  # a plane that one program holds, and one that it does not
            styled_norms(torch.empty(1, 64, size, size, dtype=dtype).to(memory_format=memory), dtype)
    styled_norms(torch.empty(2, 3, 9, 14, dtype=dtype)[..., 1:], torch.float32)
    if dtype == torch.float32:
        c, d = torch.rand(64, 66).chunk(2, dim=1)
        ops.reparameterize_kl(c, d, seed, 3, 0.5, 0.0)
        ops.latent_backward(c, grad[0], c, d, c, 0, 0.5, 0.0, 1, True, True, True)
        ops.latent_backward(None, grad[0], c, d, None, 0, 0.5, 0.0, 1, True, True, False)
        image = torch.rand(2, 3, 16, 16).to(memory_format=torch.channels_last)
        ops.reparameterize_kl(image, image.contiguous(), seed, 3, 0.0, 0.0)
        ops.gaussian_kl(a, b, 0.0, 0.0, 1)
        ops.exp_elbo(rec, kl, 1.0, 1.0, 1.0, 2.0, 0)
        # Long rows, of which a program takes several tiles; their memory is never accessed.
        image = torch.empty(4, 3, 1024, 1024)
        for kind in range(4):
            ops.reconstruction_error(image, image, kind, 1)
        row = torch.empty(1, 2**24)
        ops.reparameterize_kl(row, row, seed, 3, 0.0, 0.0)
        # Offsets within a row that need 64 bits.
        far = torch.empty(1).expand(1, 2**31)
        ops.reconstruction_error(far, far, 2, 0)
        ops.gaussian_kl(far, far, 0.0, 0.0, 0)


def styled_norms(x: torch.Tensor, parameters: torch.dtype) -> None:
    """Forward and backward with all operands."""
    ops = torch.ops.sivae_triton
    batch, channels, height, width = x.shape
    noise = torch.empty(batch, 1, height, width, dtype=parameters)
    weight, bias = torch.empty(2, channels, dtype=parameters)
    scale, shift = torch.empty(batch, 2 * channels, dtype=parameters).chunk(2, dim=1)
    y, mean, std = ops.styled_instance_norm(x, noise, weight, bias, scale, shift, 0.2, 1e-8)
    ops.styled_instance_norm_backward(
        y, mean, std, x, noise, weight, bias, scale, mean, std, 0.2, 1e-8, True, True, True, True, True
    )


def group_norms(x: torch.Tensor) -> None:
    """Forward and backward with each activation."""
    ops = torch.ops.sivae_triton
    weight, bias = torch.empty(2, x.shape[1])
    for activation in (1, 2):
        y, mean, inverse_std = ops.group_norm_silu(x, weight, bias, 32, activation, 0.2, 1e-5)
        ops.group_norm_silu_backward(y, x, weight, bias, mean, inverse_std, 32, activation, 0.2, True, True, True)


def report(kernel: Any, name: str, log: str, dtype: str) -> dict[str, Any]:
    """What the assembler's log and the PTX say of one kernel."""
    ptx = kernel.asm["ptx"]
    spills = re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", log)
    registers = re.search(r"Used (\d+) registers", log)
    assert spills is not None, log
    assert registers is not None, log
    return {
        "kernel": name,
        "dtype": dtype,
        "registers": int(registers[1]),
        "stack and spills": [int(number) for number in spills.groups()],
        "local memory": ".local" in ptx,
        "atomics": bool(re.search(r"\b(atom|red)\.", ptx)),
        "inexact": sorted(set(re.findall(r"\b\S*\.(?:approx|full|ftz)\S*", ptx))),
        "accesses": sorted(set(re.findall(r"\b(?:ld|st)\.global\S*", ptx))),
    }


def main() -> None:
    arch, *names = sys.argv[1:]
    driver.set_active(Absent(int(arch)))
    os.environ["TRITON_DUMP_PTXAS_LOG"] = "1"  # Triton prints what the assembler says of a kernel that it compiles
    logs: dict[str, str] = {}  # by the kernel's hash; two dtypes may share a kernel, which is compiled once
    for name in names:
        compiled: dict[str, tuple[Any, str]] = {}

        def compile_only(self: JITFunction, grid: Any, compiled: dict[str, tuple[Any, str]] = compiled) -> Any:
            def launch(*args: Any, **constants: Any) -> None:
                with contextlib.redirect_stdout(io.StringIO()) as log:
                    kernel = self.run(*args, grid=grid, warmup=True, **constants)
                logs.setdefault(kernel.hash, log.getvalue())
                compiled[kernel.hash] = (kernel, self.fn.__name__)

            return launch

        JITFunction.__getitem__ = compile_only
        compile_calls(getattr(torch, name))
        for key, (kernel, kernel_name) in compiled.items():
            print(json.dumps(report(kernel, kernel_name, logs[key], name)))


if __name__ == "__main__":
    main()
