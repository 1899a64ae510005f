"""Compile every CUDA source for the architectures that are shipped, and check registers, accesses and headers."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

CUDA = Path(__file__).resolve().parents[2] / "csrc" / "cuda"
SOURCES = sorted(CUDA.glob("*.cu"))
HEADERS = {
    "cuda_bf16.h", "cuda_fp16.h", "cuda_runtime.h",
    "algorithm", "cmath", "cstdint", "cstring", "initializer_list", "type_traits",
}  # fmt: skip


def nvcc(source: Path, *options: str | Path) -> subprocess.CompletedProcess[str]:
    command = ["nvcc", "-std=c++20", *map(str, options), str(source)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def included_by(path: Path) -> set[str]:
    return set(re.findall(r"#include <(.*?)>", path.read_text()))


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not installed")
@pytest.mark.parametrize("target", [pytest.param("sm_80", marks=pytest.mark.slow), "sm_90"])
@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_compiles_to_kernels_without_spills_that_access_16_bytes_at_a_time(source, target, tmp_path):
    options = ("-O3", f"-arch={target}", "-Xptxas=-v", "-cubin", "-o", tmp_path / "kernels.cubin")
    result = nvcc(source, *options, "-keep", "-keep-dir", tmp_path)  # the PTX, too
    assert result.returncode == 0, result.stderr
    spills = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", result.stderr)
    assert spills, result.stderr
    # A stack frame would be an array that the compiler could not keep in registers.
    assert set(spills) == {("0", "0", "0")}, result.stderr
    code = (tmp_path / f"{source.stem}.ptx").read_text()
    assert f".target {target}" in code
    kernels = re.findall(r"\.entry (\w+)\((.*?)^}", code, flags=re.DOTALL | re.MULTILINE)
    assert kernels
    for name, body in kernels:
        if "Dense" in name:
            # All that is stored element by element is one sum of a segment.
            assert len(re.findall(r"st\.global\.(?!v4)", body)) <= 1, name
            assert re.search(r"ld\.global\.v(4|2\.f64)", body), name
        if "Packed" in name:
            # Element by element: parameters, and for each channel of a pack two statistics or sums.
            assert re.search(r"ld\.global\.v(4|2\.f64)", body), name
            writes_images = "segment_kernel" not in name
            assert not writes_images or "st.global.v4" in body, name


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not installed")
@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_compiles_for_older_devices(source, tmp_path):
    """Without optimization, which takes most of the time and does not matter for what an older device can run."""
    result = nvcc(source, "-G", "-arch=compute_75", "-ptx", "-o", tmp_path / "kernels.ptx")
    assert result.returncode == 0, result.stderr
    code = (tmp_path / "kernels.ptx").read_text()
    assert ".target sm_75" in code
    assert ".entry" in code


def test_the_kernels_include_no_header_beyond_the_runtimes_and_the_compilers():
    """nvcc alone compiles them: they include neither torch, cuRAND nor CUB."""
    reached, waiting = set(SOURCES), list(SOURCES)
    while waiting:
        path = waiting.pop()
        assert included_by(path) <= HEADERS, path.name
        local = {(path.parent / name).resolve() for name in re.findall(r'#include "(.*?)"', path.read_text())}
        waiting += local - reached
        reached |= local


DIVISOR = r"""
#include <cstdio>
#include <initializer_list>
#include "divisor.h"

int main() {
  const int64_t values[] = {1, 2, 3, 4, 5, 7, 10, 31, 32, 33, 641, 1000003, (int64_t{1} << 31) - 1, int64_t{1} << 31,
                            (int64_t{1} << 32) + 1, 4611686018427387847, (int64_t{1} << 62) + 1, INT64_MAX - 1,
                            INT64_MAX};
  for (int64_t d : values) {
    const sivae::cuda::Divisor divisor(d);
    for (int64_t n : values) {
      for (int64_t around : {n - 1, n, n / d * d, n / d * d - 1}) {
        if (around < 0) continue;
        if (divisor.quotient(around) != around / d) return std::printf("%ld / %ld\n", around, d), 1;
      }
    }
    if (divisor.quotient(0) != 0) return 1;
  }
}
"""


@pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not installed")
def test_division_by_multiplication_is_exact(tmp_path):
    source, program = tmp_path / "divisor.cpp", tmp_path / "divisor"
    source.write_text(DIVISOR)
    subprocess.run(["g++", "-std=c++20", "-I", str(CUDA), str(source), "-o", str(program)], check=True)
    result = subprocess.run([program], capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (0, "")
