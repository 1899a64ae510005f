// Helpers between torch and the launchers: the dispatch key, the current stream, and the check of a launch.
#pragma once

#include <ATen/ATen.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include "launch.h"

#if defined(SIVAE_CUDA_EMULATED)
#define SIVAE_DEVICE CPU
#else
#define SIVAE_DEVICE CUDA
#endif

namespace sivae::cuda {

inline uint64_t current_stream([[maybe_unused]] const at::Tensor& tensor) {
#if defined(SIVAE_CUDA_EMULATED)
  return 0;
#else
  const c10::impl::VirtualGuardImpl guard(tensor.device().type());
  return reinterpret_cast<uint64_t>(guard.getStream(tensor.device()).native_handle());
#endif
}

inline void check_launch(const char* op, int error) {
  TORCH_CHECK(error == 0, "sivae: the launch of ", op, " failed: ", error_string(error));
}

}  // namespace sivae::cuda
