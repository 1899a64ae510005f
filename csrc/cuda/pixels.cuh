// Distribute images whose channels are innermost in memory among threads: a thread takes one pack of channels and goes
// from pixel to pixel, so that a warp reads runs of channels.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>

#include "../styled_norm.h"
#include "divisor.h"
#include "image_access.cuh"
#include "storage.cuh"
#include "teams.cuh"

namespace sivae::cuda {

struct PixelCut {
  int lanes_log2 = 0;        // threads side by side along the packs of channels, at most a warp
  int64_t packs = 0;         // of a pixel
  int64_t groups = 1;        // blocks side by side along them
  int64_t segments = 1;      // of a sample's pixels; one: the block that sums a plane also reads it again
  int64_t pixels_each = 0;   // of a segment, the last one's perhaps fewer
  int64_t blocks = 0;
  Divisor by_groups{1}, by_segments{1};

  __host__ __device__ __forceinline__ int lanes() const { return 1 << lanes_log2; }
  __host__ __device__ __forceinline__ int pixels_at_once() const { return kThreads >> lanes_log2; }
};

template <class Access>
PixelCut cut_pixels(const StyledNorm& a) {
  constexpr int64_t kBlocksWanted = 1024;   // that fill a large chip several times
  constexpr int64_t kWhole = 1024;          // pixels of the largest image that one block takes
  constexpr int64_t kWholeBytes = 64;       // of a pixel that it takes then: full sectors
  constexpr int64_t kDeepest = 32, kShallowest = 4;  // pixels of a thread
  const int64_t pixels = a.height * a.width;
  PixelCut cut;
  cut.packs = (a.channels + Access::kPack - 1) / Access::kPack;
  const bool whole = pixels <= kWhole;
  const int64_t widest = whole ? std::max<int64_t>(kWholeBytes / (Access::kPack * sizeof(typename Access::S)), 1) : kWarp;
  while (cut.lanes() < std::min<int64_t>(widest, kWarp) && cut.lanes() < cut.packs) ++cut.lanes_log2;
  cut.groups = (cut.packs + cut.lanes() - 1) / cut.lanes();
  cut.by_groups = Divisor(cut.groups);
  cut.pixels_each = pixels;
  if (!whole) {
    int64_t depth = kDeepest;
    while (depth > kShallowest && a.batch * cut.groups * pixels < kBlocksWanted * depth * cut.pixels_at_once()) depth /= 2;
    cut.pixels_each = depth * cut.pixels_at_once();
    cut.segments = (pixels + cut.pixels_each - 1) / cut.pixels_each;
    cut.by_segments = Divisor(cut.segments);
  }
  cut.blocks = a.batch * cut.segments * cut.groups;
  return cut;
}

// This thread's part of the work: the pixels first, first + pixels_at_once, ... below last, of one pack of channels.
struct PixelShare {
  int64_t b, segment, pack;
  int64_t start, end;   // of the segment
  int64_t first, last;
  int line;             // which of the pixels at once
  bool active;          // else there are no such channels

  __device__ __forceinline__ int64_t base(const Images& t) const { return b * t.batch; }
};

__device__ __forceinline__ PixelShare share_of_block(const ImageShape& shape, const PixelCut& cut, int64_t block) {
  PixelShare share;
  const int64_t segment = cut.by_groups.quotient(block);
  share.b = cut.by_segments.quotient(segment);
  share.segment = segment - share.b * cut.segments;
  share.pack = (block - segment * cut.groups) * cut.lanes() + (threadIdx.x & (cut.lanes() - 1));
  share.active = share.pack < cut.packs;
  share.line = static_cast<int>(threadIdx.x) >> cut.lanes_log2;
  share.start = share.segment * cut.pixels_each;
  share.end = share.start + cut.pixels_each < shape.pixels ? share.start + cut.pixels_each : shape.pixels;
  share.first = share.start + share.line;
  share.last = share.active ? share.end : share.first;
  return share;
}

// The activation before the norm, for the channels of a pack.
template <class Access>
struct ChannelActivation {
  using S = typename Access::S;
  using T = typename ComputeType<S>::type;
  static constexpr int kPack = Access::kPack;
  T weight[kPack], bias[kPack], slope;

  __device__ __forceinline__ ChannelActivation(const StyledNorm& a, const PixelShare& share)
      : slope(static_cast<T>(a.negative_slope)) {
#pragma unroll
    for (int i = 0; i < kPack; ++i) {
      const int64_t c = share.pack * kPack + i;
      weight[i] = share.active ? parameter<S>(a.noise_weight, 0, c, T(0)) : T(0);
      bias[i] = share.active ? parameter<S>(a.bias, 0, c, T(0)) : T(0);
    }
  }

  __device__ __forceinline__ T before(int i, T x, T noise) const { return before_leaky(x, noise, weight[i], bias[i]); }
  __device__ __forceinline__ T operator()(int i, T x, T noise) const { return leaky(before(i, x, noise), slope); }
};

template <class S>
__device__ __forceinline__ typename ComputeType<S>::type noise_of_pixel(const StyledNorm& a, const ImageShape& shape,
                                                                       const PixelShare& share, int64_t pixel) {
  if (a.noise.data == nullptr) return typename ComputeType<S>::type(0);
  return element<S>(a.noise.data, a.noise_is_float, share.base(a.noise) + shape.offset(a.noise, pixel));
}

// Sums over the threads of the block that have the same channels, in each of them. All threads must call it.
template <class T, int kPack>
__device__ __forceinline__ void add_over_lines(T (&values)[kPack], const PixelCut& cut) {
  constexpr int kWarps = kThreads / kWarp;
  __shared__ T warp_sums[kWarps][kPack][kWarp];
  const int lane = static_cast<int>(threadIdx.x) & (cut.lanes() - 1), warp = static_cast<int>(threadIdx.x) / kWarp;
#pragma unroll
  for (int i = 0; i < kPack; ++i) {
    for (int distance = kWarp / 2; distance >= cut.lanes(); distance /= 2) {
      values[i] += __shfl_xor_sync(0xffffffffu, values[i], distance, kWarp);
    }
    if (static_cast<int>(threadIdx.x) % kWarp < cut.lanes()) warp_sums[warp][i][lane] = values[i];
  }
  __syncthreads();
#pragma unroll
  for (int i = 0; i < kPack; ++i) {
    T sum = T(0);
#pragma unroll
    for (int w = 0; w < kWarps; ++w) sum += warp_sums[w][i][lane];
    values[i] = sum;
  }
  __syncthreads();  // before the next call writes
}

}  // namespace sivae::cuda
