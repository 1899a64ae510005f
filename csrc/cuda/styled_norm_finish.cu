// The second stages of the styled instance norm: combine the results of a plane's segments in a fixed order.
#include "../styled_norm.h"
#include "image_access.cuh"
#include "moments.cuh"
#include "storage.cuh"
#include "styled_norm_parts.h"
#include "teams.cuh"

namespace sivae::cuda {
namespace {

constexpr int kLines = kWide / kWarp;  // threads of a block that have the same channel

// This thread's channel, and the first of its rows of a group's [rows, C]; they are kLines apart.
struct Column {
  int64_t group, c;
  int line;

  __device__ __forceinline__ Column(int64_t channels, const Divisor& by_blocks, int64_t blocks) {
    group = by_blocks.quotient(blockIdx.x);
    c = (blockIdx.x - group * blocks) * kWarp + threadIdx.x % kWarp;
    line = static_cast<int>(threadIdx.x) / kWarp;
    if (c >= channels) c = -1;
  }
};

// The sum over the threads of the block that have the same channel, in each of them. All threads must call it.
template <class T>
__device__ __forceinline__ T add_over_column(T value) {
  __shared__ T parts[kLines][kWarp];
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  parts[threadIdx.x / kWarp][lane] = value;
  __syncthreads();
  T sum = T(0);
#pragma unroll 8
  for (int line = 0; line < kLines; ++line) sum += parts[line][lane];
  __syncthreads();  // before the next call writes
  return sum;
}

template <class T>
struct SegmentMoments {
  const T* mean;
  const T* rest;
  const T* squares;
  int64_t segments, elements, pixels, channels;  // elements: of every segment but the last

