// Gradients of the styled instance norm for images whose channels are innermost in memory.
#include "pixels.cuh"
#include "styled_norm_parts.h"

namespace sivae::cuda {
namespace {

template <class Access>
using ComputeOf = typename ComputeType<typename Access::S>::type;

template <class Access>
struct Inputs {
  typename Access::Raw x, grad;
};

template <class Access>
__device__ __forceinline__ Inputs<Access> load_inputs(const StyledNormBackward& a, const ImageShape& shape,
                                                      const PixelShare& share, int64_t pixel) {
  Inputs<Access> in;
  in.x = Access::load(shape, a.norm.x, share.base(a.norm.x), pixel, share.pack);
  if (a.grad_y.data != nullptr) in.grad = Access::load(shape, a.grad_y, share.base(a.grad_y), pixel, share.pack);
  return in;
}

template <class Access>
__device__ __forceinline__ int64_t plane_of(const ImageShape& shape, const PixelShare& share, int i) {
  return share.b * shape.channels + share.pack * Access::kPack + i;
}

// Over the segment's pixels, for each of the thread's channels: the sums of g and of g times the normalised u.
template <class Access>
__device__ __forceinline__ void sum_up(const StyledNormBackward& a, const ImageShape& shape, const PixelCut& cut,
                                       const PixelShare& share, const ChannelActivation<Access>& activation,
                                       ComputeOf<Access> (&sums)[Access::kPack],
                                       ComputeOf<Access> (&normalised)[Access::kPack]) {
  using S = typename Access::S;
  using T = ComputeOf<Access>;
  constexpr int kPack = Access::kPack;
  T mean[kPack];
#pragma unroll
  for (int i = 0; i < kPack; ++i) {
    mean[i] = share.active ? static_cast<const T*>(a.mean)[plane_of<Access>(shape, share, i)] : T(0);
    sums[i] = normalised[i] = T(0);
  }
#pragma unroll 2
  for (int64_t pixel = share.first; pixel < share.last; pixel += cut.pixels_at_once()) {
    const Inputs<Access> in = load_inputs<Access>(a, shape, share, pixel);
    const T noise = noise_of_pixel<S>(a.norm, shape, share, pixel);
#pragma unroll
    for (int i = 0; i < kPack; ++i) {
      const T g = widen(in.grad.elements[i]);
      sums[i] += g;
      normalised[i] += g * (activation(i, widen(in.x.elements[i]), noise) - mean[i]);
    }
  }
#pragma unroll
  for (int i = 0; i < kPack; ++i) {
    const T std = share.active ? static_cast<const T*>(a.std)[plane_of<Access>(shape, share, i)] : T(1);
    normalised[i] *= inverse_std(std, static_cast<T>(a.norm.eps));
  }
  add_over_lines(sums, cut);
  add_over_lines(normalised, cut);
}

// The gradients by x of the segment's pixels, from the sums over their planes.
template <class Access>
__device__ __forceinline__ void store_gradients(const StyledNormBackward& a, const ImageShape& shape,
                                                const PixelCut& cut, const PixelShare& share,
                                                const ChannelActivation<Access>& activation,
                                                const ComputeOf<Access> (&sums)[Access::kPack],
                                                const ComputeOf<Access> (&normalised)[Access::kPack]) {
  using S = typename Access::S;
  using T = ComputeOf<Access>;
  constexpr int kPack = Access::kPack;
  T mean[kPack], grads[kPack], noisy[kPack];
  PlaneGradient<T> by[kPack];
#pragma unroll
  for (int i = 0; i < kPack; ++i) {
    grads[i] = noisy[i] = T(0);
    if (!share.active) continue;
    const int64_t c = share.pack * kPack + i, plane = plane_of<Access>(shape, share, i);
    mean[i] = static_cast<const T*>(a.mean)[plane];
    const T std = static_cast<const T*>(a.std)[plane];
    by[i] = plane_gradient(std, inverse_std(std, static_cast<T>(a.norm.eps)),
                           T(1) + parameter<S>(a.norm.scale, share.b, c, T(0)), static_cast<T>(shape.pixels), sums[i],
                           normalised[i], statistic<T>(a.grad_mean, share.b, c), statistic<T>(a.grad_std, share.b, c));
  }
  for (int64_t pixel = share.first; pixel < share.last; pixel += cut.pixels_at_once()) {
    const Inputs<Access> in = load_inputs<Access>(a, shape, share, pixel);
    const T noise = noise_of_pixel<S>(a.norm, shape, share, pixel);
    typename Access::Raw out;
#pragma unroll
    for (int i = 0; i < kPack; ++i) {
      const T v = activation.before(i, widen(in.x.elements[i]), noise);
      T by_u = by[i].constant + by[i].by_deviation * (leaky(v, activation.slope) - mean[i]);
      if (a.grad_y.data != nullptr) by_u += by[i].by_grad * widen(in.grad.elements[i]);
      const T by_x = leaky_backward(by_u, v, activation.slope);
      narrow(by_x, out.elements[i]);
      grads[i] += by_x;
      noisy[i] += by_x * noise;
    }
    if (a.grad_x.data != nullptr) Access::store(shape, a.grad_x, share.base(a.grad_x), pixel, share.pack, out);
  }
  const int64_t at = (share.b * cut.segments + share.segment) * shape.channels + share.pack * kPack;
  const bool stores = share.line == 0 && share.active;
  if (a.segment_grads[0] != nullptr) {
    add_over_lines(grads, cut);
#pragma unroll
    for (int i = 0; i < kPack; ++i) {
      if (stores) static_cast<T*>(a.segment_grads[0])[at + i] = grads[i];
    }
  }
  if (a.segment_grads[1] != nullptr) {
    add_over_lines(noisy, cut);
#pragma unroll
    for (int i = 0; i < kPack; ++i) {
      if (stores) static_cast<T*>(a.segment_grads[1])[at + i] = noisy[i];
    }
  }
}

template <class Access>
__global__ void __launch_bounds__(kThreads, kResident<typename Access::S, 2>)
    whole_kernel(const __grid_constant__ StyledNormBackward a, const __grid_constant__ ImageShape shape,
                 const __grid_constant__ PixelCut cut) {
  using S = typename Access::S;
  using T = ComputeOf<Access>;
  constexpr int kPack = Access::kPack;
  const PixelShare share = share_of_block(shape, cut, blockIdx.x);
  const ChannelActivation<Access> activation(a.norm, share);
  T sums[kPack] = {}, normalised[kPack] = {};
  if (a.grad_y.data != nullptr) sum_up(a, shape, cut, share, activation, sums, normalised);
  if (share.line == 0 && share.active) {
#pragma unroll
    for (int i = 0; i < kPack; ++i) {
      const int64_t plane = plane_of<Access>(shape, share, i);
      if (a.grad_shift.data != nullptr) store_gradient<S>(a.grad_shift, plane, sums[i]);
      if (a.grad_scale.data != nullptr) store_gradient<S>(a.grad_scale, plane, normalised[i]);
    }
  }
  if (a.needs_elements()) store_gradients(a, shape, cut, share, activation, sums, normalised);
}

template <class Access>
__global__ void __launch_bounds__(kThreads, kResident<typename Access::S, 2>)
    segment_kernel(const __grid_constant__ StyledNormBackward a, const __grid_constant__ ImageShape shape,
                   const __grid_constant__ PixelCut cut) {
  using T = ComputeOf<Access>;
  constexpr int kPack = Access::kPack;
  const PixelShare share = share_of_block(shape, cut, blockIdx.x);
  const ChannelActivation<Access> activation(a.norm, share);
  T sums[kPack], normalised[kPack];
  sum_up(a, shape, cut, share, activation, sums, normalised);
  if (share.line != 0 || !share.active) return;
  const int64_t at = (share.b * cut.segments + share.segment) * shape.channels + share.pack * kPack;
#pragma unroll
  for (int i = 0; i < kPack; ++i) {
    static_cast<T*>(a.segment_sums[0])[at + i] = sums[i];
    static_cast<T*>(a.segment_sums[1])[at + i] = normalised[i];
  }
}

template <class Access>
__global__ void __launch_bounds__(kThreads, kResident<typename Access::S, 2>)
    apply_kernel(const __grid_constant__ StyledNormBackward a, const __grid_constant__ ImageShape shape,
                 const __grid_constant__ PixelCut cut) {
  using T = ComputeOf<Access>;
  constexpr int kPack = Access::kPack;
  // Backwards: the last pixels read may still be in the cache.
  const PixelShare share = share_of_block(shape, cut, gridDim.x - 1 - blockIdx.x);
  const ChannelActivation<Access> activation(a.norm, share);
  T sums[kPack], normalised[kPack];
#pragma unroll
  for (int i = 0; i < kPack; ++i) {
    const bool there = a.grad_y.data != nullptr && share.active;
    const int64_t plane = plane_of<Access>(shape, share, i);
    sums[i] = there ? static_cast<const T*>(a.plane_sums[0])[plane] : T(0);
    normalised[i] = there ? static_cast<const T*>(a.plane_sums[1])[plane] : T(0);
  }
  store_gradients(a, shape, cut, share, activation, sums, normalised);
}

}  // namespace

int64_t pixel_segments_of(const StyledNormBackward& a) {
  return with_storage_type(a.norm.dtype, [&](auto s) {
    return with_channels<decltype(s)>(
        a.norm, [&](auto access) { return cut_pixels<decltype(access)>(a.norm).segments; }, a.grad_y, a.grad_x);
  });
}

int launch_pixels_backward(const StyledNormBackward& a, uint64_t stream) {
  return with_storage_type(a.norm.dtype, [&](auto s) {
    return with_channels<decltype(s)>(
        a.norm,
        [&](auto access) {
          using Access = decltype(access);
          const ImageShape shape(a.norm);
          const PixelCut cut = cut_pixels<Access>(a.norm);
          if (cut.segments == 1) return launch(whole_kernel<Access>, cut.blocks, kThreads, stream, a, shape, cut);
          int error = 0;
          if (a.grad_y.data != nullptr) {
            error = launch(segment_kernel<Access>, cut.blocks, kThreads, stream, a, shape, cut);
            if (error == 0) error = launch_finish_planes(a, cut.segments, stream);
          }
          if (error != 0 || !a.needs_elements()) return error;
          return launch(apply_kernel<Access>, cut.blocks, kThreads, stream, a, shape, cut);
        },
        a.grad_y, a.grad_x);
  });
}

}  // namespace sivae::cuda
