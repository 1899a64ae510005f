// Floats side by side in vector registers, as a type for the formulas' templates (scalar_math.h), and loops over them.
// Compilers also vectorise plain loops over the formulas, but use two instructions where the processor has one (a
// minimum that keeps NaN, a scaling by a power of two), and finish one register before they start the next. With two
// registers side by side the processor has twice as much to do while it waits.
#pragma once

#include <cstdint>
#include <cstring>

#include "../platform.h"
#include "isa.h"

#if defined(__AVX512F__) || (defined(__AVX2__) && defined(__FMA__))
#include <immintrin.h>
#define SIVAE_FLOAT_LANES 1
#endif

namespace sivae::cpu::SIVAE_ISA {

#if defined(SIVAE_FLOAT_LANES)

#if defined(__AVX512F__)
#define SIVAE_MM(name) _mm512_##name
using FloatRegister = __m512;
using BitRegister = __m512i;
using MaskRegister = __mmask16;
#else
#define SIVAE_MM(name) _mm256_##name
using FloatRegister = __m256;
using BitRegister = __m256i;
using MaskRegister = __m256;
#endif

constexpr int kFloatRegisters = 2;

struct MaskLanes {
  MaskRegister v[kFloatRegisters];
};

struct BitLanes {
  BitRegister v[kFloatRegisters];
  BitLanes() = default;
  SIVAE_HD_MEMBER BitLanes(uint32_t x) {
    for (BitRegister& each : v) each = SIVAE_MM(set1_epi32)(static_cast<int>(x));
  }
};

struct FloatLanes {
  static constexpr int kEach = sizeof(FloatRegister) / sizeof(float);
  static constexpr int kCount = kFloatRegisters * kEach;
  FloatRegister v[kFloatRegisters];
  FloatLanes() = default;
  SIVAE_HD_MEMBER FloatLanes(float x) {
    for (FloatRegister& each : v) each = SIVAE_MM(set1_ps)(x);
  }
};

template <class Out, class Of, class... In>
SIVAE_HD Out each_register(Of of, const In&... in) {
  Out out;
  SIVAE_UNROLL
  for (int r = 0; r < kFloatRegisters; ++r) out.v[r] = of(in.v[r]...);
  return out;
}

// A function of registers x, y, z for each register of the operands.
#define SIVAE_OF(arguments, result) [=] arguments __attribute__((always_inline)) { return result; }
#define SIVAE_OF_X(result) SIVAE_OF((auto x), result)
#define SIVAE_OF_XY(result) SIVAE_OF((auto x, auto y), result)
#define SIVAE_OF_XYZ(result) SIVAE_OF((auto x, auto y, auto z), result)

SIVAE_HD FloatLanes operator+(const FloatLanes& a, const FloatLanes& b) {
  return each_register<FloatLanes>(SIVAE_OF_XY(x + y), a, b);
}
SIVAE_HD FloatLanes operator-(const FloatLanes& a, const FloatLanes& b) {
  return each_register<FloatLanes>(SIVAE_OF_XY(x - y), a, b);
}
SIVAE_HD FloatLanes operator*(const FloatLanes& a, const FloatLanes& b) {
  return each_register<FloatLanes>(SIVAE_OF_XY(x * y), a, b);
}
SIVAE_HD FloatLanes multiply_add(const FloatLanes& a, const FloatLanes& b, const FloatLanes& c) {
  return each_register<FloatLanes>(SIVAE_OF_XYZ(SIVAE_MM(fmadd_ps)(x, y, z)), a, b, c);
}
SIVAE_HD FloatLanes sqrt_(const FloatLanes& a) {
  return each_register<FloatLanes>(SIVAE_OF_X(SIVAE_MM(sqrt_ps)(x)), a);
}
// The instructions return their second operand where either operand is NaN.
SIVAE_HD FloatLanes at_most(float limit, const FloatLanes& a) {
  return each_register<FloatLanes>(SIVAE_OF_XY(SIVAE_MM(min_ps)(x, y)), FloatLanes(limit), a);
}
SIVAE_HD FloatLanes at_least(float limit, const FloatLanes& a) {
  return each_register<FloatLanes>(SIVAE_OF_XY(SIVAE_MM(max_ps)(x, y)), FloatLanes(limit), a);
}

SIVAE_HD BitLanes operator&(const BitLanes& a, const BitLanes& b) {
  return each_register<BitLanes>(SIVAE_OF_XY(x & y), a, b);
}
SIVAE_HD BitLanes operator|(const BitLanes& a, const BitLanes& b) {
  return each_register<BitLanes>(SIVAE_OF_XY(x | y), a, b);
}
SIVAE_HD BitLanes operator^(const BitLanes& a, const BitLanes& b) {
  return each_register<BitLanes>(SIVAE_OF_XY(x ^ y), a, b);
}
SIVAE_HD BitLanes operator+(const BitLanes& a, const BitLanes& b) {
  return each_register<BitLanes>(SIVAE_OF_XY(SIVAE_MM(add_epi32)(x, y)), a, b);
}
SIVAE_HD BitLanes operator-(const BitLanes& a, const BitLanes& b) {
  return each_register<BitLanes>(SIVAE_OF_XY(SIVAE_MM(sub_epi32)(x, y)), a, b);
}
SIVAE_HD BitLanes operator<<(const BitLanes& a, int by) {
  return each_register<BitLanes>(SIVAE_OF_X(SIVAE_MM(slli_epi32)(x, by)), a);
}
SIVAE_HD BitLanes operator>>(const BitLanes& a, int by) {
  return each_register<BitLanes>(SIVAE_OF_X(SIVAE_MM(srli_epi32)(x, by)), a);
}
SIVAE_HD BitLanes bits_of(const FloatLanes& a) {
  return each_register<BitLanes>(SIVAE_OF_X(reinterpret_cast<BitRegister>(x)), a);
}
SIVAE_HD FloatLanes float_of(const BitLanes& a) {
  return each_register<FloatLanes>(SIVAE_OF_X(reinterpret_cast<FloatRegister>(x)), a);
}
SIVAE_HD FloatLanes abs_(const FloatLanes& a) { return float_of(bits_of(a) & 0x7fffffffu); }
SIVAE_HD FloatLanes signed_exponent(const BitLanes& a) {
  return each_register<FloatLanes>(SIVAE_OF_X(SIVAE_MM(cvtepi32_ps)(SIVAE_MM(srai_epi32)(x, 23))), a);
}

#if defined(__AVX512F__)
SIVAE_HD MaskLanes operator<=(const FloatLanes& a, const FloatLanes& b) {
  return each_register<MaskLanes>(SIVAE_OF_XY(_mm512_cmp_ps_mask(x, y, _CMP_LE_OQ)), a, b);
}
SIVAE_HD FloatLanes select(const MaskLanes& mask, const FloatLanes& a, const FloatLanes& b) {
  return each_register<FloatLanes>(SIVAE_OF_XYZ(_mm512_mask_blend_ps(x, z, y)), mask, a, b);
}
SIVAE_HD FloatLanes times_four_to(const FloatLanes& m, const FloatLanes& /* shifted */, const FloatLanes& a) {
  return each_register<FloatLanes>(SIVAE_OF_XY(_mm512_scalef_ps(x, y + y)), a, m);
}
#else
SIVAE_HD MaskLanes operator<=(const FloatLanes& a, const FloatLanes& b) {
  return each_register<MaskLanes>(SIVAE_OF_XY(_mm256_cmp_ps(x, y, _CMP_LE_OQ)), a, b);
}
SIVAE_HD FloatLanes select(const MaskLanes& mask, const FloatLanes& a, const FloatLanes& b) {
  return each_register<FloatLanes>(SIVAE_OF_XYZ(_mm256_blendv_ps(z, y, x)), mask, a, b);
}
#endif

SIVAE_HD BitLanes load_bits(const uint32_t* from) {
  BitLanes out;
  SIVAE_UNROLL
  for (BitRegister& each : out.v) {
    memcpy(&each, from, sizeof each);
    from += FloatLanes::kEach;
  }
  return out;
}

// The first lanes of all four, then the second ones and so on.
SIVAE_HD void store_interleaved(const FloatLanes (&x)[4], float* to) {
  SIVAE_UNROLL
  for (int r = 0; r < kFloatRegisters; ++r, to += 4 * FloatLanes::kEach) {
    const FloatRegister x0 = x[0].v[r], x1 = x[1].v[r], x2 = x[2].v[r], x3 = x[3].v[r];
#if defined(__AVX512F__)
    const __m512i low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    const __m512i high = _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
    const __m512 low_02 = _mm512_permutex2var_ps(x0, low, x2), low_13 = _mm512_permutex2var_ps(x1, low, x3);
    const __m512 high_02 = _mm512_permutex2var_ps(x0, high, x2), high_13 = _mm512_permutex2var_ps(x1, high, x3);
    _mm512_storeu_ps(to, _mm512_permutex2var_ps(low_02, low, low_13));
    _mm512_storeu_ps(to + 16, _mm512_permutex2var_ps(low_02, high, low_13));
    _mm512_storeu_ps(to + 32, _mm512_permutex2var_ps(high_02, low, high_13));
    _mm512_storeu_ps(to + 48, _mm512_permutex2var_ps(high_02, high, high_13));
#else
    // Unpacking works on each half of a register by itself.
    const __m256d low_01 = _mm256_castps_pd(_mm256_unpacklo_ps(x0, x1));
    const __m256d low_23 = _mm256_castps_pd(_mm256_unpacklo_ps(x2, x3));
    const __m256d high_01 = _mm256_castps_pd(_mm256_unpackhi_ps(x0, x1));
    const __m256d high_23 = _mm256_castps_pd(_mm256_unpackhi_ps(x2, x3));
    const __m256 lanes_04 = _mm256_castpd_ps(_mm256_unpacklo_pd(low_01, low_23));
    const __m256 lanes_15 = _mm256_castpd_ps(_mm256_unpackhi_pd(low_01, low_23));
    const __m256 lanes_26 = _mm256_castpd_ps(_mm256_unpacklo_pd(high_01, high_23));
    const __m256 lanes_37 = _mm256_castpd_ps(_mm256_unpackhi_pd(high_01, high_23));
    _mm256_storeu_ps(to, _mm256_permute2f128_ps(lanes_04, lanes_15, 0x20));
    _mm256_storeu_ps(to + 8, _mm256_permute2f128_ps(lanes_26, lanes_37, 0x20));
    _mm256_storeu_ps(to + 16, _mm256_permute2f128_ps(lanes_04, lanes_15, 0x31));
    _mm256_storeu_ps(to + 24, _mm256_permute2f128_ps(lanes_26, lanes_37, 0x31));
#endif
  }
}

// Elements i to i + kCount of an array.
struct WholeLanes {
  int64_t i;
  SIVAE_HD_MEMBER FloatLanes load(const float* from) const {
    FloatLanes out;
    SIVAE_UNROLL
    for (int r = 0; r < kFloatRegisters; ++r) out.v[r] = SIVAE_MM(loadu_ps)(from + i + r * FloatLanes::kEach);
    return out;
  }
  SIVAE_HD_MEMBER void store(const FloatLanes& x, float* to) const {
    SIVAE_UNROLL
    for (int r = 0; r < kFloatRegisters; ++r) SIVAE_MM(storeu_ps)(to + i + r * FloatLanes::kEach, x.v[r]);
  }
};

// The first `count` of them; the other lanes are 0 and are not stored.
struct SomeLanes {
  int64_t i, count;
  SIVAE_HD_MEMBER FloatLanes load(const float* from) const {
    float all[FloatLanes::kCount] = {};
    memcpy(all, from + i, count * sizeof(float));
    return WholeLanes{0}.load(all);
  }
  SIVAE_HD_MEMBER void store(const FloatLanes& x, float* to) const {
    float all[FloatLanes::kCount];
    WholeLanes{0}.store(x, all);
    memcpy(to + i, all, count * sizeof(float));
  }
};

#undef SIVAE_OF_XYZ
#undef SIVAE_OF_XY
#undef SIVAE_OF_X
#undef SIVAE_OF
#undef SIVAE_MM
#endif

// Element i of an array.
template <class T>
struct OneLane {
  int64_t i;
  SIVAE_HD_MEMBER T load(const T* from) const { return from[i]; }
  SIVAE_HD_MEMBER void store(T x, T* to) const { to[i] = x; }
};

// Calls body(at) until all `count` elements of type T are done: at.load(array) returns the current elements, and
// at.store(x, array) stores theirs. For floats in lanes the result of an element does not depend on its position.
template <class T, class Body>
SIVAE_HD void for_lanes(int64_t count, Body body) {
#if defined(SIVAE_FLOAT_LANES)
  if constexpr (sizeof(T) == sizeof(float)) {
    int64_t i = 0;
    for (; i + FloatLanes::kCount <= count; i += FloatLanes::kCount) body(WholeLanes{i});
    if (i < count) body(SomeLanes{i, count - i});
    return;
  }
#endif
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) body(OneLane<T>{i});
}

}  // namespace sivae::cpu::SIVAE_ISA
