// Storage types on the device and their conversion to the arithmetic type.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "../dtype.h"

namespace sivae::cuda {

template <class S>
struct ComputeType {
  using type = float;
};
template <>
struct ComputeType<double> {
  using type = double;
};

__device__ __forceinline__ double widen(double x) { return x; }
__device__ __forceinline__ float widen(float x) { return x; }
__device__ __forceinline__ float widen(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ __forceinline__ float widen(__half x) { return __half2float(x); }

__device__ __forceinline__ void narrow(double x, double& out) { out = x; }
__device__ __forceinline__ void narrow(float x, float& out) { out = x; }
__device__ __forceinline__ void narrow(float x, __nv_bfloat16& out) { out = __float2bfloat16_rn(x); }
__device__ __forceinline__ void narrow(float x, __half& out) { out = __float2half_rn(x); }

// On the host: calls `call` with a value of the storage type.
template <class F>
auto with_storage_type(DType dtype, F call) -> decltype(call(double())) {
  switch (dtype) {
    case DType::kFloat64: return call(double());
    case DType::kFloat32: return call(float());
    case DType::kBFloat16: return call(__nv_bfloat16());
    case DType::kFloat16: return call(__half());
  }
  __builtin_unreachable();
}

}  // namespace sivae::cuda
