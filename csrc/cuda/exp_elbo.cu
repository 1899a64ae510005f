// The soft exponential of the ELBO over [B]: one launch each way.
#include "../exp_elbo.h"

#include "launch.h"
#include "storage.cuh"
#include "teams.cuh"

namespace sivae::cuda {
namespace {

template <class S>
__device__ __forceinline__ double exponent_of(const ExpElboOperands& a, int64_t i) {
  return exponent(static_cast<double>(widen(static_cast<const S*>(a.rec)[i * a.rec_stride])),
                  static_cast<double>(widen(static_cast<const S*>(a.kl)[i * a.kl_stride])), a.parameters);
}

template <class S>
__global__ void __launch_bounds__(kThreads) values_kernel(const __grid_constant__ ExpElboForward a) {
  using T = typename ComputeType<S>::type;
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= a.count) return;
  const double t = exponent_of<S>(a, i);
  static_cast<T*>(a.out)[i] = soft_exp<T>(t, a.parameters);
}

// One block sums the batch, in double.
template <class S>
__global__ void __launch_bounds__(kWide) reduced_kernel(const __grid_constant__ ExpElboForward a) {
  using T = typename ComputeType<S>::type;
  double sum = 0.0;
  for (int64_t i = threadIdx.x; i < a.count; i += kWide) {
    const double t = exponent_of<S>(a, i);
    sum += static_cast<double>(soft_exp<T>(t, a.parameters));
  }
  sum = sum_over_block<double, kWide>(sum);
  if (threadIdx.x != 0) return;
  const double divisor = a.reduction == 1 ? static_cast<double>(a.count) : 1.0;
  static_cast<T*>(a.out)[0] = static_cast<T>(sum / divisor);  // 0 / 0 of no samples is NaN
}

template <class S>
__global__ void __launch_bounds__(kThreads) backward_kernel(const __grid_constant__ ExpElboBackward a) {
  using T = typename ComputeType<S>::type;
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= a.count) return;
  const double t = exponent_of<S>(a, i);
  const double slope = row_gradient<T>(a.grad, i) * static_cast<double>(soft_exp_slope<T>(t, a.parameters));
  if (a.grad_rec != nullptr) {
    narrow(static_cast<T>(slope * a.parameters.weight_rec), static_cast<S*>(a.grad_rec)[i * a.grad_rec_stride]);
  }
  if (a.grad_kl != nullptr) {
    narrow(static_cast<T>(slope * a.parameters.weight_kl), static_cast<S*>(a.grad_kl)[i * a.grad_kl_stride]);
  }
}

int64_t blocks_for(int64_t count) { return (count + kThreads - 1) / kThreads; }

}  // namespace

int launch_kernel(const ExpElboForward& a, uint64_t stream) {
  return with_storage_type(a.dtype, [&](auto s) {
    using S = decltype(s);
    if (a.reduction != 0) return launch(reduced_kernel<S>, 1, kWide, stream, a);
    return launch(values_kernel<S>, blocks_for(a.count), kThreads, stream, a);
  });
}

int launch_kernel(const ExpElboBackward& a, uint64_t stream) {
  return with_storage_type(a.dtype, [&](auto s) {
    return launch(backward_kernel<decltype(s)>, blocks_for(a.count), kThreads, stream, a);
  });
}

}  // namespace sivae::cuda
