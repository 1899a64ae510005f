// The styled instance norm for planes that are runs of memory.
#include "planes.cuh"
#include "styled_norm_parts.h"

namespace sivae::cuda {
namespace {

// Adds up the moments of one part over the team. `pivot` is near the mean: the plane's first element.
template <int kBlock, class T>
__device__ __forceinline__ Moments<T> moments_over_team(const ShiftedSums<T>& sums, int own, T pivot, int64_t elements,
                                                        int lanes) {
  const T count = static_cast<T>(elements), part_count = static_cast<T>(own);
  const Moments<T> part = sums.moments(own);
  T first[1] = {mean_part(part, part_count, pivot)};
  add_over_team<kBlock>(first, lanes);
  const T estimate = pivot + first[0] / count;
  const DeviationParts<T> deviations = deviation_parts(part, part_count, estimate);
  T second[2] = {deviations.deviation, deviations.square};
  add_over_team<kBlock>(second, lanes);
  return combined(DeviationParts<T>{second[0], second[1]}, count, estimate);
}

// The first activated element of a segment.
template <class Access>
__device__ __forceinline__ typename Access::T first_element(const StyledNorm& a, const ImageShape& shape,
                                                            const PlaneShare& share,
                                                            const Activation<Access>& activation, int64_t pixel) {
  using T = typename Access::T;
  using S = typename Access::S;
  const T x = widen(static_cast<const S*>(a.x.data)[share.base(a.x) + shape.offset(a.x, pixel)]);
  T noise = T(0);
  if (a.noise.data != nullptr) {
    noise = element<S>(a.noise.data, a.noise_is_float, share.noise_base(a.noise) + shape.offset(a.noise, pixel));
  }
  return activation(x, noise);
}

// Adds up the activated elements of a pack and returns their number.
template <class Access>
__device__ __forceinline__ int add_pack(const StyledNorm& a, const ImageShape& shape, const PlaneShare& share,
                                        const Activation<Access>& activation, int64_t pack,
                                        const typename Access::Raw& raw, int before,
                                        ShiftedSums<typename Access::T>& sums) {
  using T = typename Access::T;
  T noise[Access::kPack];
  noise_of_pack<Access>(a, shape, share, pack, noise);
  int count = before;
#pragma unroll
  for (int i = 0; i < Access::kPack; ++i) {
    const T u = activation(widen(raw.elements[i]), noise[i]);
    if (i == 0 && before == 0) sums.pivot = pivot_of(u);  // a thread's packs start inside the plane
    if (Access::holds(shape, pack, i)) {
      sums.add(u);
      ++count;
    }
  }
  return count;
}

// (u - mean) by_deviation + shift.
template <class T>
struct Style {
  T mean, by_deviation, shift;
};

template <class S, class T>
__device__ __forceinline__ Style<T> style_of(const StyledNormForward& a, const PlaneShare& share, T mean, T rest,
                                                   T std) {
  const T scale = parameter<S>(a.norm.scale, share.b, share.c, T(0));
  const T by_deviation = inverse_std(std, static_cast<T>(a.norm.eps)) * (T(1) + scale);
  return {mean, by_deviation, parameter<S>(a.shift, share.b, share.c, T(0)) - rest * by_deviation};
}

template <class Access>
__device__ __forceinline__ void store_styled(const StyledNormForward& a, const ImageShape& shape,
                                             const PlaneShare& share, const Activation<Access>& activation,
                                             const Style<typename Access::T>& style, int64_t pack,
                                             const typename Access::Raw& raw) {
  using T = typename Access::T;
  T noise[Access::kPack];
  noise_of_pack<Access>(a.norm, shape, share, pack, noise);
  typename Access::Raw out;
#pragma unroll
  for (int i = 0; i < Access::kPack; ++i) {
    const T u = activation(widen(raw.elements[i]), noise[i]);
    narrow((u - style.mean) * style.by_deviation + style.shift, out.elements[i]);
  }
  Access::store(shape, a.y, share.base(a.y), pack, out);
}

template <class Access, int kBlock, int kHeld>
__global__ void __launch_bounds__(kBlock, kResident<typename Access::S, kHeld <= 4 ? Access::kBlocks * kThreads / kBlock : 1>)
    held_kernel(const __grid_constant__ StyledNormForward a, const __grid_constant__ ImageShape shape,
                const __grid_constant__ PlaneCut cut) {
  using T = typename Access::T;
  const PlaneShare share = share_of_block(cut, shape.channels, blockIdx.x);
  const int lanes = cut.lanes();
  const int64_t base = share.base(a.norm.x);
  const int start = static_cast<int>(share.first), end = static_cast<int>(share.last);
  typename Access::Raw held[kHeld];
#pragma unroll
  for (int k = 0; k < kHeld; ++k) {
    const int pack = start + k * lanes;
    if (pack < end) held[k] = Access::load(shape, a.norm.x, base, pack);
  }
  const Activation<Access> activation(a.norm, share);
  const T pivot = pivot_of(first_element(a.norm, shape, share, activation, 0));
  ShiftedSums<T> sums;
  int count = 0;
#pragma unroll
  for (int k = 0; k < kHeld; ++k) {
    const int pack = start + k * lanes;
    if (pack < end) count = add_pack(a.norm, shape, share, activation, pack, held[k], count, sums);
  }
  const Moments<T> all = moments_over_team<kBlock>(sums, count, pivot, shape.pixels, lanes);
  const T std = std_of_moments(all, static_cast<T>(shape.pixels));
  if (share.lane == 0 && share.active) {
    static_cast<T*>(a.mean)[share.at(shape.channels)] = all.mean;
    static_cast<T*>(a.std)[share.at(shape.channels)] = std;
  }
  const Style<T> style = style_of<typename Access::S>(a, share, all.mean, all.rest, std);
#pragma unroll
  for (int k = 0; k < kHeld; ++k) {
    const int pack = start + k * lanes;
    if (pack < end) store_styled(a, shape, share, activation, style, pack, held[k]);
  }
}

template <class Access>
__global__ void __launch_bounds__(kThreads, kResident<typename Access::S, Access::kBlocks>)
    segment_kernel(const __grid_constant__ StyledNormForward a, const __grid_constant__ ImageShape shape,
                   const __grid_constant__ PlaneCut cut) {
  using T = typename Access::T;
  const PlaneShare share = share_of_block(cut, shape.channels, blockIdx.x);
  const Activation<Access> activation(a.norm, share);
  const int64_t base = share.base(a.norm.x), start = share.segment * cut.packs_each * Access::kPack;
  const T pivot = pivot_of(first_element(a.norm, shape, share, activation, start));
  ShiftedSums<T> sums;
  int count = 0;
#pragma unroll (Access::kAtOnce)
  for (int64_t pack = share.first; pack < share.last; pack += kThreads) {
    count = add_pack(a.norm, shape, share, activation, pack, Access::load(shape, a.norm.x, base, pack), count, sums);
  }
  const int64_t end = start + cut.packs_each * Access::kPack;
  const int64_t elements = (end < shape.pixels ? end : shape.pixels) - start;
  const Moments<T> all = moments_over_team<kThreads>(sums, count, pivot, elements, kThreads);
  if (threadIdx.x == 0) {
    const int64_t at = share.segment_at(cut, shape.channels);
    static_cast<T*>(a.segment_mean)[at] = all.mean;
    static_cast<T*>(a.segment_rest)[at] = all.rest;
    static_cast<T*>(a.segment_squares)[at] = all.squares;
  }
}

template <class Access>
__global__ void __launch_bounds__(kThreads, kResident<typename Access::S, Access::kBlocks>)
    apply_kernel(const __grid_constant__ StyledNormForward a, const __grid_constant__ ImageShape shape,
                 const __grid_constant__ PlaneCut cut) {
  using T = typename Access::T;
  // Backwards: the last pixels read may still be in the cache.
  const PlaneShare share = share_of_block(cut, shape.channels, gridDim.x - 1 - blockIdx.x);
  const Activation<Access> activation(a.norm, share);
  const int64_t base = share.base(a.norm.x), at = share.at(shape.channels);
  const Style<T> style = style_of<typename Access::S>(a, share, static_cast<const T*>(a.mean)[at],
                                                      static_cast<const T*>(a.rest)[at],
                                                      static_cast<const T*>(a.std)[at]);
#pragma unroll (Access::kAtOnce)
  for (int64_t pack = share.first; pack < share.last; pack += kThreads) {
    store_styled(a, shape, share, activation, style, pack, Access::load(shape, a.norm.x, base, pack));
  }
}

}  // namespace

int64_t plane_segments_of(const StyledNormForward& a) {
  return with_storage_type(a.norm.dtype, [&](auto s) {
    return with_planes<decltype(s)>(
        a.norm, [&](auto access) { return cut_planes<decltype(access)>(a.norm, kForwardHoldings<decltype(access)>).segments; }, a.y);
  });
}

int launch_planes_forward(const StyledNormForward& a, uint64_t stream) {
  return with_storage_type(a.norm.dtype, [&](auto s) {
    return with_planes<decltype(s)>(
        a.norm,
        [&](auto access) {
          using Access = decltype(access);
          const ImageShape shape(a.norm);
          const PlaneCut cut = cut_planes<Access>(a.norm, kForwardHoldings<Access>);
          if (cut.segments > 1) {
            int error = launch(segment_kernel<Access>, cut.blocks(), kThreads, stream, a, shape, cut);
            if (error == 0) error = launch_merge_moments(a, cut.segments, cut.packs_each * Access::kPack, stream);
            return error != 0 ? error : launch(apply_kernel<Access>, cut.blocks(), kThreads, stream, a, shape, cut);
          }
          return with_holding(kForwardHoldings<Access>, cut.holding, [&](auto i) {
            constexpr Holding holding = kForwardHoldings<Access>[decltype(i)::value];
            const auto kernel = held_kernel<Access, holding.threads, holding.packs>;
            return launch(kernel, cut.blocks(), holding.threads, stream, a, shape, cut);
          });
        },
        a.y);
  });
}

}  // namespace sivae::cuda
