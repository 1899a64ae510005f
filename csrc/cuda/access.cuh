// Read and write samples in packs of consecutive elements, with 16-byte accesses where memory allows them.
//
// A pack starts at a logical index that is a multiple of 4, so it holds whole Philox groups.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "launch.h"
#include "storage.cuh"

namespace sivae::cuda {

// A pack's logical position.
struct Place {
  int64_t row;
  int64_t first;  // column of its first element; General's may be before the row's first or after its last
};

__device__ __forceinline__ void store_word(uint4* at, const uint4& word) {
#if defined(__CUDA_ARCH__)
  // In PTX: the compiler would split some of these stores into four of 4 bytes.
  asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(at), "r"(word.x), "r"(word.y), "r"(word.z), "r"(word.w)
               : "memory");
#else
  *at = word;
#endif
}

// For rows that are runs of memory, start at a multiple of 16 bytes and hold whole packs.
template <class Storage>
struct Dense {
  using S = Storage;
  static constexpr int kPack = sizeof(S) >= 4 ? 4 : 8;
  static constexpr int kWords = static_cast<int>(kPack * sizeof(S) / sizeof(uint4));
  template <int loads>
  static constexpr int kPacks = kWords == 1 ? loads : 1;  // loaded at once; two of doubles would spill

  // A pack in its storage type, in registers until it is used.
  struct Raw {
    union {
      uint4 words[kWords];
      S elements[kPack];
    };
    __device__ Raw() {}
  };

  static __host__ __device__ __forceinline__ int64_t packs_per_row(const DeviceLayout& layout) { return layout.cols / kPack; }

  static __device__ __forceinline__ Place place(const DeviceLayout&, int64_t row, int64_t pack) { return {row, pack * kPack}; }

  static __device__ __forceinline__ bool holds(const DeviceLayout&, const Place&, int) { return true; }

  static __device__ __forceinline__ Raw load(const DeviceLayout&, const Strided& t, const Place& p) {
    const auto* at = reinterpret_cast<const uint4*>(static_cast<const S*>(t.data) + p.row * t.row_stride + p.first);
    Raw raw;
#pragma unroll
    for (int w = 0; w < kWords; ++w) raw.words[w] = at[w];
    return raw;
  }

  static __device__ __forceinline__ void store(const DeviceLayout&, const Strided& t, const Place& p, const Raw& raw) {
    auto* at = reinterpret_cast<uint4*>(static_cast<S*>(t.data) + p.row * t.row_stride + p.first);
#pragma unroll
    for (int w = 0; w < kWords; ++w) store_word(at + w, raw.words[w]);
  }

  static bool fits(const DeviceLayout& layout, const Strided& t) {
    if (t.data == nullptr) return true;
    return reinterpret_cast<uintptr_t>(t.data) % sizeof(uint4) == 0 && layout.ndim == 1 && t.strides[0] == 1 &&
           (layout.rows == 1 || t.row_stride * static_cast<int64_t>(sizeof(S)) % static_cast<int64_t>(sizeof(uint4)) == 0);
  }
  template <class... Operands>
  static bool fits_all(const DeviceLayout& layout, const Operands&... operands) {
    return layout.cols % kPack == 0 && (fits(layout, operands) && ...);
  }
};

// For any strides and any number of columns: element by element.
template <class Storage>
struct General {
  using S = Storage;
  static constexpr int kPack = 4;
  template <int loads>
  static constexpr int kPacks = 1;

  struct Raw {
    S elements[kPack];
    __device__ Raw() {}
  };

  // The most packs that a row can touch. It starts at a multiple of gcd(cols, 4) elements.
  static __host__ __device__ __forceinline__ int64_t packs_per_row(const DeviceLayout& layout) {
    const int64_t before = layout.cols % kPack == 0 ? 0 : (layout.cols % 2 == 0 ? 2 : 3);
    return (layout.cols + before + kPack - 1) / kPack;
  }

  static __device__ __forceinline__ Place place(const DeviceLayout& layout, int64_t row, int64_t pack) {
    const int64_t before = row * layout.cols & (kPack - 1);  // elements of the first pack that precede the row
    return {row, pack * kPack - before};
  }

  static __device__ __forceinline__ bool holds(const DeviceLayout& layout, const Place& p, int lane) {
    const int64_t col = p.first + lane;
    return col >= 0 && col < layout.cols;
  }

  static __device__ __forceinline__ int64_t offset(const DeviceLayout& layout, const Strided& t, int64_t col) {
    if (layout.ndim == 1) return col * t.strides[0];
    int64_t sum = 0;
    for (int d = layout.ndim - 1; d >= 0; --d) {
      const int64_t quotient = layout.by_size[d].quotient(col);
      sum += (col - quotient * layout.sizes[d]) * t.strides[d];
      col = quotient;
    }
    return sum;
  }

  // Elements outside the row are 0; see `holds`.
  static __device__ __forceinline__ Raw load(const DeviceLayout& layout, const Strided& t, const Place& p) {
    Raw raw;
#pragma unroll
    for (int lane = 0; lane < kPack; ++lane) {
      if (holds(layout, p, lane)) {
        raw.elements[lane] = static_cast<const S*>(t.data)[p.row * t.row_stride + offset(layout, t, p.first + lane)];
      } else {
        narrow(typename ComputeType<S>::type(0), raw.elements[lane]);
      }
    }
    return raw;
  }

  static __device__ __forceinline__ void store(const DeviceLayout& layout, const Strided& t, const Place& p, const Raw& raw) {
#pragma unroll
    for (int lane = 0; lane < kPack; ++lane) {
      if (holds(layout, p, lane)) {
        static_cast<S*>(t.data)[p.row * t.row_stride + offset(layout, t, p.first + lane)] = raw.elements[lane];
      }
    }
  }
};

// On the host: calls `call` with Dense where all operands allow it, else with General.
template <class S, class F, class... Operands>
auto with_access(const DeviceLayout& layout, F call, const Operands&... operands) -> decltype(call(Dense<S>())) {
  return Dense<S>::fits_all(layout, operands...) ? call(Dense<S>()) : call(General<S>());
}

}  // namespace sivae::cuda
