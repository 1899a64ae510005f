"""Test the noise of the CPU kernels at counters whose low word overflows, which no tensor is large enough to reach."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

CSRC = Path(__file__).resolve().parents[2] / "csrc"
CPU_INFO = Path("/proc/cpuinfo")
FLAGS = {"avx2": "avx2", "avx512": "avx512vl"}
ISAS = {
    "baseline": [],
    "avx2": ["-mavx2", "-mfma"],
    "avx512": ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma"],
}

# The counter of element 2^34 is 2^32; the kernel's range begins in the middle of a group of four and ends in another.
# Each normal is compared with the one of the same words in double. A float's error is a few ulp of at most 5.6, the
# largest normal from 23 bits: 8 ulp of 4 are 4e-6.
PROGRAM = """
#include <cmath>
#include <cstdio>

#include "cpu/latent_kernels.cpp"

int main() {
  using namespace sivae;
  constexpr uint64_t kSeed = 0x123456789abcdef0, kOffset = 0xfedcba9876543210, kFirst = (uint64_t{1} << 34) - 1213;
  constexpr int64_t kCount = 2222;
  static float out[kCount];
  const uintptr_t origin = reinterpret_cast<uintptr_t>(out) - kFirst * sizeof(float);
  cpu::SIVAE_ISA::philox_normal(DType::kFloat32, reinterpret_cast<void*>(origin), kSeed, kOffset, kFirst,
                                kFirst + kCount);
  for (int64_t i = 0; i < kCount; ++i) {
    const uint64_t index = kFirst + i, group = index / 4;
    uint32_t words[4];
    philox4x32_10(static_cast<uint32_t>(group), static_cast<uint32_t>(group >> 32), static_cast<uint32_t>(kOffset),
                  static_cast<uint32_t>(kOffset >> 32), static_cast<uint32_t>(kSeed),
                  static_cast<uint32_t>(kSeed >> 32), words);
    double normals[4];
    box_muller(words[0], words[1], normals[0], normals[1]);
    box_muller(words[2], words[3], normals[2], normals[3]);
    if (!(std::fabs(out[i] - normals[index % 4]) < 4e-6)) {
      std::printf("element %llu: %.9g, expected %.9g\\n", (unsigned long long)index, out[i], normals[index % 4]);
      return 1;
    }
  }
  return 0;
}
"""


@pytest.mark.parametrize("isa", ISAS)
def test_noise_goes_on_past_the_low_word_of_the_counter(tmp_path, isa):
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler is found")
    if isa != "baseline" and (not CPU_INFO.exists() or FLAGS[isa] not in CPU_INFO.read_text()):
        pytest.skip(f"this processor has no {isa}")
    source, program = tmp_path / "noise.cpp", tmp_path / "noise"
    source.write_text(PROGRAM)
    command = [compiler, "-std=c++20", "-O0", *ISAS[isa], "-DSIVAE_ISA=probe", f"-I{CSRC}", "-o", str(program)]
    built = subprocess.run([*command, str(source)], capture_output=True, text=True, timeout=300, check=False)
    assert built.returncode == 0, built.stderr
    ran = subprocess.run([str(program)], capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stdout
