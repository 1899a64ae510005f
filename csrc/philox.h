// Philox4x32-10 (Salmon et al., SC 2011) and its standard normals by Box-Muller.
#pragma once

#include <cstdint>

#include "platform.h"
#include "scalar_math.h"

namespace sivae {

// Four words of counter in, four random words out. A Word holds 32 bits; uint64_t, where the vector unit multiplies
// 32-bit halves of 64-bit lanes, saves moving them there and back.
template <class Word>
SIVAE_HD void philox4x32_10(Word& c0, Word& c1, Word& c2, Word& c3, uint32_t k0, uint32_t k1) {
#pragma GCC unroll 10
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = static_cast<uint64_t>(c0 & 0xffffffffu) * 0xD2511F53u;
    const uint64_t p1 = static_cast<uint64_t>(c2 & 0xffffffffu) * 0xCD9E8D57u;
    const Word n0 = static_cast<Word>(p1 >> 32) ^ c1 ^ k0;
    const Word n2 = static_cast<Word>(p0 >> 32) ^ c3 ^ k1;
    c1 = static_cast<Word>(p1 & 0xffffffffu);
    c3 = static_cast<Word>(p0 & 0xffffffffu);
    c0 = n0;
    c2 = n2;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
}

// u in (0, 1), exact in float32.
template <class T>
SIVAE_HD T uniform_of(uint32_t word) {
  return (static_cast<T>(static_cast<int32_t>(word >> 9)) + T(0.5)) * T(1.1920928955078125e-07);
}

template <class T>
SIVAE_HD void box_muller(uint32_t word_a, uint32_t word_b, T& first, T& second) {
  const T radius = sqrt_(T(-2) * log_(uniform_of<T>(word_a)));
  T cosine, sine;
  cos_sin_turn(uniform_of<T>(word_b), cosine, sine);
  first = radius * cosine;
  second = radius * sine;
}

}  // namespace sivae
