// The noise of a pack: Philox normals, computed where they are used, or an explicit eps, read from memory.
#pragma once

#include "../philox.h"
#include "access.cuh"
#include "launch.h"

namespace sivae::cuda {

// The four normals of one counter.
template <class T>
__device__ __forceinline__ void normals_of(uint64_t key, uint64_t offset, uint64_t group, T* normals) {
  uint32_t words[4];
  philox4x32_10(static_cast<uint32_t>(group), static_cast<uint32_t>(group >> 32), static_cast<uint32_t>(offset),
                static_cast<uint32_t>(offset >> 32), static_cast<uint32_t>(key), static_cast<uint32_t>(key >> 32),
                words);
  box_muller(words[0], words[1], normals[0], normals[1]);
  box_muller(words[2], words[3], normals[2], normals[3]);
}

template <class Access, class T>
__device__ __forceinline__ void noise_of(const DeviceLayout& layout, const Noise& noise, uint64_t key, const Place& p,
                                         T (&eps)[Access::kPack]) {
  if (noise.eps.data != nullptr) {
    const auto raw = Access::load(layout, noise.eps, p);
#pragma unroll
    for (int i = 0; i < Access::kPack; ++i) eps[i] = widen(raw.elements[i]);
    return;
  }
  // A multiple of 4, by the definition of a pack.
  const uint64_t index = static_cast<uint64_t>(p.row * layout.cols + p.first);
#pragma unroll
  for (int i = 0; i < Access::kPack; i += 4) normals_of(key, noise.offset, (index + i) / 4, eps + i);
}

// Without a seed the noise is explicit or not used.
__device__ __forceinline__ uint64_t key_of(const Noise& noise) {
  return noise.seed == nullptr ? 0 : static_cast<uint64_t>(*noise.seed);
}

}  // namespace sivae::cuda
