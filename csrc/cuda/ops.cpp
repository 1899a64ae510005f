// The CUDA implementations of the low-level ops (schemas: sivae/ops/library.py), without a CUDA header.
#include <ATen/ops/empty.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <torch/library.h>

#include "../torch_dtype.h"
#include "launch.h"

namespace sivae::cuda {
namespace {

using at::Tensor;

uint64_t current_stream(const Tensor& tensor) {
  const c10::impl::VirtualGuardImpl guard(tensor.device().type());
  return reinterpret_cast<uint64_t>(guard.getStream(tensor.device()).native_handle());
}

void check_launch(const char* op, int error) {
  TORCH_CHECK(error == 0, "sivae: the launch of ", op, " failed: ", error_string(error));
}

Tensor philox_normal(const Tensor& seed, int64_t offset, at::IntArrayRef shape, at::ScalarType dtype) {
  TORCH_CHECK_VALUE(seed.scalar_type() == at::kLong && seed.numel() == 1, "sivae: a seed is one int64 element");
  const c10::DeviceGuard device(seed.device());
  Tensor out = at::empty(shape, seed.options().dtype(dtype));
  check_launch("philox_normal",
               launch_philox_normal(dtype_of(dtype), out.data_ptr(), seed.const_data_ptr<int64_t>(),
                             static_cast<uint64_t>(offset), out.numel(), current_stream(seed)));
  return out;
}

}  // namespace

TORCH_LIBRARY_IMPL(sivae_native, CUDA, m) { m.impl("philox_normal", &philox_normal); }

}  // namespace sivae::cuda
