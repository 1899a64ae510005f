// Philox4x32-10 (Salmon et al., SC 2011) and its standard normals by Box-Muller.
#pragma once

#include <cstdint>

#include "platform.h"
#include "scalar_math.h"

namespace sivae {

// The full product of two 32-bit words and its halves; a Word that holds several counters has its own overloads.
#if defined(__CUDA_ARCH__)
// In two halves, or the compiler would compute the whole generator in 64 bits.
struct Product {
  uint32_t low, high;
};
__device__ __forceinline__ Product multiply_full(uint32_t a, uint32_t b) { return {a * b, __umulhi(a, b)}; }
__device__ __forceinline__ uint32_t high_word(const Product& p) { return p.high; }
__device__ __forceinline__ uint32_t low_word(const Product& p) { return p.low; }
#else
SIVAE_HD uint64_t multiply_full(uint32_t a, uint32_t b) { return static_cast<uint64_t>(a) * b; }
SIVAE_HD uint32_t high_word(uint64_t a) { return static_cast<uint32_t>(a >> 32); }
SIVAE_HD uint32_t low_word(uint64_t a) { return static_cast<uint32_t>(a); }
#endif

// The last `rounds` rounds, from words of the counter to random words. A word that all counters of a Word share may be
// a plain number; results that depend only on such numbers are then computed once.
template <int rounds, class Word, class C0, class C1, class C2, class C3>
SIVAE_HD void philox_rounds(C0 c0, C1 c1, C2 c2, C3 c3, uint32_t k0, uint32_t k1, Word (&out)[4]) {
  if constexpr (rounds == 0) {
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
  } else {
    const auto p0 = multiply_full(c0, 0xD2511F53u);
    const auto p1 = multiply_full(c2, 0xCD9E8D57u);
    philox_rounds<rounds - 1>(high_word(p1) ^ (c1 ^ k0), low_word(p1), high_word(p0) ^ (c3 ^ k1), low_word(p0),
                              k0 + 0x9E3779B9u, k1 + 0xBB67AE85u, out);
  }
}

// Four words of counter in, four random words out, each in the low 32 bits of its Word.
template <class Word, class C0, class C1, class C2, class C3>
SIVAE_HD void philox4x32_10(C0 c0, C1 c1, C2 c2, C3 c3, uint32_t k0, uint32_t k1, Word (&out)[4]) {
  philox_rounds<10>(c0, c1, c2, c3, k0, k1, out);
}

// u = ((word >> 9) + 1/2) / 2^23 in (0, 1), exact in float32: the bits that follow those of 1.
template <class T, class W>
SIVAE_HD T uniform_of(W word) {
  return static_cast<T>(float_of(0x3f800000u | (word >> 9)) - 0.99999994f);  // less 1 - 2^-24
}

// sqrt(-2 ln u_a) times cos and sin of 2 pi u_b, u_a and u_b of the two words.
SIVAE_HD void box_muller(uint32_t word_a, uint32_t word_b, double& first, double& second) {
  const double radius = sqrt_(-2.0 * log_of_normal(uniform_of<double>(word_a)));
  double cosine, sine;
  cos_sin_turn(uniform_of<double>(word_b), cosine, sine);
  first = radius * cosine;
  second = radius * sine;
}

template <class W, class F>
SIVAE_HD void box_muller(W word_a, W word_b, F& first, F& second) {
  const F radius = sqrt_(-2.0f * log_of_normal(uniform_of<F>(word_a)));
  // The first bit of u_b selects the half of the turn; the other 22 give the distance before the middle of that half,
  // in half turns.
  const F before = 1.49999988f - float_of(0x3f800000u | ((word_b >> 8) & 0x007ffffeu));  // exact, of 1.5 - 2^-23
  const F either_half = float_of(bits_of(radius) ^ (word_b & 0x80000000u));
  first = either_half * sin_half_turn(before);
  second = either_half * sin_half_turn(0.5f - abs_(before));
}

}  // namespace sivae
