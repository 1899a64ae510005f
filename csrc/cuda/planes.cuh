// Distribute planes [H, W] that are runs of memory among threads.
//
// A plane that fits the registers of a team is read once. A larger one is cut into segments and read twice. The cut
// depends only on shape and layout.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "../styled_norm.h"
#include "divisor.h"
#include "image_access.cuh"
#include "moments.cuh"
#include "storage.cuh"
#include "teams.cuh"

namespace sivae::cuda {

// Threads of a block, and the packs of each operand that each keeps in its registers.
struct Holding {
  int threads, packs;
};

// From small to large. Strided accesses and doubles need more registers.
template <class Access>
constexpr Holding kForwardHoldings[1] = {{kThreads, 4}};
template <class S>
constexpr Holding kForwardHoldings<PackedPlanes<S>>[4] = {{kThreads, 4}, {512, 4}, {1024, 4}, {512, 16}};
template <>
constexpr Holding kForwardHoldings<PackedPlanes<double>>[1] = {{kThreads, 4}};

// Of two operands.
template <class Access>
constexpr Holding kBackwardHoldings[1] = {{kThreads, 2}};
template <class S>
constexpr Holding kBackwardHoldings<PackedPlanes<S>>[4] = {{kThreads, 2}, {512, 2}, {kThreads, 8}, {512, 8}};
template <>
constexpr Holding kBackwardHoldings<PackedPlanes<double>>[1] = {{kThreads, 2}};

struct PlaneCut {
  int lanes_log2 = kLanesLog2;  // of a team's threads; where it has more than a warp they are the block's
  int threads = kThreads;       // of a block
  int holding = 0;              // which of the list; where there are no segments
  int64_t packs = 0;            // of a plane
  int64_t segments = 1;         // of a plane
  int64_t packs_each = 0;       // packs of a segment, the last one's perhaps fewer
  int64_t teams = 0;            // one for each segment of each plane
  Divisor by_segments{1}, by_channels{1};

  __host__ __device__ __forceinline__ int lanes() const { return 1 << lanes_log2; }
  int64_t blocks() const { return (teams * lanes() + threads - 1) / threads; }
};

template <class Access, int kHoldings>
PlaneCut cut_planes(const StyledNorm& a, const Holding (&holdings)[kHoldings]) {
  // Blocks that fill a large chip: 132 multiprocessors with several of these blocks each.
  constexpr int64_t kBlocksWanted = 1024;
  constexpr int64_t kDeepest = 8;  // packs of a thread; from here on another block costs nothing
  const int64_t planes = a.batch * a.channels;
  PlaneCut cut;
  cut.packs = (a.height * a.width + Access::kPack - 1) / Access::kPack;
  cut.by_channels = Divisor(a.channels);
  cut.packs_each = cut.packs;
  cut.teams = planes;
  int64_t depth = 1;  // packs of a thread, so that enough threads have work
  while (depth < kDeepest && 2 * depth * kBlocksWanted * kThreads <= planes * cut.packs) depth *= 2;

  const int64_t by_warp = std::min<int64_t>(depth, holdings[0].packs);
  if (cut.packs <= int64_t{holdings[0].packs} * kWarp) {
    cut.lanes_log2 = 0;
    while (cut.lanes() < kWarp && cut.lanes() * by_warp < cut.packs) ++cut.lanes_log2;
    return cut;
  }
  // A few large planes would otherwise leave most of the chip idle.
  const bool few = planes < kWarp && cut.packs > int64_t{holdings[0].packs} * kThreads;
  for (int i = 0; i < kHoldings && !few; ++i) {
    if (cut.packs > int64_t{holdings[i].packs} * holdings[i].threads) continue;
    cut.holding = i;
    cut.threads = holdings[i].threads;
    while (cut.lanes() < cut.threads) ++cut.lanes_log2;
    return cut;
  }
  cut.packs_each = std::max<int64_t>(depth, 2) * kThreads;
  cut.segments = (cut.packs + cut.packs_each - 1) / cut.packs_each;
  cut.by_segments = Divisor(cut.segments);
  cut.teams = planes * cut.segments;
  return cut;
}

// Calls `call` with the index of the holding as a compile-time number.
template <int i = 0, int kHoldings, class F>
int with_holding(const Holding (&holdings)[kHoldings], int index, F call) {
  if constexpr (i + 1 < kHoldings) {
    if (index != i) return with_holding<i + 1>(holdings, index, call);
  }
  return call(std::integral_constant<int, i>());
}

// This thread's part of the work: the packs first, first + lanes, ... below last of one plane.
struct PlaneShare {
  int64_t b, c, segment;
  int64_t first, last;
  int lane;
  bool active;  // else there is no such plane

  __device__ __forceinline__ int64_t at(int64_t channels) const { return b * channels + c; }
  __device__ __forceinline__ int64_t segment_at(const PlaneCut& cut, int64_t channels) const {
    return (b * cut.segments + segment) * channels + c;
  }
  __device__ __forceinline__ int64_t base(const Images& t) const { return b * t.batch + c * t.channel; }
  __device__ __forceinline__ int64_t noise_base(const Images& noise) const { return b * noise.batch; }
};

__device__ __forceinline__ PlaneShare share_of_block(const PlaneCut& cut, int64_t channels, int64_t block) {
  PlaneShare share;
  const int64_t team = (block * cut.threads + threadIdx.x) >> cut.lanes_log2;
  share.active = team < cut.teams;
  share.lane = static_cast<int>(threadIdx.x) & (cut.lanes() - 1);
  const int64_t plane = share.active ? cut.by_segments.quotient(team) : 0;
  share.segment = share.active ? team - plane * cut.segments : 0;
  share.b = cut.by_channels.quotient(plane);
  share.c = plane - share.b * channels;
  const int64_t start = share.segment * cut.packs_each;
  const int64_t end = start + cut.packs_each < cut.packs ? start + cut.packs_each : cut.packs;
  share.first = start + share.lane;
  share.last = share.active ? end : share.first;
  return share;
}

// The activation before the norm, for one plane.
template <class Access>
struct Activation {
  using T = typename Access::T;
  T weight, bias, slope;

  __device__ __forceinline__ Activation(const StyledNorm& a, const PlaneShare& share)
      : weight(parameter<typename Access::S>(a.noise_weight, 0, share.c, T(0))),
        bias(parameter<typename Access::S>(a.bias, 0, share.c, T(0))),
        slope(static_cast<T>(a.negative_slope)) {}

  __device__ __forceinline__ T before(T x, T noise) const { return before_leaky(x, noise, weight, bias); }
  __device__ __forceinline__ T operator()(T x, T noise) const { return leaky(before(x, noise), slope); }
};

template <class Access>
__device__ __forceinline__ void noise_of_pack(const StyledNorm& a, const ImageShape& shape, const PlaneShare& share,
                                              int64_t pack, typename Access::T (&noise)[Access::kPack]) {
  if (a.noise.data == nullptr) {
#pragma unroll
    for (int i = 0; i < Access::kPack; ++i) noise[i] = typename Access::T(0);
  } else {
    Access::load_noise(shape, a.noise, a.noise_is_float, share.noise_base(a.noise), pack, noise);
  }
}

}  // namespace sivae::cuda
