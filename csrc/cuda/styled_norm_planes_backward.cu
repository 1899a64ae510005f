// Gradients of the styled instance norm for planes that are runs of memory.
#include "planes.cuh"
#include "styled_norm_parts.h"

namespace sivae::cuda {
namespace {

template <class Access>
struct Inputs {
  typename Access::Raw x, grad;
};

template <class Access>
__device__ __forceinline__ Inputs<Access> load_inputs(const StyledNormBackward& a, const ImageShape& shape,
                                                      const PlaneShare& share, int64_t pack) {
  Inputs<Access> in;
  in.x = Access::load(shape, a.norm.x, share.base(a.norm.x), pack);
  if (a.grad_y.data != nullptr) in.grad = Access::load(shape, a.grad_y, share.base(a.grad_y), pack);
  return in;
}

// Mean and standard deviation of the activated plane.
template <class T>
struct Normal {
  T mean, std, inverse;

  __device__ __forceinline__ Normal(const StyledNormBackward& a, int64_t plane)
      : mean(static_cast<const T*>(a.mean)[plane]),
        std(static_cast<const T*>(a.std)[plane]),
        inverse(inverse_std(std, static_cast<T>(a.norm.eps))) {}
};

// The sums of g and of g times the normalised u.
template <class Access>
__device__ __forceinline__ void add_pack(const StyledNormBackward& a, const ImageShape& shape, const PlaneShare& share,
                                         const Activation<Access>& activation, const Normal<typename Access::T>& normal,
                                         int64_t pack, const Inputs<Access>& in, typename Access::T (&sums)[2]) {
  using T = typename Access::T;
  T noise[Access::kPack];
  noise_of_pack<Access>(a.norm, shape, share, pack, noise);
#pragma unroll
  for (int i = 0; i < Access::kPack; ++i) {
    if (!Access::holds(shape, pack, i)) continue;
    const T g = widen(in.grad.elements[i]);
    sums[0] += g;
    sums[1] += g * ((activation(widen(in.x.elements[i]), noise[i]) - normal.mean) * normal.inverse);
  }
}

// Stores the gradient by x, and adds up its sum and the sum of its products with the noise.
template <class Access>
__device__ __forceinline__ void store_gradient_of_pack(const StyledNormBackward& a, const ImageShape& shape,
                                                       const PlaneShare& share, const Activation<Access>& activation,
                                                       typename Access::T mean,
                                                       const PlaneGradient<typename Access::T>& by, int64_t pack,
                                                       const Inputs<Access>& in, typename Access::T (&sums)[2]) {
  using T = typename Access::T;
  T noise[Access::kPack];
  noise_of_pack<Access>(a.norm, shape, share, pack, noise);
  typename Access::Raw out;
#pragma unroll
  for (int i = 0; i < Access::kPack; ++i) {
    const T v = activation.before(widen(in.x.elements[i]), noise[i]);
    T by_u = by.constant + by.by_deviation * (leaky(v, activation.slope) - mean);
    if (a.grad_y.data != nullptr) by_u += by.by_grad * widen(in.grad.elements[i]);
    const T by_x = leaky_backward(by_u, v, activation.slope);
    narrow(by_x, out.elements[i]);
    if (!Access::holds(shape, pack, i)) continue;
    sums[0] += by_x;
    sums[1] += by_x * noise[i];
  }
  if (a.grad_x.data != nullptr) Access::store(shape, a.grad_x, share.base(a.grad_x), pack, out);
}

template <class Access>
__device__ __forceinline__ PlaneGradient<typename Access::T> gradient_of_plane(
    const StyledNormBackward& a, const ImageShape& shape, const PlaneShare& share,
    const Normal<typename Access::T>& normal, typename Access::T sum_grad, typename Access::T sum_grad_normalised) {
  using T = typename Access::T;
  return plane_gradient(normal.std, normal.inverse,
                        T(1) + parameter<typename Access::S>(a.norm.scale, share.b, share.c, T(0)),
                        static_cast<T>(shape.pixels), sum_grad, sum_grad_normalised,
                        statistic<T>(a.grad_mean, share.b, share.c), statistic<T>(a.grad_std, share.b, share.c));
}

__device__ __forceinline__ bool adds_gradients_up(const StyledNormBackward& a) {
  return a.segment_grads[0] != nullptr || a.segment_grads[1] != nullptr;
}

template <class T>
__device__ __forceinline__ void store_segment(void* const (&sums)[2], int64_t at, const T (&values)[2]) {
  if (sums[0] != nullptr) static_cast<T*>(sums[0])[at] = values[0];
  if (sums[1] != nullptr) static_cast<T*>(sums[1])[at] = values[1];
}

template <class Access, int kBlock, int kHeld>
__global__ void __launch_bounds__(kBlock, kResident<typename Access::S, (kHeld <= 2 ? Access::kBlocks : 2) * kThreads / kBlock>)
    held_kernel(const __grid_constant__ StyledNormBackward a, const __grid_constant__ ImageShape shape,
                const __grid_constant__ PlaneCut cut) {
  using S = typename Access::S;
  using T = typename Access::T;
  const PlaneShare share = share_of_block(cut, shape.channels, blockIdx.x);
  const int lanes = cut.lanes(), start = static_cast<int>(share.first), end = static_cast<int>(share.last);
  Inputs<Access> held[kHeld];
#pragma unroll
  for (int k = 0; k < kHeld; ++k) {
    const int pack = start + k * lanes;
    if (pack < end) held[k] = load_inputs<Access>(a, shape, share, pack);
  }
  const int64_t plane = share.at(shape.channels);
  const Activation<Access> activation(a.norm, share);
  const Normal<T> normal(a, plane);
  T sums[2] = {T(0), T(0)};
  if (a.grad_y.data != nullptr) {
#pragma unroll
    for (int k = 0; k < kHeld; ++k) {
      const int pack = start + k * lanes;
      if (pack < end) add_pack(a, shape, share, activation, normal, pack, held[k], sums);
    }
    add_over_team<kBlock>(sums, lanes);
  }
  const bool stores = share.lane == 0 && share.active;
  if (stores && a.grad_shift.data != nullptr) store_gradient<S>(a.grad_shift, plane, sums[0]);
  if (stores && a.grad_scale.data != nullptr) store_gradient<S>(a.grad_scale, plane, sums[1]);
  if (a.grad_x.data == nullptr && !adds_gradients_up(a)) return;

  const auto by = gradient_of_plane<Access>(a, shape, share, normal, sums[0], sums[1]);
  T grads[2] = {T(0), T(0)};
#pragma unroll
  for (int k = 0; k < kHeld; ++k) {
    const int pack = start + k * lanes;
    if (pack < end) store_gradient_of_pack(a, shape, share, activation, normal.mean, by, pack, held[k], grads);
  }
  if (!adds_gradients_up(a)) return;
  add_over_team<kBlock>(grads, lanes);
  if (stores) store_segment(a.segment_grads, plane, grads);
}

template <class Access>
__global__ void __launch_bounds__(kThreads, kResident<typename Access::S, Access::kBlocks>)
    segment_kernel(const __grid_constant__ StyledNormBackward a, const __grid_constant__ ImageShape shape,
                   const __grid_constant__ PlaneCut cut) {
  using T = typename Access::T;
  const PlaneShare share = share_of_block(cut, shape.channels, blockIdx.x);
  const Activation<Access> activation(a.norm, share);
  const Normal<T> normal(a, share.at(shape.channels));
  T sums[2] = {T(0), T(0)};
#pragma unroll(Access::kAtOnce)
  for (int64_t pack = share.first; pack < share.last; pack += kThreads) {
    add_pack(a, shape, share, activation, normal, pack, load_inputs<Access>(a, shape, share, pack), sums);
  }
  add_over_team<kThreads>(sums, kThreads);
  if (threadIdx.x == 0) store_segment(a.segment_sums, share.segment_at(cut, shape.channels), sums);
}

template <class Access>
__global__ void __launch_bounds__(kThreads, kResident<typename Access::S, Access::kBlocks - 1>)
    apply_kernel(const __grid_constant__ StyledNormBackward a, const __grid_constant__ ImageShape shape,
                 const __grid_constant__ PlaneCut cut) {
  using T = typename Access::T;
  // Backwards: the last pixels read may still be in the cache.
  const PlaneShare share = share_of_block(cut, shape.channels, gridDim.x - 1 - blockIdx.x);
  const Activation<Access> activation(a.norm, share);
  const int64_t plane = share.at(shape.channels);
  const Normal<T> normal(a, plane);
  const bool through_y = a.grad_y.data != nullptr;
  const auto by = gradient_of_plane<Access>(a, shape, share, normal,
                                            through_y ? static_cast<const T*>(a.plane_sums[0])[plane] : T(0),
                                            through_y ? static_cast<const T*>(a.plane_sums[1])[plane] : T(0));
  T grads[2] = {T(0), T(0)};
#pragma unroll(Access::kAtOnce)
  for (int64_t pack = share.first; pack < share.last; pack += kThreads) {
    store_gradient_of_pack(a, shape, share, activation, normal.mean, by, pack,
                           load_inputs<Access>(a, shape, share, pack), grads);
  }
  if (!adds_gradients_up(a)) return;
  add_over_team<kThreads>(grads, kThreads);
  if (threadIdx.x == 0) store_segment(a.segment_grads, share.segment_at(cut, shape.channels), grads);
}

}  // namespace

int64_t plane_segments_of(const StyledNormBackward& a) {
  return with_storage_type(a.norm.dtype, [&](auto s) {
    return with_planes<decltype(s)>(
        a.norm,
        [&](auto access) { return cut_planes<decltype(access)>(a.norm, kBackwardHoldings<decltype(access)>).segments; },
        a.grad_y, a.grad_x);
  });
}

int launch_planes_backward(const StyledNormBackward& a, uint64_t stream) {
  return with_storage_type(a.norm.dtype, [&](auto s) {
    return with_planes<decltype(s)>(
        a.norm,
        [&](auto access) {
          using Access = decltype(access);
          const ImageShape shape(a.norm);
          const PlaneCut cut = cut_planes<Access>(a.norm, kBackwardHoldings<Access>);
          if (cut.segments > 1) {
            int error = 0;
            if (a.grad_y.data != nullptr) {
              error = launch(segment_kernel<Access>, cut.blocks(), kThreads, stream, a, shape, cut);
              if (error == 0) error = launch_finish_planes(a, cut.segments, stream);
            }
            if (error != 0 || !a.needs_elements()) return error;
            return launch(apply_kernel<Access>, cut.blocks(), kThreads, stream, a, shape, cut);
          }
          return with_holding(kBackwardHoldings<Access>, cut.holding, [&](auto i) {
            constexpr Holding holding = kBackwardHoldings<Access>[decltype(i)::value];
            const auto kernel = held_kernel<Access, holding.threads, holding.packs>;
            return launch(kernel, cut.blocks(), holding.threads, stream, a, shape, cut);
          });
        },
        a.grad_y, a.grad_x);
  });
}

}  // namespace sivae::cuda
