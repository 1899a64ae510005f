// The second stage of the per-sample sums, in double and in a fixed order.
#include "launch.h"
#include "teams.cuh"

namespace sivae::cuda {
namespace {

// A warp per row.
template <class T>
__global__ void __launch_bounds__(kThreads) rows_kernel(const T* __restrict__ sums, int64_t rows, int64_t per_row,
                                                        T* __restrict__ out) {
  const int64_t row = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) / kWarp;
  if (row >= rows) return;  // a whole warp at a time
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  double sum = 0.0;
  for (int64_t i = lane; i < per_row; i += kWarp) sum += static_cast<double>(sums[row * per_row + i]);
  sum = sum_over_lanes(sum, kWarp);
  if (lane == 0) out[row] = static_cast<T>(sum);
}

template <class T>
__global__ void __launch_bounds__(kWide) batch_kernel(const T* __restrict__ sums, int64_t count, double divisor,
                                                      T* __restrict__ out) {
  double sum = 0.0;
  for (int64_t i = threadIdx.x; i < count; i += kWide) sum += static_cast<double>(sums[i]);
  sum = sum_over_block<double, kWide>(sum);
  if (threadIdx.x == 0) *out = static_cast<T>(sum / divisor);  // 0 / 0 of no samples is NaN
}

template <class T>
int finish(const void* sums, int64_t rows, int64_t per_row, int reduction, void* out, uint64_t stream) {
  const T* in = static_cast<const T*>(sums);
  if (reduction == 0) {
    const int64_t blocks = (rows * kWarp + kThreads - 1) / kThreads;
    return launch(rows_kernel<T>, blocks, kThreads, stream, in, rows, per_row, static_cast<T*>(out));
  }
  const double divisor = reduction == 1 ? static_cast<double>(rows) : 1.0;
  return launch(batch_kernel<T>, 1, kWide, stream, in, rows * per_row, divisor, static_cast<T*>(out));
}

}  // namespace

int launch_finish_sums(bool is_double, const void* sums, int64_t rows, int64_t per_row, int reduction, void* out,
                       uint64_t stream) {
  return is_double ? finish<double>(sums, rows, per_row, reduction, out, stream)
                   : finish<float>(sums, rows, per_row, reduction, out, stream);
}

const char* error_string(int error) { return cudaGetErrorString(static_cast<cudaError_t>(error)); }

}  // namespace sivae::cuda
