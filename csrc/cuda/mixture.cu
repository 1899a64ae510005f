// The log density of a mixture of Gaussians: a thread for a few results, without atomics or shared memory.
//
// Neighboring threads read neighboring parameters. What a thread's results share stays in registers: the parameters of
// several rows, or the point of several components.
#include "mixture_launch.h"

#include "divisor.h"
#include "storage.cuh"
#include "teams.cuh"

namespace sivae::cuda {
namespace {

constexpr int kTogether = 4;     // results of a thread
constexpr int kDimsOfSum = 64;   // added in a row, before the next level of the sum

int64_t divided(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Thread -> (group of kTogether rows or components, and a column), column fastest.
struct Grid {
  int64_t groups, columns;
  Divisor by_columns;

  Grid(int64_t results, int64_t columns)
      : groups(divided(results, kTogether)), columns(columns), by_columns(columns) {}
  int64_t threads() const { return groups * columns; }
};

__device__ __forceinline__ int64_t thread_index() { return static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; }

template <class S>
__device__ __forceinline__ auto point_of(const Mixture& a, int64_t row, int64_t dim) {
  return widen(static_cast<const S*>(a.z)[row * a.z_row + dim * a.z_column]);
}

template <class S>
__global__ void __launch_bounds__(kThreads) densities_kernel(const __grid_constant__ MixtureDensities a,
                                                             const __grid_constant__ Grid grid) {
  using T = typename ComputeType<S>::type;
  const int64_t index = thread_index(), group = grid.by_columns.quotient(index), k = index - group * grid.columns;
  if (group >= grid.groups) return;
  const int64_t first = group * kTogether;
  const int count = static_cast<int>(a.rows - first < kTogether ? a.rows - first : kTogether);
  const T* mu = static_cast<const T*>(a.mu) + k;
  const T* inv_std = static_cast<const T*>(a.inv_std) + k;
  T sums[kTogether] = {};
  for (int64_t start = 0; start < a.dims; start += kDimsOfSum) {
    const int64_t end = start + kDimsOfSum < a.dims ? start + kDimsOfSum : a.dims;
    T part[kTogether] = {};
    for (int64_t l = start; l < end; ++l) {
      const T m = mu[l * a.components], s = inv_std[l * a.components];
#pragma unroll
      for (int q = 0; q < kTogether; ++q) {
        if (q >= count) continue;
        const T scaled = (point_of<S>(a, first + q, l) - m) * s;
        part[q] += scaled * scaled;
      }
    }
#pragma unroll
    for (int q = 0; q < kTogether; ++q) sums[q] += part[q];
  }
  const T peak = static_cast<const T*>(a.peaks)[k];
#pragma unroll
  for (int q = 0; q < kTogether; ++q) {
    if (q < count) static_cast<T*>(a.densities)[(first + q) * a.components + k] = peak - T(0.5) * sums[q];
  }
}

template <class S>
__global__ void __launch_bounds__(kThreads) rows_kernel(const __grid_constant__ MixtureRowGradient a,
                                                        const __grid_constant__ Grid grid) {
  using T = typename ComputeType<S>::type;
  const int64_t index = thread_index(), group = grid.by_columns.quotient(index), l = index - group * grid.columns;
  if (group >= grid.groups) return;
  const int64_t first = group * kTogether;
  const int count = static_cast<int>(a.rows - first < kTogether ? a.rows - first : kTogether);
  const T* mu = static_cast<const T*>(a.mu) + l;
  const T* inv_variance = static_cast<const T*>(a.inv_variance) + l;
  const T* shares = static_cast<const T*>(a.shares) + first * a.components;
  T points[kTogether] = {}, sums[kTogether] = {};
#pragma unroll
  for (int q = 0; q < kTogether; ++q) {
    if (q < count) points[q] = point_of<S>(a, first + q, l);
  }
  for (int64_t k = 0; k < a.components; ++k) {
    const T m = mu[k * a.dims], v = inv_variance[k * a.dims];
#pragma unroll
    for (int q = 0; q < kTogether; ++q) {
      if (q < count) sums[q] -= shares[q * a.components + k] * (points[q] - m) * v;
    }
  }
#pragma unroll
  for (int q = 0; q < kTogether; ++q) {
    if (q < count) narrow(sums[q], static_cast<S*>(a.grad_z)[(first + q) * a.grad_row + l * a.grad_column]);
  }
}

template <class S>
__global__ void __launch_bounds__(kThreads) components_kernel(const __grid_constant__ MixtureComponentSums a,
                                                              const __grid_constant__ Grid grid,
                                                              const __grid_constant__ Divisor by_groups) {
  using T = typename ComputeType<S>::type;
  const int64_t index = thread_index(), unit = grid.by_columns.quotient(index), l = index - unit * grid.columns;
  const int64_t part = by_groups.quotient(unit), first = (unit - part * grid.groups) * kTogether;
  const int64_t begin = part * a.rows_each;
  if (begin >= a.rows) return;
  const int64_t end = begin + a.rows_each < a.rows ? begin + a.rows_each : a.rows;
  const int count = static_cast<int>(a.components - first < kTogether ? a.components - first : kTogether);
  T mu[kTogether] = {}, by_mu[kTogether] = {}, by_square[kTogether] = {};
#pragma unroll
  for (int q = 0; q < kTogether; ++q) {
    if (q < count) mu[q] = static_cast<const T*>(a.mu)[(first + q) * a.dims + l];
  }
  for (int64_t row = begin; row < end; ++row) {
    const T point = point_of<S>(a, row, l);
    const T* shares = static_cast<const T*>(a.shares) + row * a.components + first;
#pragma unroll
    for (int q = 0; q < kTogether; ++q) {
      if (q >= count) continue;
      const T difference = point - mu[q], term = shares[q] * difference;
      by_mu[q] += term;
      by_square[q] += term * difference;
    }
  }
#pragma unroll
  for (int q = 0; q < kTogether; ++q) {
    if (q >= count) continue;
    const int64_t at = (part * a.components + first + q) * a.dims + l;
    static_cast<T*>(a.first)[at] = by_mu[q];
    static_cast<T*>(a.second)[at] = by_square[q];
  }
}

int64_t blocks_of(int64_t threads) { return divided(threads, kThreads); }

}  // namespace

int launch_mixture(const MixtureDensities& a, uint64_t stream) {
  const Grid grid(a.rows, a.components);
  return with_storage_type(a.dtype, [&](auto s) {
    return launch(densities_kernel<decltype(s)>, blocks_of(grid.threads()), kThreads, stream, a, grid);
  });
}

int launch_mixture(const MixtureRowGradient& a, uint64_t stream) {
  const Grid grid(a.rows, a.dims);
  return with_storage_type(a.dtype, [&](auto s) {
    return launch(rows_kernel<decltype(s)>, blocks_of(grid.threads()), kThreads, stream, a, grid);
  });
}

int launch_mixture(const MixtureComponentSums& a, uint64_t stream) {
  const Grid grid(a.components, a.dims);
  const int64_t threads = grid.threads() * divided(a.rows, a.rows_each);
  return with_storage_type(a.dtype, [&](auto s) {
    return launch(components_kernel<decltype(s)>, blocks_of(threads), kThreads, stream, a, grid, Divisor(grid.groups));
  });
}

}  // namespace sivae::cuda
