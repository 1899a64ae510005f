// Philox counters side by side in one vector register: a Word for philox4x32_10 that holds 32 bits in each 64-bit lane,
// which is how x86 multiplies 32-bit numbers to full width. Compilers do not find this form by themselves.
#pragma once

#include <cstdint>

#include "../platform.h"

#if defined(__SSE2__)
#include <immintrin.h>
#define SIVAE_PHILOX_LANES 1

namespace sivae::cpu {

#if defined(__AVX512F__)
struct PhiloxLanes {
  static constexpr int kCount = 8;
  __m512i bits;
};
SIVAE_HD PhiloxLanes lanes_of(uint32_t x) { return {_mm512_set1_epi64(x)}; }
SIVAE_HD PhiloxLanes operator^(PhiloxLanes a, PhiloxLanes b) { return {_mm512_xor_si512(a.bits, b.bits)}; }
SIVAE_HD PhiloxLanes multiply_full(PhiloxLanes a, uint32_t b) {
  return {_mm512_mul_epu32(a.bits, _mm512_set1_epi64(b))};
}
SIVAE_HD PhiloxLanes high_word(PhiloxLanes a) { return {_mm512_srli_epi64(a.bits, 32)}; }
SIVAE_HD PhiloxLanes load_lanes(const uint32_t* from) {
  return {_mm512_cvtepu32_epi64(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)))};
}
SIVAE_HD void store_lanes(PhiloxLanes a, uint32_t* to) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_cvtepi64_epi32(a.bits));
}
#elif defined(__AVX2__)
struct PhiloxLanes {
  static constexpr int kCount = 4;
  __m256i bits;
};
SIVAE_HD PhiloxLanes lanes_of(uint32_t x) { return {_mm256_set1_epi64x(x)}; }
SIVAE_HD PhiloxLanes operator^(PhiloxLanes a, PhiloxLanes b) { return {_mm256_xor_si256(a.bits, b.bits)}; }
SIVAE_HD PhiloxLanes multiply_full(PhiloxLanes a, uint32_t b) {
  return {_mm256_mul_epu32(a.bits, _mm256_set1_epi64x(b))};
}
SIVAE_HD PhiloxLanes high_word(PhiloxLanes a) { return {_mm256_srli_epi64(a.bits, 32)}; }
SIVAE_HD PhiloxLanes load_lanes(const uint32_t* from) {
  return {_mm256_cvtepu32_epi64(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)))};
}
SIVAE_HD void store_lanes(PhiloxLanes a, uint32_t* to) {
  const __m256i packed = _mm256_permutevar8x32_epi32(a.bits, _mm256_setr_epi32(0, 2, 4, 6, 0, 0, 0, 0));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm256_castsi256_si128(packed));
}
#else
struct PhiloxLanes {
  static constexpr int kCount = 2;
  __m128i bits;
};
SIVAE_HD PhiloxLanes lanes_of(uint32_t x) { return {_mm_set1_epi64x(x)}; }
SIVAE_HD PhiloxLanes operator^(PhiloxLanes a, PhiloxLanes b) { return {_mm_xor_si128(a.bits, b.bits)}; }
SIVAE_HD PhiloxLanes multiply_full(PhiloxLanes a, uint32_t b) { return {_mm_mul_epu32(a.bits, _mm_set1_epi64x(b))}; }
SIVAE_HD PhiloxLanes high_word(PhiloxLanes a) { return {_mm_srli_epi64(a.bits, 32)}; }
SIVAE_HD PhiloxLanes load_lanes(const uint32_t* from) {
  return {_mm_unpacklo_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from)), _mm_setzero_si128())};
}
SIVAE_HD void store_lanes(PhiloxLanes a, uint32_t* to) {
  _mm_storel_epi64(reinterpret_cast<__m128i*>(to), _mm_shuffle_epi32(a.bits, _MM_SHUFFLE(2, 0, 2, 0)));
}
#endif

SIVAE_HD PhiloxLanes operator^(PhiloxLanes a, uint32_t b) { return a ^ lanes_of(b); }

}  // namespace sivae::cpu

#endif
