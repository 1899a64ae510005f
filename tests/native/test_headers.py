"""Compile the formulas that CPU and CUDA share as device code, in float and double, and each header alone."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

CSRC = Path(__file__).resolve().parents[2] / "csrc"
HEADERS = [
    "arguments.h", "chamfer.h", "exp_elbo.h", "gaussian.h", "philox.h", "reconstruction.h", "scalar_math.h",
    "styled_norm.h",
]  # fmt: skip

# Each kernel reads and writes memory, so that nothing is optimized away before it is compiled.
KERNELS = """
using namespace sivae;

template <class T>
__global__ void math(T* x) {
  T tail;
  x[1] = exp_(x[1]) + log_(x[2]) + log1p_(x[3]) + sqrt_(x[4]) + abs_(x[5]) + exp_and_tail(x[0], tail) + tail;
  x[2] = log_of_normal(x[2]) + log1p_of_unit(x[3]);
}

__global__ void words(uint32_t* c) {
  uint32_t words[4];
  philox4x32_10(c[0], c[1], c[2], c[3], c[4], c[5], words);
  for (int i = 0; i < 4; ++i) c[i] = words[i];
}

template <class T>
__global__ void normals(const uint32_t* c, T* x) {
  box_muller(c[0], c[1], x[0], x[1]);
  x[2] = uniform_of<T>(c[2]);
}

template <class T>
__global__ void latents(T* x, Prior<T> prior) {
  const T std = std_of(x[1]);
  x[2] = expm1_minus_x(x[0], x[1]) + expm1_given_exp(x[0], x[1]);
  x[3] = variance_ratio(std, prior) + kl_term(x[0], x[1], std, prior);
  x[4] = kl_grad_mu(x[0], prior) + kl_grad_logvar(x[1], std, prior);
}

template <class T, Kind kind>
__global__ void errors(T* x) {
  x[2] = rec_term<kind>(x[0], x[1]);
  x[3] = rec_grad_recon<kind>(x[0], x[1]);
  x[4] = rec_grad_target<kind>(x[0], x[1]) + floored_log(x[5]);
}

template <class T>
__global__ void exponentials(T* x, ExpElbo p) {
  const double t = exponent(x[0], x[1], p);
  x[2] = soft_exp<T>(t, p);
  x[3] = soft_exp_slope<T>(t, p);
}

template <class T>
__global__ void styles(T* x) {
  const T v = before_leaky(x[0], x[1], x[2], x[3]), inverse = inverse_std(x[4], x[5]);
  const PlaneGradient<T> by = plane_gradient(x[4], inverse, x[6], x[7], x[8], x[9], x[10], x[11]);
  x[0] = leaky_backward(by.by_grad * x[12] + by.constant + by.by_deviation * leaky(v, x[13]), v, x[13]);
}

template <class T>
__global__ void distances(T* x) {
  x[0] = is_nearer(x[0], x[1]) ? x[0] : x[1];
}

template <class T>
void instantiate(T* x, uint32_t* c) {
  math<T><<<1, 1>>>(x);
  words<<<1, 1>>>(c);
  normals<T><<<1, 1>>>(c, x);
  latents<T><<<1, 1>>>(x, Prior<T>{});
  errors<T, Kind::kMse><<<1, 1>>>(x);
  errors<T, Kind::kL1><<<1, 1>>>(x);
  errors<T, Kind::kBce><<<1, 1>>>(x);
  errors<T, Kind::kBceWithLogits><<<1, 1>>>(x);
  exponentials<T><<<1, 1>>>(x, ExpElbo{});
  styles<T><<<1, 1>>>(x);
  distances<T><<<1, 1>>>(x);
}

template void instantiate<float>(float*, uint32_t*);
template void instantiate<double>(double*, uint32_t*);
"""


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc is found to compile device code with")
@pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])
def test_shared_headers_compile_for_the_device(tmp_path, architecture):
    source = tmp_path / "formulas.cu"
    source.write_text("\n".join(f'#include "{header}"' for header in HEADERS) + KERNELS)
    cubin = tmp_path / "formulas.cubin"
    done = subprocess.run(
        ["nvcc", "-std=c++20", f"-arch={architecture}", "-cubin", f"-I{CSRC}", "-o", str(cubin), str(source)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    code = cubin.read_bytes()
    for name in (b"math", b"words", b"normals", b"latents", b"errors", b"exponentials", b"styles", b"distances"):
        assert name in code


@pytest.mark.parametrize("header", HEADERS)
def test_each_header_stands_alone(tmp_path, header):
    """It includes everything that it uses."""
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler is found")
    source = tmp_path / "alone.cpp"
    source.write_text(f'#include "{header}"\nint main() {{ return 0; }}\n')
    command = [
        compiler,
        "-std=c++20",
        "-fsyntax-only",
        "-Wall",
        "-Wextra",
        "-Wno-unused-function",
        f"-I{CSRC}",
        str(source),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr, done.stderr
