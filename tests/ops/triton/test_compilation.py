"""Compile every Triton kernel for NVIDIA GPUs without one: a compiler may refuse code that the interpreter runs."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

FAMILIES = {
    "latent_forward_kernel", "latent_backward_kernel", "reconstruction_forward_kernel",
    "reconstruction_backward_kernel", "exp_elbo_forward_kernel", "exp_elbo_backward_kernel", "normal_kernel",
    "styled_norm_whole_kernel", "styled_norm_statistics_kernel", "styled_norm_merge_kernel", "styled_norm_apply_kernel",
    "styled_norm_backward_whole_kernel", "styled_norm_backward_sums_kernel", "styled_norm_backward_apply_kernel",
    "sum_rows_kernel", "chamfer_forward_kernel", "chamfer_backward_kernel", "mixture_densities_kernel",
    "mixture_rows_kernel", "mixture_components_kernel", "group_norm_moments_kernel", "group_norm_apply_kernel",
    "group_norm_sums_kernel", "group_norm_gradients_kernel",
}  # fmt: skip
# libdevice's exp compares the high words of its argument as floats, without arithmetic; its logarithm and the division
# start from an approximate reciprocal that they refine to full precision.
HARMLESS_IN_FLOAT64 = {"abs.ftz.f32", "rcp.approx.ftz.f64"}


def reports(arch: int, dtypes: list[str], cache: Path) -> list[dict]:
    if importlib.util.find_spec("triton") is None:
        pytest.skip("triton is not installed")
    if importlib.util.find_spec("triton.backends.nvidia") is None:
        pytest.skip("this triton has no NVIDIA backend")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    program = Path(__file__).with_name("compile_kernels.py")
    root = program.parents[3]
    done = subprocess.run(
        [sys.executable, str(program), str(arch), *dtypes],
        env=environment | {"TRITON_CACHE_DIR": str(cache), "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize(
    ("arch", "dtypes"),
    [(90, ["float32", "bfloat16"]), pytest.param(80, ["float64", "float16"], marks=pytest.mark.slow)],
    ids=str,
)
def test_kernels_for_a_gpu(arch, dtypes, tmp_path):
    """They compile without spills, atomics and approximate instructions."""
    found = reports(arch, dtypes, tmp_path)
    for dtype in dtypes:
        assert {r["kernel"] for r in found if r["dtype"] == dtype} >= FAMILIES
    for r in found:
        assert r["stack and spills"] == [0, 0, 0], r
        assert not r["local memory"], r
        assert not r["atomics"], r
        assert set(r["inexact"]) <= (HARMLESS_IN_FLOAT64 if r["dtype"] == "float64" else set()), r
    # Aligned rows are read and written 16 bytes at a time.
    wide = {"ld.global.v2.b64", "st.global.v2.b64"}, {"ld.global.v4.b32", "st.global.v4.b32"}
    families = "latent_forward", "latent_backward", "reconstruction_backward", "styled_norm_whole", "styled_norm_apply"
    families += "styled_norm_backward_whole", "styled_norm_backward_apply"
    families += "group_norm_apply", "group_norm_gradients"
    for kernel in (f"{family}_kernel" for family in families):
        for dtype in dtypes:
            accesses = [set(r["accesses"]) for r in found if r["kernel"] == kernel and r["dtype"] == dtype]
            assert any(pair <= access for access in accesses for pair in wide), (kernel, dtype)
