// Read and write images [B, C, H, W] in place: along a plane, or along the channels of a pixel.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <initializer_list>

#include "access.cuh"
#include "divisor.h"
#include "storage.cuh"
#include "styled_norm_launch.h"

namespace sivae::cuda {

struct ImageShape {
  int64_t batch = 0, channels = 0, pixels = 0, width = 0;
  Divisor by_width;

  ImageShape() = default;
  explicit ImageShape(const StyledNorm& a)
      : batch(a.batch), channels(a.channels), pixels(a.height * a.width), width(a.width), by_width(a.width) {}

  // Pixels one after the other, at the stride of a column.
  bool in_line(const Images& t) const { return t.row == t.column * width; }

  __device__ __forceinline__ int64_t offset(const Images& t, int64_t pixel) const {
    if (t.row == t.column * width) return pixel * t.column;
    const int64_t row = by_width.quotient(pixel);
    return row * t.row + (pixel - row * width) * t.column;
  }
};

template <class S>
__device__ __forceinline__ typename ComputeType<S>::type element(const void* data, bool is_float, int64_t at) {
  if (is_float) return static_cast<typename ComputeType<S>::type>(static_cast<const float*>(data)[at]);
  return widen(static_cast<const S*>(data)[at]);
}

// One value of a parameter, or `absent`.
template <class S>
__device__ __forceinline__ typename ComputeType<S>::type parameter(const Parameter& p, int64_t b, int64_t c,
                                                                   typename ComputeType<S>::type absent) {
  return p.data == nullptr ? absent : element<S>(p.data, p.is_float, b * p.batch + c * p.channel);
}

// One value of a parameter in the arithmetic type, or 0.
template <class T>
__device__ __forceinline__ T statistic(const Parameter& p, int64_t b, int64_t c) {
  return p.data == nullptr ? T(0) : static_cast<const T*>(p.data)[b * p.batch + c * p.channel];
}

template <class S, class T>
__device__ __forceinline__ void store_gradient(const ParameterGradient& g, int64_t at, T value) {
  if (g.is_float) {
    static_cast<float*>(g.data)[at] = static_cast<float>(value);
  } else {
    narrow(value, static_cast<S*>(g.data)[at]);
  }
}

// Whether all other strides allow 16-byte accesses to packs along `inner`.
template <class S>
bool packs_are_aligned(const Images& t, int64_t inner, std::initializer_list<int64_t> strides) {
  if (t.data == nullptr) return true;
  if (inner != 1 || reinterpret_cast<uintptr_t>(t.data) % sizeof(uint4) != 0) return false;
  for (const int64_t stride : strides) {
    if (stride * static_cast<int64_t>(sizeof(S)) % static_cast<int64_t>(sizeof(uint4)) != 0) return false;
  }
  return true;
}

template <class S>
__device__ __forceinline__ typename Dense<S>::Raw load_pack(const S* from) {
  const auto* at = reinterpret_cast<const uint4*>(from);
  typename Dense<S>::Raw raw;
#pragma unroll
  for (int w = 0; w < Dense<S>::kWords; ++w) raw.words[w] = at[w];
  return raw;
}

template <class S>
__device__ __forceinline__ void store_pack(S* to, const typename Dense<S>::Raw& raw) {
#pragma unroll
  for (int w = 0; w < Dense<S>::kWords; ++w) store_word(reinterpret_cast<uint4*>(to) + w, raw.words[w]);
}

// For planes that are a run of memory and hold whole packs, each at a multiple of 16 bytes. `base` is a plane's start.
template <class Storage>
struct PackedPlanes {
  using S = Storage;
  using T = typename ComputeType<S>::type;
  using Raw = typename Dense<S>::Raw;
  static constexpr int kPack = Dense<S>::kPack;
  static constexpr int kAtOnce = 2;  // packs loaded at once; more would spill
  static constexpr int kBlocks = 4;  // of kThreads threads that must fit a multiprocessor at once

  static __device__ __forceinline__ bool holds(const ImageShape&, int64_t, int) { return true; }

  static __device__ __forceinline__ Raw load(const ImageShape&, const Images& t, int64_t base, int64_t pack) {
    return load_pack(static_cast<const S*>(t.data) + base + pack * kPack);
  }

  static __device__ __forceinline__ void store(const ImageShape&, const Images& t, int64_t base, int64_t pack,
                                               const Raw& raw) {
    store_pack(static_cast<S*>(t.data) + base + pack * kPack, raw);
  }

  static __device__ __forceinline__ void load_noise(const ImageShape&, const Images& t, bool is_float, int64_t base,
                                                    int64_t pack, T (&noise)[kPack]) {
    const int64_t at = base + pack * kPack;
    if (is_float && sizeof(S) != sizeof(float)) {
#pragma unroll
      for (int w = 0; w < kPack; w += Dense<float>::kPack) {
        const auto raw = load_pack(static_cast<const float*>(t.data) + at + w);
#pragma unroll
        for (int i = 0; i < Dense<float>::kPack; ++i) noise[w + i] = static_cast<T>(raw.elements[i]);
      }
    } else {
      const Raw raw = load_pack(static_cast<const S*>(t.data) + at);
#pragma unroll
      for (int i = 0; i < kPack; ++i) noise[i] = widen(raw.elements[i]);
    }
  }

