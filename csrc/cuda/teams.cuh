// Distribute the samples of a call among threads, and add up over the threads that work together.
//
// A team is 1 to 32 neighboring threads of a warp, or a whole block. It works on one segment: a sample, or a part of a
// large sample. The cut depends only on the shape.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "divisor.h"

namespace sivae::cuda {

constexpr int kThreads = 256;
constexpr int kWarp = 32;
constexpr int kWide = 1024;  // threads of the one block that reduces a batch

constexpr int kLanesLog2 = 8;  // of a block
static_assert(kThreads == 1 << kLanesLog2);

// Blocks that must fit a multiprocessor at once. This sets the number of registers: without it the compiler sometimes
// takes too few and spills. Doubles need twice as many.
template <class S, int blocks>
constexpr int kResident = sizeof(S) == 8 ? 1 : blocks;

struct Cut {
  int lanes_log2 = kLanesLog2;  // of a team's threads
  int64_t per_row = 1;          // segments of a row
  Divisor by_per_row{1};
  int64_t packs_each = 0;       // packs of a segment, the last one's perhaps fewer
  int64_t packs_per_row = 0;
  int64_t segments = 0;

  __host__ __device__ __forceinline__ int lanes() const { return 1 << lanes_log2; }
};

inline Cut cut_rows(int64_t rows, int64_t packs_per_row) {
  // Blocks that fill a large chip (132 multiprocessors with 3 to 6 of these blocks each), and packs of a thread from
  // which on another block costs nothing.
  constexpr int64_t kBlocksWanted = 1024, kPacksEnough = 8;
  Cut cut;
  cut.packs_per_row = packs_per_row;
  const int64_t total = rows * packs_per_row;
  // Packs per thread, so that the chip's threads all have work; a power of two, so that few threads end with single
  // packs.
  int64_t depth = 1;
  while (depth < kPacksEnough && 2 * depth * kBlocksWanted * kThreads <= total) depth *= 2;
  if (packs_per_row <= kWarp * depth) {
    cut.lanes_log2 = 0;
    while (cut.lanes() < kWarp && cut.lanes() * depth < packs_per_row) ++cut.lanes_log2;
    cut.packs_each = packs_per_row;
  } else if (packs_per_row <= kPacksEnough * kThreads) {
    cut.packs_each = packs_per_row;  // a block per row: a few more packs per thread cost less than a second kernel
  } else {
    cut.packs_each = depth * kThreads;
    cut.per_row = (packs_per_row + cut.packs_each - 1) / cut.packs_each;
    cut.by_per_row = Divisor(cut.per_row);
  }
  cut.segments = rows * cut.per_row;
  return cut;
}

// This thread's part of the work: packs first, first + lanes, ... below last, of one row; none beyond the last segment.
struct Share {
  int64_t segment, row, first, last;
  int lane;
};

__device__ __forceinline__ Share share_of(const Cut& cut) {
  Share share;
  const int64_t thread = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  share.segment = thread >> cut.lanes_log2;
  share.lane = static_cast<int>(threadIdx.x) & (cut.lanes() - 1);
  share.row = cut.by_per_row.quotient(share.segment);
  const int64_t start = (share.segment - share.row * cut.per_row) * cut.packs_each;
  const int64_t end = start + cut.packs_each < cut.packs_per_row ? start + cut.packs_each : cut.packs_per_row;
  share.first = start + share.lane;
  share.last = share.segment < cut.segments ? end : share.first;
  return share;
}

inline int64_t blocks_of(const Cut& cut) { return (cut.segments * cut.lanes() + kThreads - 1) / kThreads; }

// Calls use(place, load(place)) for this thread's packs (first, first + lanes, ...). It loads kAtOnce packs before it
// uses the first of them, and the last ones one by one.
template <class Access, int kAtOnce, class Layout, class Load, class Use>
__device__ __forceinline__ void for_each_pack(const Layout& layout, const Share& share, int lanes, Load load, Use use) {
  const auto place = [&](int64_t pack) { return Access::place(layout, share.row, pack); };
  int64_t pack = share.first;
  if constexpr (kAtOnce > 1) {
    for (; pack + (kAtOnce - 1) * lanes < share.last; pack += kAtOnce * lanes) {
      decltype(load(place(0))) loaded[kAtOnce];
#pragma unroll
      for (int k = 0; k < kAtOnce; ++k) loaded[k] = load(place(pack + k * lanes));
#pragma unroll
      for (int k = 0; k < kAtOnce; ++k) use(place(pack + k * lanes), loaded[k]);
    }
  }
  for (; pack < share.last; pack += lanes) use(place(pack), load(place(pack)));
}

template <class T>
__device__ __forceinline__ T sum_over_lanes(T value, int lanes) {
  for (int distance = lanes / 2; distance > 0; distance /= 2) {
    value += __shfl_xor_sync(0xffffffffu, value, distance, kWarp);
  }
  return value;
}

// The sum over the block's threads, in thread 0. All of them must call it, once in a kernel.
template <class T, int kBlock>
__device__ __forceinline__ T sum_over_block(T value) {
  __shared__ T warp_sums[kBlock / kWarp];
  value = sum_over_lanes(value, kWarp);
  if (threadIdx.x % kWarp == 0) warp_sums[threadIdx.x / kWarp] = value;
  __syncthreads();
  if (threadIdx.x < kWarp) {
    value = sum_over_lanes(threadIdx.x < kBlock / kWarp ? warp_sums[threadIdx.x] : T(0), kWarp);
  }
  return value;
}

// The sum over the team, in its first thread. All threads of the block must call it, once in a kernel.
template <class T>
__device__ __forceinline__ T sum_over_team(T value, int lanes) {
  return lanes <= kWarp ? sum_over_lanes(value, lanes) : sum_over_block<T, kThreads>(value);
}

// The sums of several values over the team, in all of its threads. All threads of the block must call it.
template <int kBlock, class T, int kCount>
__device__ __forceinline__ void add_over_team(T (&values)[kCount], int lanes) {
  if (lanes <= kWarp) {
#pragma unroll
    for (int k = 0; k < kCount; ++k) values[k] = sum_over_lanes(values[k], lanes);
    return;
  }
  __shared__ T warp_sums[kCount][kBlock / kWarp];
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
#pragma unroll
  for (int k = 0; k < kCount; ++k) {
    values[k] = sum_over_lanes(values[k], kWarp);
    if (lane == 0) warp_sums[k][threadIdx.x / kWarp] = values[k];
  }
  __syncthreads();
#pragma unroll
  for (int k = 0; k < kCount; ++k) {
    values[k] = sum_over_lanes(lane < kBlock / kWarp ? warp_sums[k][lane] : T(0), kWarp);
  }
  __syncthreads();  // before the next call writes
}

// Launches `kernel` over `blocks` blocks of `threads`.
template <class... Parameters, class... Arguments>
int launch(void (*kernel)(Parameters...), int64_t blocks, int threads, uint64_t stream, Arguments&&... arguments) {
  if (blocks == 0) return static_cast<int>(cudaSuccess);
  if (blocks > INT32_MAX) return static_cast<int>(cudaErrorInvalidConfiguration);
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.stream = reinterpret_cast<cudaStream_t>(stream);
  const cudaError_t error = cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...);
  if (error != cudaSuccess) (void)cudaGetLastError();  // reported here, so not again by a later launch
  return static_cast<int>(error);
}

}  // namespace sivae::cuda
