// Philox counters side by side in vector registers: a Word for philox4x32_10. x86 computes full products of 32-bit
// numbers in every other lane only, so the counters are split into even and odd positions and joined again at the end.
// Each round waits for its products, so two halves also keep the processor busier than one. Compilers do not find this
// form. The high half of each 64-bit lane holds unused bits.
#pragma once

#include <cstdint>

#include "../platform.h"
#include "isa.h"

#if defined(__SSE2__)
#include <immintrin.h>
#define SIVAE_PHILOX_LANES 1

namespace sivae::cpu::SIVAE_ISA {

#if defined(__AVX512F__)
using LaneBits = __m512i;
SIVAE_HD LaneBits all_lanes(uint32_t x) { return _mm512_set1_epi64(x); }
SIVAE_HD LaneBits exclusive_or(LaneBits a, LaneBits b) { return _mm512_xor_si512(a, b); }
SIVAE_HD LaneBits multiply_lanes(LaneBits a, LaneBits b) { return _mm512_mul_epu32(a, b); }
SIVAE_HD LaneBits high_halves(LaneBits a) { return _mm512_srli_epi64(a, 32); }
SIVAE_HD LaneBits join_halves(LaneBits even, LaneBits odd) {
  const __m512 joined = _mm512_mask_moveldup_ps(_mm512_castsi512_ps(even), 0xAAAA, _mm512_castsi512_ps(odd));
  return _mm512_castps_si512(joined);
}
SIVAE_HD LaneBits add_lanes(LaneBits a, LaneBits b) { return _mm512_add_epi64(a, b); }
SIVAE_HD LaneBits even_places() { return _mm512_setr_epi64(0, 2, 4, 6, 8, 10, 12, 14); }
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
SIVAE_HD LaneBits add_lanes(LaneBits a, LaneBits b) { return _mm256_add_epi64(a, b); }
SIVAE_HD LaneBits even_places() { return _mm256_setr_epi64x(0, 2, 4, 6); }
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
SIVAE_HD LaneBits add_lanes(LaneBits a, LaneBits b) { return _mm_add_epi64(a, b); }
SIVAE_HD LaneBits even_places() { return _mm_set_epi64x(2, 0); }
SIVAE_HD void store_bits(LaneBits a, uint32_t* to) { _mm_storeu_si128(reinterpret_cast<LaneBits*>(to), a); }
#endif

// A round waits for its products; two registers side by side give the processor work in the meantime.
constexpr int kPhiloxRegisters = 2;

struct PhiloxLanes {
  static constexpr int kEach = sizeof(LaneBits) / sizeof(uint32_t);
  static constexpr int kCount = kPhiloxRegisters * kEach;
  LaneBits even[kPhiloxRegisters], odd[kPhiloxRegisters];
};

template <class Of>
SIVAE_HD PhiloxLanes philox_lanes(Of of) {
  PhiloxLanes out;
  SIVAE_UNROLL
  for (int r = 0; r < kPhiloxRegisters; ++r) of(r, out.even[r], out.odd[r]);
  return out;
}

SIVAE_HD PhiloxLanes operator^(const PhiloxLanes& a, const PhiloxLanes& b) {
  return philox_lanes([&](int r, LaneBits& even, LaneBits& odd) {
    even = exclusive_or(a.even[r], b.even[r]);
    odd = exclusive_or(a.odd[r], b.odd[r]);
  });
}
SIVAE_HD PhiloxLanes operator^(const PhiloxLanes& a, uint32_t b) {
  return philox_lanes([&](int r, LaneBits& even, LaneBits& odd) {
    even = exclusive_or(a.even[r], all_lanes(b));
    odd = exclusive_or(a.odd[r], all_lanes(b));
  });
}
SIVAE_HD PhiloxLanes operator^(uint32_t a, const PhiloxLanes& b) { return b ^ a; }
SIVAE_HD PhiloxLanes multiply_full(const PhiloxLanes& a, uint32_t b) {
  return philox_lanes([&](int r, LaneBits& even, LaneBits& odd) {
    even = multiply_lanes(a.even[r], all_lanes(b));
    odd = multiply_lanes(a.odd[r], all_lanes(b));
  });
}
SIVAE_HD PhiloxLanes high_word(const PhiloxLanes& a) {
  return philox_lanes([&](int r, LaneBits& even, LaneBits& odd) {
    even = high_halves(a.even[r]);
    odd = high_halves(a.odd[r]);
  });
}
SIVAE_HD PhiloxLanes low_word(const PhiloxLanes& a) { return a; }

// first, first + 1 and so on.
SIVAE_HD PhiloxLanes counting_from(uint32_t first) {
  return philox_lanes([&](int r, LaneBits& even, LaneBits& odd) {
    even = add_lanes(even_places(), all_lanes(first + r * PhiloxLanes::kEach));
    odd = add_lanes(even_places(), all_lanes(first + r * PhiloxLanes::kEach + 1));
  });
}
SIVAE_HD void store_lanes(const PhiloxLanes& a, uint32_t* to) {
  SIVAE_UNROLL
  for (int r = 0; r < kPhiloxRegisters; ++r) store_bits(join_halves(a.even[r], a.odd[r]), to + r * PhiloxLanes::kEach);
}

}  // namespace sivae::cpu::SIVAE_ISA

#endif
