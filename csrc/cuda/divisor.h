// Divide by a number known at launch, by multiplying: the device's own 64-bit division is a slow function.
#pragma once

#include <cstdint>

#include "../platform.h"

namespace sivae::cuda {

SIVAE_HD uint64_t high_product(uint64_t a, uint64_t b) {
#if defined(__CUDA_ARCH__)
  return __umul64hi(a, b);
#else
  return static_cast<uint64_t>((static_cast<unsigned __int128>(a) * b) >> 64);
#endif
}

// floor(n / d) for 0 <= n < 2^63 and 1 <= d < 2^63 (Granlund & Montgomery, "Division by invariant integers using
// multiplication", 1994): with l = ceil(log2 d) and m = floor(2^64 (2^l - d) / d) + 1 it is (high(m n) + n) / 2^l, and
// that sum stays below 2^64.
struct Divisor {
  uint64_t multiplier = 1;
  int shift = 0;

  Divisor() = default;
  explicit Divisor(int64_t d) {
    while ((uint64_t{1} << shift) < static_cast<uint64_t>(d)) ++shift;
    const unsigned __int128 excess = (uint64_t{1} << shift) - static_cast<uint64_t>(d);
    multiplier = static_cast<uint64_t>((excess << 64) / static_cast<uint64_t>(d)) + 1;
  }

  SIVAE_HD_MEMBER int64_t quotient(int64_t n) const {
    const uint64_t u = static_cast<uint64_t>(n);
    return static_cast<int64_t>((high_product(multiplier, u) + u) >> shift);
  }
};

}  // namespace sivae::cuda
