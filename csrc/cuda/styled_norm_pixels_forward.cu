// The styled instance norm for images whose channels are innermost in memory.
#include "moments.cuh"
#include "pixels.cuh"
#include "styled_norm_parts.h"

namespace sivae::cuda {
namespace {

template <class Access>
using ComputeOf = typename ComputeType<typename Access::S>::type;

// The moments of the segment's pixels, for each of the thread's channels.
template <class Access>
__device__ __forceinline__ void sum_up(const StyledNorm& a, const ImageShape& shape, const PixelCut& cut,
                                       const PixelShare& share, const ChannelActivation<Access>& activation,
                                       Moments<ComputeOf<Access>> (&all)[Access::kPack]) {
  using S = typename Access::S;
  using T = ComputeOf<Access>;
  constexpr int kPack = Access::kPack;
  const int64_t base = share.base(a.x);
  ShiftedSums<T> sums[kPack];
  int count = 0;
#pragma unroll 2
  for (int64_t pixel = share.first; pixel < share.last; pixel += cut.pixels_at_once()) {
    const auto raw = Access::load(shape, a.x, base, pixel, share.pack);
    const T noise = noise_of_pixel<S>(a, shape, share, pixel);
#pragma unroll
    for (int i = 0; i < kPack; ++i) {
      const T u = activation(i, widen(raw.elements[i]), noise);
      if (count == 0) sums[i].pivot = pivot_of(u);
      sums[i].add(u);
    }
    ++count;
  }
  T pivot[kPack] = {}, values[kPack], squares[kPack];
  if (share.active) {  // near the mean: the segment's first pixel
    const auto raw = Access::load(shape, a.x, base, share.start, share.pack);
    const T noise = noise_of_pixel<S>(a, shape, share, share.start);
#pragma unroll
    for (int i = 0; i < kPack; ++i) pivot[i] = pivot_of(activation(i, widen(raw.elements[i]), noise));
  }
  const T elements = static_cast<T>(share.end - share.start), own = static_cast<T>(count);
#pragma unroll
  for (int i = 0; i < kPack; ++i) {
    all[i] = sums[i].moments(count);
    values[i] = mean_part(all[i], own, pivot[i]);
  }
  add_over_lines(values, cut);
#pragma unroll
  for (int i = 0; i < kPack; ++i) {
    pivot[i] += values[i] / elements;
    const DeviationParts<T> parts = deviation_parts(all[i], own, pivot[i]);
    values[i] = parts.deviation;
    squares[i] = parts.square;
  }
  add_over_lines(values, cut);
  add_over_lines(squares, cut);
#pragma unroll
  for (int i = 0; i < kPack; ++i) all[i] = combined(DeviationParts<T>{values[i], squares[i]}, elements, pivot[i]);
}

template <class Access>
__device__ __forceinline__ void store_styled(const StyledNormForward& a, const ImageShape& shape, const PixelCut& cut,
                                             const PixelShare& share, const ChannelActivation<Access>& activation,
                                             const ComputeOf<Access> (&mean)[Access::kPack],
                                             const ComputeOf<Access> (&rest)[Access::kPack],
                                             const ComputeOf<Access> (&std)[Access::kPack]) {
  using S = typename Access::S;
  using T = ComputeOf<Access>;
  constexpr int kPack = Access::kPack;
  if (!share.active) return;
  T by_deviation[kPack], shift[kPack];
#pragma unroll
  for (int i = 0; i < kPack; ++i) {
    const int64_t c = share.pack * kPack + i;
    by_deviation[i] = inverse_std(std[i], static_cast<T>(a.norm.eps)) *
                      (T(1) + parameter<S>(a.norm.scale, share.b, c, T(0)));
    shift[i] = parameter<S>(a.shift, share.b, c, T(0)) - rest[i] * by_deviation[i];
  }
#pragma unroll 2
  for (int64_t pixel = share.first; pixel < share.last; pixel += cut.pixels_at_once()) {
    const auto raw = Access::load(shape, a.norm.x, share.base(a.norm.x), pixel, share.pack);
    const T noise = noise_of_pixel<S>(a.norm, shape, share, pixel);
    typename Access::Raw out;
#pragma unroll
    for (int i = 0; i < kPack; ++i) {
      const T u = activation(i, widen(raw.elements[i]), noise);
      narrow((u - mean[i]) * by_deviation[i] + shift[i], out.elements[i]);
    }
    Access::store(shape, a.y, share.base(a.y), pixel, share.pack, out);
  }
}

template <class Access>
__global__ void __launch_bounds__(kThreads, kResident<typename Access::S, 2>)
    whole_kernel(const __grid_constant__ StyledNormForward a, const __grid_constant__ ImageShape shape,
                 const __grid_constant__ PixelCut cut) {
  using T = ComputeOf<Access>;
  constexpr int kPack = Access::kPack;
  const PixelShare share = share_of_block(shape, cut, blockIdx.x);
  const ChannelActivation<Access> activation(a.norm, share);
  Moments<T> all[kPack];
  sum_up(a.norm, shape, cut, share, activation, all);
  T mean[kPack], rest[kPack], std[kPack];
#pragma unroll
  for (int i = 0; i < kPack; ++i) {
    mean[i] = all[i].mean;
    rest[i] = all[i].rest;
    std[i] = std_of_moments(all[i], static_cast<T>(shape.pixels));
    if (share.line == 0 && share.active) {
      const int64_t plane = share.b * shape.channels + share.pack * kPack + i;
      static_cast<T*>(a.mean)[plane] = mean[i];
      static_cast<T*>(a.std)[plane] = std[i];
    }
  }
  store_styled(a, shape, cut, share, activation, mean, rest, std);
}

template <class Access>
__global__ void __launch_bounds__(kThreads, kResident<typename Access::S, 2>)
    segment_kernel(const __grid_constant__ StyledNormForward a, const __grid_constant__ ImageShape shape,
                   const __grid_constant__ PixelCut cut) {
  using T = ComputeOf<Access>;
  constexpr int kPack = Access::kPack;
  const PixelShare share = share_of_block(shape, cut, blockIdx.x);
  const ChannelActivation<Access> activation(a.norm, share);
  Moments<T> all[kPack];
  sum_up(a.norm, shape, cut, share, activation, all);
  if (share.line != 0 || !share.active) return;
#pragma unroll
  for (int i = 0; i < kPack; ++i) {
    const int64_t at = (share.b * cut.segments + share.segment) * shape.channels + share.pack * kPack + i;
    static_cast<T*>(a.segment_mean)[at] = all[i].mean;
    static_cast<T*>(a.segment_rest)[at] = all[i].rest;
    static_cast<T*>(a.segment_squares)[at] = all[i].squares;
  }
}

template <class Access>
__global__ void __launch_bounds__(kThreads, kResident<typename Access::S, 2>)
    apply_kernel(const __grid_constant__ StyledNormForward a, const __grid_constant__ ImageShape shape,
                 const __grid_constant__ PixelCut cut) {
  using T = ComputeOf<Access>;
  constexpr int kPack = Access::kPack;
  // Backwards: the last pixels read may still be in the cache.
  const PixelShare share = share_of_block(shape, cut, gridDim.x - 1 - blockIdx.x);
  if (!share.active) return;
  const ChannelActivation<Access> activation(a.norm, share);
  T mean[kPack], rest[kPack], std[kPack];
#pragma unroll
  for (int i = 0; i < kPack; ++i) {
    const int64_t plane = share.b * shape.channels + share.pack * kPack + i;
    mean[i] = static_cast<const T*>(a.mean)[plane];
    rest[i] = static_cast<const T*>(a.rest)[plane];
    std[i] = static_cast<const T*>(a.std)[plane];
  }
  store_styled(a, shape, cut, share, activation, mean, rest, std);
}

}  // namespace

int64_t pixel_segments_of(const StyledNormForward& a) {
  return with_storage_type(a.norm.dtype, [&](auto s) {
    return with_channels<decltype(s)>(
        a.norm, [&](auto access) { return cut_pixels<decltype(access)>(a.norm).segments; }, a.y);
  });
}

int launch_pixels_forward(const StyledNormForward& a, uint64_t stream) {
  return with_storage_type(a.norm.dtype, [&](auto s) {
    return with_channels<decltype(s)>(
        a.norm,
        [&](auto access) {
          using Access = decltype(access);
          const ImageShape shape(a.norm);
          const PixelCut cut = cut_pixels<Access>(a.norm);
          if (cut.segments == 1) return launch(whole_kernel<Access>, cut.blocks, kThreads, stream, a, shape, cut);
          int error = launch(segment_kernel<Access>, cut.blocks, kThreads, stream, a, shape, cut);
          if (error == 0) error = launch_merge_moments(a, cut.segments, cut.pixels_each, stream);
          return error != 0 ? error : launch(apply_kernel<Access>, cut.blocks, kThreads, stream, a, shape, cut);
        },
        a.y);
  });
}

}  // namespace sivae::cuda
