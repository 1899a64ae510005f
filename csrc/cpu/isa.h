// Included by every kernel source: the name of its instruction set, and the choice by dtype.
#pragma once

#include "dtypes.h"
#include "kernels.h"

#ifndef SIVAE_ISA
#error "kernel sources are compiled with -DSIVAE_ISA=<name>, see CMakeLists.txt"
#endif

namespace sivae::cpu {

template <class F>
SIVAE_HD void with_storage_type(DType dtype, F call) {
  switch (dtype) {
    case DType::kFloat64: return call(double());
    case DType::kFloat32: return call(float());
    case DType::kBFloat16: return call(BFloat16());
    case DType::kFloat16: return call(Float16());
  }
}

SIVAE_DECLARE_KERNELS(SIVAE_ISA)
}  // namespace sivae::cpu
