// Replaces the CPU kernels, which the emulated module does not have: the name that sivae._C.cpu_isa() returns.
#include "../../../csrc/cpu/kernels.h"

namespace sivae::cpu {

const KernelTable& kernels() {
  static const KernelTable none = [] {
    KernelTable table{};
    table.name = "emulated CUDA";
    return table;
  }();
  return none;
}

}  // namespace sivae::cpu
