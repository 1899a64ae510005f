// Choose the instruction set, once, at first use.
#include "kernels.h"

#include <cstdlib>
#include <stdexcept>
#include <string>

namespace sivae::cpu {

#define SIVAE_DECLARE_TABLE(isa)                                                                          \
  SIVAE_DECLARE_KERNELS(isa)                                                                              \
  namespace isa {                                                                                         \
  constexpr KernelTable table{#isa,              latent_forward,      latent_backward,      rec_forward,  \
                              rec_backward,      exp_elbo_forward,    exp_elbo_backward,                  \
                              styled_norm_forward, styled_norm_backward, batch_norm,  plane_norm,         \
                              philox_normal,     chamfer_forward,     chamfer_backward,                   \
                              mixture_forward,   mixture_backward,    &relu_network};                     \
  }

SIVAE_DECLARE_TABLE(baseline)
#if defined(SIVAE_X86)
SIVAE_DECLARE_TABLE(avx2)
SIVAE_DECLARE_TABLE(avx512)
#endif

namespace {

const KernelTable& choose() {
  const char* wanted = std::getenv("SIVAE_CPU_ISA");
  const std::string name = wanted == nullptr ? "" : wanted;
  const bool known = name.empty() || name == baseline::table.name;
#if defined(SIVAE_X86)
  const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool has_avx512 = has_avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                          __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (has_avx512 && (name.empty() || name == avx512::table.name)) return avx512::table;
  if (has_avx2 && (name.empty() || name == avx2::table.name)) return avx2::table;
#endif
  if (!known) {
    throw std::runtime_error("SIVAE_CPU_ISA is '" + name +
                             "', expected baseline, or avx2 or avx512 on a processor that has them");
  }
  return baseline::table;
}

}  // namespace

const KernelTable& kernels() {
  static const KernelTable& table = choose();
  return table;
}

}  // namespace sivae::cpu