  template <class... Operands>
  static bool fits(const StyledNorm& a, const Operands&... operands) {
    const ImageShape shape(a);
    const auto dense = [&](const Images& t) {
      return packs_are_aligned<S>(t, t.column, {t.batch, t.channel}) && (t.data == nullptr || shape.in_line(t));
    };
    const bool noise = a.noise_is_float ? packs_are_aligned<float>(a.noise, a.noise.column, {a.noise.batch})
                                        : packs_are_aligned<S>(a.noise, a.noise.column, {a.noise.batch});
    return shape.pixels % kPack == 0 && dense(a.x) && noise && (a.noise.data == nullptr || shape.in_line(a.noise)) &&
           (dense(operands) && ...);
  }
};

// For any strides and any number of pixels: element by element.
template <class Storage>
struct StridedPlanes {
  using S = Storage;
  using T = typename ComputeType<S>::type;
  static constexpr int kPack = 4;
  static constexpr int kAtOnce = 1;
  static constexpr int kBlocks = 2;

  struct Raw {
    S elements[kPack];
    __device__ Raw() {}
  };

  static __device__ __forceinline__ bool holds(const ImageShape& shape, int64_t pack, int i) {
    return pack * kPack + i < shape.pixels;
  }

  // Elements outside the plane are 0; see `holds`.
  static __device__ __forceinline__ Raw load(const ImageShape& shape, const Images& t, int64_t base, int64_t pack) {
    Raw raw;
#pragma unroll
    for (int i = 0; i < kPack; ++i) {
      if (holds(shape, pack, i)) {
        raw.elements[i] = static_cast<const S*>(t.data)[base + shape.offset(t, pack * kPack + i)];
      } else {
        narrow(T(0), raw.elements[i]);
      }
    }
    return raw;
  }

  static __device__ __forceinline__ void store(const ImageShape& shape, const Images& t, int64_t base, int64_t pack,
                                               const Raw& raw) {
#pragma unroll
    for (int i = 0; i < kPack; ++i) {
      if (holds(shape, pack, i)) {
        static_cast<S*>(t.data)[base + shape.offset(t, pack * kPack + i)] = raw.elements[i];
      }
    }
  }

  static __device__ __forceinline__ void load_noise(const ImageShape& shape, const Images& t, bool is_float,
                                                    int64_t base, int64_t pack, T (&noise)[kPack]) {
#pragma unroll
    for (int i = 0; i < kPack; ++i) {
      noise[i] = holds(shape, pack, i) ? element<S>(t.data, is_float, base + shape.offset(t, pack * kPack + i)) : T(0);
    }
  }
};

// For pixels whose channels are a run of memory and make whole packs, each at a multiple of 16 bytes. `base` is a
// sample's start.
template <class Storage>
struct PackedChannels {
  using S = Storage;
  using Raw = typename Dense<S>::Raw;
  static constexpr int kPack = Dense<S>::kPack;

  static __device__ __forceinline__ Raw load(const ImageShape& shape, const Images& t, int64_t base, int64_t pixel,
                                             int64_t pack) {
    return load_pack(static_cast<const S*>(t.data) + base + shape.offset(t, pixel) + pack * kPack);
  }

  static __device__ __forceinline__ void store(const ImageShape& shape, const Images& t, int64_t base, int64_t pixel,
                                               int64_t pack, const Raw& raw) {
    store_pack(static_cast<S*>(t.data) + base + shape.offset(t, pixel) + pack * kPack, raw);
  }

  template <class... Operands>
  static bool fits(const StyledNorm& a, const Operands&... operands) {
    const auto packed = [&](const Images& t) {
      return packs_are_aligned<S>(t, t.channel, {t.batch, t.row, t.column});
    };
    return a.channels % kPack == 0 && packed(a.x) && (packed(operands) && ...);
  }
};

// One channel at a time.
template <class Storage>
struct SingleChannels {
  using S = Storage;
  static constexpr int kPack = 1;

  struct Raw {
    S elements[kPack];
    __device__ Raw() {}
  };

  static __device__ __forceinline__ Raw load(const ImageShape& shape, const Images& t, int64_t base, int64_t pixel,
                                             int64_t pack) {
    Raw raw;
    raw.elements[0] = static_cast<const S*>(t.data)[base + shape.offset(t, pixel) + pack * t.channel];
    return raw;
  }

  static __device__ __forceinline__ void store(const ImageShape& shape, const Images& t, int64_t base, int64_t pixel,
                                               int64_t pack, const Raw& raw) {
    static_cast<S*>(t.data)[base + shape.offset(t, pixel) + pack * t.channel] = raw.elements[0];
  }
};

// Whether neighboring channels are neighbors in memory; then work is distributed along them.
inline bool channels_are_innermost(const StyledNorm& a) { return a.channels > 1 && a.x.channel == 1; }

// Calls `call` with the access to planes, or to pixels, that the operands allow.
template <class S, class F, class... Operands>
auto with_planes(const StyledNorm& a, F call, const Operands&... operands) {
  return PackedPlanes<S>::fits(a, operands...) ? call(PackedPlanes<S>()) : call(StridedPlanes<S>());
}
template <class S, class F, class... Operands>
auto with_channels(const StyledNorm& a, F call, const Operands&... operands) {
  return PackedChannels<S>::fits(a, operands...) ? call(PackedChannels<S>()) : call(SingleChannels<S>());
}

}  // namespace sivae::cuda