  __device__ __forceinline__ T count(int64_t segment) const {
    const int64_t start = segment * elements;
    return static_cast<T>(start + elements < pixels ? elements : pixels - start);
  }
  __device__ __forceinline__ Moments<T> at(int64_t b, int64_t segment, int64_t c) const {
    const int64_t i = (b * segments + segment) * channels + c;
    return {mean[i], rest[i], squares[i]};
  }
};

template <class T>
__global__ void __launch_bounds__(kWide) moments_kernel(SegmentMoments<T> parts, const __grid_constant__ Divisor by_blocks,
                                                        int64_t blocks, T* mean, T* rest, T* std) {
  const Column column(parts.channels, by_blocks, blocks);
  const bool active = column.c >= 0;
  const T count = static_cast<T>(parts.pixels);
  const T pivot = active ? pivot_of(parts.at(column.group, 0, column.c).mean) : T(0);
  const int64_t first = active ? column.line : parts.segments;
  T sum = T(0);
  for (int64_t s = first; s < parts.segments; s += kLines) {
    sum += mean_part(parts.at(column.group, s, column.c), parts.count(s), pivot);
  }
  const T estimate = pivot + add_over_column(sum) / count;
  DeviationParts<T> sums{T(0), T(0)};
  for (int64_t s = first; s < parts.segments; s += kLines) {
    const auto part = deviation_parts(parts.at(column.group, s, column.c), parts.count(s), estimate);
    sums.deviation += part.deviation;
    sums.square += part.square;
  }
  sums.deviation = add_over_column(sums.deviation);
  sums.square = add_over_column(sums.square);
  if (!active || column.line != 0) return;
  const Moments<T> all = combined(sums, count, estimate);
  const int64_t at = column.group * parts.channels + column.c;
  mean[at] = all.mean;
  rest[at] = all.rest;
  std[at] = std_of_moments(all, count);
}

// in [groups, rows, C] of both, each where it is wanted: to `total` in the same type, to `gradient` in the parameter's.
struct RowSums {
  const void* in[2] = {};
  void* total[2] = {};
  ParameterGradient gradient[2] = {};
  int64_t rows = 0, channels = 0;
};

template <class S>
__global__ void __launch_bounds__(kWide) rows_kernel(const __grid_constant__ RowSums a,
                                                     const __grid_constant__ Divisor by_blocks, int64_t blocks) {
  using T = typename ComputeType<S>::type;
  const Column column(a.channels, by_blocks, blocks);
  const bool active = column.c >= 0;
#pragma unroll
  for (int k = 0; k < 2; ++k) {
    if (a.in[k] == nullptr) continue;
    const T* in = static_cast<const T*>(a.in[k]);
    double sum = 0.0;
#pragma unroll 4
    for (int64_t row = active ? column.line : a.rows; row < a.rows; row += kLines) {
      sum += static_cast<double>(in[(column.group * a.rows + row) * a.channels + column.c]);
    }
    sum = add_over_column(sum);
    if (!active || column.line != 0) continue;
    const int64_t at = column.group * a.channels + column.c;
    const T value = static_cast<T>(sum);
    if (a.total[k] != nullptr) static_cast<T*>(a.total[k])[at] = value;
    if (a.gradient[k].data != nullptr) store_gradient<S>(a.gradient[k], at, value);
  }
}

int launch_rows(DType dtype, const RowSums& a, int64_t groups, uint64_t stream) {
  const int64_t blocks = (a.channels + kWarp - 1) / kWarp;
  return with_storage_type(dtype, [&](auto s) {
    return launch(rows_kernel<decltype(s)>, groups * blocks, kWide, stream, a, Divisor(blocks), blocks);
  });
}

}  // namespace

int launch_merge_moments(const StyledNormForward& a, int64_t segments, int64_t elements, uint64_t stream) {
  const int64_t blocks = (a.norm.channels + kWarp - 1) / kWarp, pixels = a.norm.height * a.norm.width;
  const auto merge = [&](auto zero) {
    using T = decltype(zero);
    const SegmentMoments<T> parts{static_cast<const T*>(a.segment_mean),
                                  static_cast<const T*>(a.segment_rest),
                                  static_cast<const T*>(a.segment_squares),
                                  segments,
                                  elements,
                                  pixels,
                                  a.norm.channels};
    return launch(moments_kernel<T>, a.norm.batch * blocks, kWide, stream, parts, Divisor(blocks), blocks,
                  static_cast<T*>(a.mean), static_cast<T*>(a.rest), static_cast<T*>(a.std));
  };
  return a.norm.dtype == DType::kFloat64 ? merge(0.0) : merge(0.0f);
}

int launch_finish_planes(const StyledNormBackward& a, int64_t segments, uint64_t stream) {
  RowSums sums;
  sums.rows = segments;
  sums.channels = a.norm.channels;
  for (int k = 0; k < 2; ++k) {
    sums.in[k] = a.segment_sums[k];
    sums.total[k] = a.plane_sums[k];
  }
  sums.gradient[0] = a.grad_shift;
  sums.gradient[1] = a.grad_scale;
  return launch_rows(a.norm.dtype, sums, a.norm.batch, stream);
}

int launch_finish_channels(const StyledNormBackward& a, int64_t segments, uint64_t stream) {
  RowSums sums;
  sums.rows = a.norm.batch * segments;
  sums.channels = a.norm.channels;
  for (int k = 0; k < 2; ++k) sums.in[k] = a.segment_grads[k];
  sums.gradient[0] = a.grad_bias;
  sums.gradient[1] = a.grad_noise_weight;
  return launch_rows(a.norm.dtype, sums, 1, stream);
}

int64_t segments_of(const StyledNormForward& a) {
  return channels_are_innermost(a.norm) ? pixel_segments_of(a) : plane_segments_of(a);
}

int64_t segments_of(const StyledNormBackward& a) {
  return channels_are_innermost(a.norm) ? pixel_segments_of(a) : plane_segments_of(a);
}

int launch_styled_norm_forward(const StyledNormForward& a, uint64_t stream) {
  return channels_are_innermost(a.norm) ? launch_pixels_forward(a, stream) : launch_planes_forward(a, stream);
}

int launch_styled_norm_backward(const StyledNormBackward& a, uint64_t stream) {
  const int error = channels_are_innermost(a.norm) ? launch_pixels_backward(a, stream) : launch_planes_backward(a, stream);
  if (error != 0 || (a.segment_grads[0] == nullptr && a.segment_grads[1] == nullptr)) return error;
  return launch_finish_channels(a, segments_of(a), stream);
}

}  // namespace sivae::cuda
