// Plain Philox normals: one thread per counter, four normals each, in a grid-stride loop.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "../philox.h"
#include "launch.h"

namespace sivae::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kMaxBlocks = 8192;

template <class S>
struct ComputeType {
  using type = float;
};
template <>
struct ComputeType<double> {
  using type = double;
};

__device__ void narrow(double x, double& out) { out = x; }
__device__ void narrow(float x, float& out) { out = x; }
__device__ void narrow(float x, __nv_bfloat16& out) { out = __float2bfloat16_rn(x); }
__device__ void narrow(float x, __half& out) { out = __float2half_rn(x); }

template <class S>
__global__ void __launch_bounds__(kThreads)
    normal_kernel(S* __restrict__ out, const int64_t* __restrict__ seed, uint64_t offset, int64_t count) {
  using T = typename ComputeType<S>::type;
  const uint64_t key = static_cast<uint64_t>(*seed);
  const int64_t groups = (count + 3) / 4;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t group = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; group < groups; group += step) {
    uint32_t c0 = static_cast<uint32_t>(group), c1 = static_cast<uint32_t>(static_cast<uint64_t>(group) >> 32);
    uint32_t c2 = static_cast<uint32_t>(offset), c3 = static_cast<uint32_t>(offset >> 32);
    philox4x32_10(c0, c1, c2, c3, static_cast<uint32_t>(key), static_cast<uint32_t>(key >> 32));
    T normals[4];
    box_muller(c0, c1, normals[0], normals[1]);
    box_muller(c2, c3, normals[2], normals[3]);
#pragma unroll
    for (int lane = 0; lane < 4; ++lane) {
      const int64_t index = 4 * group + lane;
      if (index < count) narrow(normals[lane], out[index]);
    }
  }
}

template <class S>
int launch(void* out, const int64_t* seed, uint64_t offset, int64_t count, cudaStream_t stream) {
  const int64_t blocks = ((count + 3) / 4 + kThreads - 1) / kThreads;
  const unsigned grid = static_cast<unsigned>(blocks < kMaxBlocks ? blocks : kMaxBlocks);
  normal_kernel<S><<<grid, kThreads, 0, stream>>>(static_cast<S*>(out), seed, offset, count);
  return static_cast<int>(cudaGetLastError());
}

}  // namespace

int launch_philox_normal(DType dtype, void* out, const int64_t* seed, uint64_t offset, int64_t count, uint64_t stream) {
  if (count == 0) return static_cast<int>(cudaSuccess);
  const auto on = reinterpret_cast<cudaStream_t>(stream);
  switch (dtype) {
    case DType::kFloat64: return launch<double>(out, seed, offset, count, on);
    case DType::kFloat32: return launch<float>(out, seed, offset, count, on);
    case DType::kBFloat16: return launch<__nv_bfloat16>(out, seed, offset, count, on);
    case DType::kFloat16: return launch<__half>(out, seed, offset, count, on);
  }
  return static_cast<int>(cudaErrorInvalidValue);
}

const char* error_string(int error) { return cudaGetErrorString(static_cast<cudaError_t>(error)); }

}  // namespace sivae::cuda
