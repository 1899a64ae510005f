// The Chamfer distance: a thread for each point, in one launch for both directions; without atomics.
#include "chamfer_launch.h"

#include "divisor.h"
#include "storage.cuh"
#include "teams.cuh"

namespace sivae::cuda {
namespace {

constexpr int kPoints = 128;  // of a block, a thread each
constexpr int kTile = 256;    // other points that a block reads at a time
constexpr int kIndices = 1024;

int64_t blocks_of(int64_t count) { return (count + kPoints - 1) / kPoints; }

// Blocks of a pair of clouds: first those of its points, then those of its targets.
struct Split {
  int64_t of_points, of_pair;
  Divisor by_pair;

  Split(int64_t points, int64_t targets)
      : of_points(blocks_of(points)), of_pair(of_points + blocks_of(targets)), by_pair(of_pair) {}
};

// This thread's point, and the direction in which it looks for its nearest one.
struct Place {
  int64_t sample, block, point;
  bool backwards;  // a target, which looks for a point

  __device__ __forceinline__ explicit Place(const Split& split) {
    sample = split.by_pair.quotient(blockIdx.x);
    block = blockIdx.x - sample * split.of_pair;
    backwards = block >= split.of_points;
    point = (backwards ? block - split.of_points : block) * kPoints + threadIdx.x;
  }
};

template <class S>
__device__ __forceinline__ auto coordinate(const Clouds& clouds, int64_t sample, int64_t point, int64_t d) {
  const int64_t at = sample * clouds.batch + point * clouds.point + d * clouds.coordinate;
  return widen(static_cast<const S*>(clouds.data)[at]);
}

template <class T>
struct Nearest {
  T distance = static_cast<T>(INFINITY);
  int32_t index = 0;

