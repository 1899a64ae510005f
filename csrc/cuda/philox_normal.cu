// Plain Philox normals: four of one counter per thread.
#include "launch.h"
#include "noise.cuh"
#include "storage.cuh"
#include "teams.cuh"

namespace sivae::cuda {
namespace {

template <class S>
__global__ void __launch_bounds__(kThreads) normal_kernel(S* __restrict__ out, const int64_t* __restrict__ seed,
                                                          uint64_t offset, int64_t count) {
  using T = typename ComputeType<S>::type;
  const int64_t group = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (4 * group >= count) return;
  T normals[4];
  normals_of(static_cast<uint64_t>(*seed), offset, static_cast<uint64_t>(group), normals);
#pragma unroll
  for (int lane = 0; lane < 4; ++lane) {
    if (4 * group + lane < count) narrow(normals[lane], out[4 * group + lane]);
  }
}

}  // namespace

int launch_philox_normal(DType dtype, void* out, const int64_t* seed, uint64_t offset, int64_t count, uint64_t stream) {
  return with_storage_type(dtype, [&](auto s) {
    using S = decltype(s);
    const int64_t blocks = ((count + 3) / 4 + kThreads - 1) / kThreads;
    return launch(normal_kernel<S>, blocks, kThreads, stream, static_cast<S*>(out), seed, offset, count);
  });
}

}  // namespace sivae::cuda
