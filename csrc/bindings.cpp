// The Python module sivae._C. Importing it registers the native ops; its own functions describe the build.
#include <ATen/native/CPUBlas.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <cstdint>

#include "cpu/denormals.h"
#include "cpu/kernels.h"
#include "philox.h"

namespace {

std::array<uint32_t, 4> philox4x32_10(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key) {
  uint32_t words[4];
  sivae::philox4x32_10(counter[0], counter[1], counter[2], counter[3], key[0], key[1], words);
  return std::to_array(words);
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "Native kernels of sivae.ops";
  m.attr("compiler") = SIVAE_COMPILER;
#if defined(SIVAE_CUDA)
  m.attr("has_cuda") = true;  // CUDA kernels were compiled in
#else
  m.attr("has_cuda") = false;
#endif
  m.def("cpu_isa", [] { return sivae::cpu::kernels().name; }, "The instruction set that the CPU kernels run with.");
  m.def("multiplies_bfloat16", [] { return at::native::cpublas::could_pack(at::kBFloat16); },
        "Whether the processor multiplies bfloat16 matrices in hardware, and torch uses it.");
  m.def("set_flush_denormal", &sivae::cpu::set_flush_denormal, pybind11::arg("on"),
        "Flush denormal numbers to zero, or not, in the calling thread and in torch's pool.");
  m.def("philox4x32_10", &philox4x32_10, pybind11::arg("counter"), pybind11::arg("key"),
        "The raw generator: four 32-bit words from a counter of four and a key of two.");
}