  __device__ __forceinline__ void see(T candidate, int64_t where) {
    if (is_nearer(candidate, distance)) {
      distance = candidate;
      index = static_cast<int32_t>(where);
    }
  }
};

// kDims coordinates stay in registers while the other cloud passes through shared memory. All threads must call it.
template <class S, int kDims, class T = typename ComputeType<S>::type>
__device__ __forceinline__ Nearest<T> nearest_of(const Clouds& from, const Clouds& to, int64_t sample, int64_t point) {
  __shared__ T tile[kTile][kDims];
  T own[kDims];
#pragma unroll
  for (int d = 0; d < kDims; ++d) own[d] = point < from.count ? coordinate<S>(from, sample, point, d) : T(0);
  Nearest<T> nearest;
  for (int64_t first = 0; first < to.count; first += kTile) {
    const int count = static_cast<int>(to.count - first < kTile ? to.count - first : kTile);
    __syncthreads();  // the tile before this one has been read
    for (int j = static_cast<int>(threadIdx.x); j < count; j += kPoints) {
#pragma unroll
      for (int d = 0; d < kDims; ++d) tile[j][d] = coordinate<S>(to, sample, first + j, d);
    }
    __syncthreads();
#pragma unroll 4
    for (int j = 0; j < count; ++j) {
      T sum = T(0);
#pragma unroll
      for (int d = 0; d < kDims; ++d) sum += (own[d] - tile[j][d]) * (own[d] - tile[j][d]);
      nearest.see(sum, first + j);
    }
  }
  return nearest;
}

// Any number of coordinates, read from the caches.
template <class S, class T = typename ComputeType<S>::type>
__device__ __forceinline__ Nearest<T> nearest_of_any(const Clouds& from, const Clouds& to, int64_t sample,
                                                     int64_t point, int64_t dims) {
  Nearest<T> nearest;
  if (point >= from.count) return nearest;
  for (int64_t j = 0; j < to.count; ++j) {
    T sum = T(0);
    for (int64_t d = 0; d < dims; ++d) {
      const T difference = coordinate<S>(from, sample, point, d) - coordinate<S>(to, sample, j, d);
      sum += difference * difference;
    }
    nearest.see(sum, j);
  }
  return nearest;
}

// kDims = 0: any number of coordinates.
template <class S, int kDims>
__global__ void __launch_bounds__(kPoints) forward_kernel(const __grid_constant__ ChamferForward a,
                                                          const __grid_constant__ Split split) {
  using T = typename ComputeType<S>::type;
  const Place place(split);
  const Clouds& from = place.backwards ? a.targets : a.points;
  const Clouds& to = place.backwards ? a.points : a.targets;
  Nearest<T> nearest;
  if constexpr (kDims > 0) {
    nearest = nearest_of<S, kDims>(from, to, place.sample, place.point);
  } else {
    nearest = nearest_of_any<S>(from, to, place.sample, place.point, a.dims);
  }
  const bool inside = place.point < from.count;
  if (inside) {
    (place.backwards ? a.nearest_point : a.nearest_target)[place.sample * from.count + place.point] = nearest.index;
  }
  const double sum = sum_over_block<double, kPoints>(inside ? static_cast<double>(nearest.distance) : 0.0);
  if (threadIdx.x == 0) static_cast<T*>(a.sums)[blockIdx.x] = static_cast<T>(sum);
}

// kDims coordinates of the gradients at a time. A thread adds, in the order of the other cloud's points, the terms of
// those that chose its point.
template <class S, int kDims>
__global__ void __launch_bounds__(kPoints) backward_kernel(const __grid_constant__ ChamferBackward a,
                                                           const __grid_constant__ Split split) {
  using T = typename ComputeType<S>::type;
  __shared__ int32_t tile[kIndices];
  const Place place(split);
  const Clouds& from = place.backwards ? a.targets : a.points;
  const Clouds& to = place.backwards ? a.points : a.targets;
  const Clouds& gradient = place.backwards ? a.grad_targets : a.grad_points;
  if (gradient.data == nullptr) return;  // the whole block
  const int32_t* nearest = (place.backwards ? a.nearest_point : a.nearest_target) + place.sample * from.count;
  const int32_t* chosen = (place.backwards ? a.nearest_target : a.nearest_point) + place.sample * to.count;
  const bool inside = place.point < from.count;
  const int32_t own_choice = inside ? nearest[place.point] : kNoPoint;
  const double factor = 2.0 * row_gradient<T>(a.grad, place.sample);
  for (int64_t d0 = 0; d0 < a.dims; d0 += kDims) {
    T own[kDims];
    double sums[kDims];
#pragma unroll
    for (int d = 0; d < kDims; ++d) {
      own[d] = inside ? coordinate<S>(from, place.sample, place.point, d0 + d) : T(0);
      sums[d] = 0.0;
    }
    const auto add = [&](int64_t j) {
#pragma unroll
      for (int d = 0; d < kDims; ++d) {
        sums[d] += static_cast<double>(own[d]) - static_cast<double>(coordinate<S>(to, place.sample, j, d0 + d));
      }
    };
    if (own_choice >= 0 && own_choice < to.count) add(own_choice);
    for (int64_t first = 0; first < to.count; first += kIndices) {
      const int count = static_cast<int>(to.count - first < kIndices ? to.count - first : kIndices);
      __syncthreads();  // the tile before this one has been read
      for (int j = static_cast<int>(threadIdx.x); j < count; j += kPoints) tile[j] = chosen[first + j];
      __syncthreads();
#pragma unroll 8
      for (int j = 0; j < count; ++j) {
        if (tile[j] == place.point) add(first + j);
      }
    }
    if (!inside) continue;
#pragma unroll
    for (int d = 0; d < kDims; ++d) {
      const int64_t at =
          place.sample * gradient.batch + place.point * gradient.point + (d0 + d) * gradient.coordinate;
      narrow(static_cast<T>(factor * sums[d]), static_cast<S*>(gradient.data)[at]);
    }
  }
}

}  // namespace

int64_t chamfer_sums_per_pair(const ChamferForward& a) { return Split(a.points.count, a.targets.count).of_pair; }

int launch_chamfer_forward(const ChamferForward& a, uint64_t stream) {
  const Split split(a.points.count, a.targets.count);
  return with_storage_type(a.dtype, [&](auto s) {
    using S = decltype(s);
    const auto run = [&](auto kernel) { return launch(kernel, a.batch * split.of_pair, kPoints, stream, a, split); };
    if (a.dims == 3) return run(forward_kernel<S, 3>);
    if (a.dims == 2) return run(forward_kernel<S, 2>);
    return run(forward_kernel<S, 0>);
  });
}

int launch_chamfer_backward(const ChamferBackward& a, uint64_t stream) {
  const Split split(a.points.count, a.targets.count);
  return with_storage_type(a.dtype, [&](auto s) {
    using S = decltype(s);
    const auto run = [&](auto kernel) { return launch(kernel, a.batch * split.of_pair, kPoints, stream, a, split); };
    if (a.dims % 3 == 0) return run(backward_kernel<S, 3>);
    if (a.dims % 2 == 0) return run(backward_kernel<S, 2>);
    return run(backward_kernel<S, 1>);
  });
}

}  // namespace sivae::cuda
