// Philox counters side by side in vector registers: a Word for philox4x32_10. x86 multiplies 32-bit numbers to full
// width in every other lane, so the counters of one register's worth are split into those at even and at odd places and
// joined again at the end; and each round waits for its products, so the two halves keep the processor busier than
// one would. Compilers do not find this form by themselves. The high half of each 64-bit lane holds leftovers.
#pragma once

#include <cstdint>

#include "../platform.h"

#if defined(__SSE2__)
#include <immintrin.h>
#define SIVAE_PHILOX_LANES 1

namespace sivae::cpu {

#if defined(__AVX512F__)
using LaneBits = __m512i;
SIVAE_HD LaneBits all_lanes(uint32_t x) { return _mm512_set1_epi64(x); }
SIVAE_HD LaneBits exclusive_or(LaneBits a, LaneBits b) { return _mm512_xor_si512(a, b); }
SIVAE_HD LaneBits multiply_lanes(LaneBits a, LaneBits b) { return _mm512_mul_epu32(a, b); }
SIVAE_HD LaneBits high_halves(LaneBits a) { return _mm512_srli_epi64(a, 32); }
SIVAE_HD LaneBits join_halves(LaneBits even, LaneBits odd) {
  return _mm512_mask_blend_epi32(0xAAAA, even, _mm512_slli_epi64(odd, 32));
}
SIVAE_HD LaneBits load_bits(const uint32_t* from) { return _mm512_loadu_si512(from); }
SIVAE_HD void store_bits(LaneBits a, uint32_t* to) { _mm512_storeu_si512(to, a); }
#elif defined(__AVX2__)
using LaneBits = __m256i;
SIVAE_HD LaneBits all_lanes(uint32_t x) { return _mm256_set1_epi64x(x); }
SIVAE_HD LaneBits exclusive_or(LaneBits a, LaneBits b) { return _mm256_xor_si256(a, b); }
SIVAE_HD LaneBits multiply_lanes(LaneBits a, LaneBits b) { return _mm256_mul_epu32(a, b); }
SIVAE_HD LaneBits high_halves(LaneBits a) { return _mm256_srli_epi64(a, 32); }
SIVAE_HD LaneBits join_halves(LaneBits even, LaneBits odd) {
  return _mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xAA);
}
SIVAE_HD LaneBits load_bits(const uint32_t* from) {
  return _mm256_loadu_si256(reinterpret_cast<const LaneBits*>(from));
}
SIVAE_HD void store_bits(LaneBits a, uint32_t* to) { _mm256_storeu_si256(reinterpret_cast<LaneBits*>(to), a); }
#else
using LaneBits = __m128i;
SIVAE_HD LaneBits all_lanes(uint32_t x) { return _mm_set1_epi64x(x); }
SIVAE_HD LaneBits exclusive_or(LaneBits a, LaneBits b) { return _mm_xor_si128(a, b); }
SIVAE_HD LaneBits multiply_lanes(LaneBits a, LaneBits b) { return _mm_mul_epu32(a, b); }
SIVAE_HD LaneBits high_halves(LaneBits a) { return _mm_srli_epi64(a, 32); }
SIVAE_HD LaneBits join_halves(LaneBits even, LaneBits odd) {
  return _mm_or_si128(_mm_and_si128(even, all_lanes(0xFFFFFFFFu)), _mm_slli_epi64(odd, 32));
}
SIVAE_HD LaneBits load_bits(const uint32_t* from) { return _mm_loadu_si128(reinterpret_cast<const LaneBits*>(from)); }
SIVAE_HD void store_bits(LaneBits a, uint32_t* to) { _mm_storeu_si128(reinterpret_cast<LaneBits*>(to), a); }
#endif

struct PhiloxLanes {
  static constexpr int kCount = sizeof(LaneBits) / sizeof(uint32_t);
  LaneBits even, odd;
};
SIVAE_HD PhiloxLanes lanes_of(uint32_t x) { return {all_lanes(x), all_lanes(x)}; }
SIVAE_HD PhiloxLanes operator^(PhiloxLanes a, PhiloxLanes b) {
  return {exclusive_or(a.even, b.even), exclusive_or(a.odd, b.odd)};
}
SIVAE_HD PhiloxLanes operator^(PhiloxLanes a, uint32_t b) { return a ^ lanes_of(b); }
SIVAE_HD PhiloxLanes operator^(uint32_t a, PhiloxLanes b) { return lanes_of(a) ^ b; }
SIVAE_HD PhiloxLanes multiply_full(PhiloxLanes a, uint32_t b) {
  return {multiply_lanes(a.even, all_lanes(b)), multiply_lanes(a.odd, all_lanes(b))};
}
SIVAE_HD PhiloxLanes high_word(PhiloxLanes a) { return {high_halves(a.even), high_halves(a.odd)}; }
SIVAE_HD PhiloxLanes low_word(PhiloxLanes a) { return a; }
SIVAE_HD PhiloxLanes load_lanes(const uint32_t* from) {
  const LaneBits both = load_bits(from);
  return {both, high_halves(both)};
}
SIVAE_HD void store_lanes(PhiloxLanes a, uint32_t* to) { store_bits(join_halves(a.even, a.odd), to); }

}  // namespace sivae::cpu

#endif
