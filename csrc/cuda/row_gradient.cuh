// The gradient that reaches a sample's sum.
#pragma once

#include <cuda_runtime.h>

#include "launch.h"

namespace sivae::cuda {

template <class T>
__device__ __forceinline__ T row_gradient(const RowGradient& grad, int64_t row) {
  if (grad.data == nullptr) return T(0);
  return static_cast<T>(static_cast<double>(static_cast<const T*>(grad.data)[row * grad.stride]) * grad.share);
}

}  // namespace sivae::cuda
