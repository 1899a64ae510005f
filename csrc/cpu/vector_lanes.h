// Numbers side by side in a vector register, and their conversion from and to storage types. For loops over rows of
// numbers; `float_lanes.h` is for the formulas of scalar_math.h.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "isa.h"

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

// About the registers in which a call would pass vectors: here all such calls are inlined.
#pragma GCC diagnostic ignored "-Wpsabi"

namespace sivae::cpu::SIVAE_ISA {

#if defined(__AVX512F__)
constexpr int kRegister = 64;  // bytes
#elif defined(__AVX2__)
constexpr int kRegister = 32;
#else
constexpr int kRegister = 16;
#endif

template <class T>
struct LanesOf;
template <>
struct LanesOf<float> {
  using type = float __attribute__((vector_size(kRegister)));
};
template <>
struct LanesOf<double> {
  using type = double __attribute__((vector_size(kRegister)));
};
template <class T>
using Lanes = typename LanesOf<T>::type;

template <class T>
constexpr int kLanes = kRegister / sizeof(T);

// 1 / x of a normal x, also where it is not rounded correctly: a division takes as long as an exponential.
template <class T>
SIVAE_HD Lanes<T> reciprocal(const Lanes<T>& x) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == sizeof(float)) {
    const Lanes<T> first = reinterpret_cast<Lanes<T>>(_mm512_rcp14_ps(reinterpret_cast<__m512>(x)));
    return first + first * (T(1) - x * first);  // a step of Newton's: 2^-28
  }
#endif
  return T(1) / x;
}

using Words = uint32_t __attribute__((vector_size(kRegister)));
using HalfWords = uint16_t __attribute__((vector_size(kRegister / 2)));

// GCC 12 converts the halves of a register one by one, unless it is given the instruction.
SIVAE_HD Words words_of(const HalfWords& x) {
#if defined(__AVX512F__)
  return reinterpret_cast<Words>(_mm512_cvtepu16_epi32(reinterpret_cast<__m256i>(x)));
#else
  return __builtin_convertvector(x, Words);
#endif
}

SIVAE_HD HalfWords half_words_of(const Words& x) {
#if defined(__AVX512F__)
  return reinterpret_cast<HalfWords>(_mm512_cvtepi32_epi16(reinterpret_cast<__m512i>(x)));
#else
  return __builtin_convertvector(x, HalfWords);
#endif
}

template <class T, class S>
SIVAE_HD Lanes<T> load(const S* from) {
  Lanes<T> out;
  if constexpr (sizeof(S) == sizeof(T)) {
    memcpy(&out, from, sizeof out);
  } else if constexpr (std::is_same_v<S, BFloat16>) {
    HalfWords bits;
    memcpy(&bits, from, sizeof bits);
    out = reinterpret_cast<Lanes<float>>(words_of(bits) << 16);
  } else {
    float each[kLanes<T>];
    for (int i = 0; i < kLanes<T>; ++i) each[i] = widen(from[i]);
    memcpy(&out, each, sizeof out);
  }
  return out;
}

template <class T, class S>
SIVAE_HD void store(const Lanes<T>& values, S* to) {
  if constexpr (sizeof(S) == sizeof(T)) {
    memcpy(to, &values, sizeof values);
  } else if constexpr (std::is_same_v<S, BFloat16>) {
    const Words bits = reinterpret_cast<Words>(values);
    const Words rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    const HalfWords halves = half_words_of(values == values ? rounded : Words{} + 0x7fc0u);
    memcpy(to, &halves, sizeof halves);
  } else {
    float each[kLanes<T>];
    memcpy(each, &values, sizeof each);
    for (int i = 0; i < kLanes<T>; ++i) narrow(each[i], to[i]);
  }
}

// The first `count` lanes; the others are 0.
template <class T, class S>
SIVAE_HD Lanes<T> load_some(const S* from, int count) {
  S padded[kLanes<T>] = {};
  memcpy(padded, from, count * sizeof(S));
  return load<T>(padded);
}

template <class T, class S>
SIVAE_HD void store_some(const Lanes<T>& values, S* to, int count) {
  S padded[kLanes<T>];
  store<T>(values, padded);
  memcpy(to, padded, count * sizeof(S));
}

// Lanes of a row's numbers from `at` on: all, or with `Whole` false the first `count`.
template <class T, bool Whole>
struct Place {
  int64_t at;
  int count;
  template <class S>
  SIVAE_HD_MEMBER Lanes<T> read(const S* row) const {
    if constexpr (Whole) return load<T>(row + at);
    return load_some<T>(row + at, count);
  }
  template <class S>
  SIVAE_HD_MEMBER void write(const Lanes<T>& values, S* row) const {
    if constexpr (Whole) return store<T>(values, row + at);
    store_some<T>(values, row + at, count);
  }
  // 0 in the other lanes.
  SIVAE_HD_MEMBER Lanes<T> within(const Lanes<T>& values) const {
    if constexpr (Whole) return values;
    T each[kLanes<T>];
    memcpy(each, &values, sizeof each);
    return load_some<T>(each, count);
  }
};

}  // namespace sivae::cpu::SIVAE_ISA
