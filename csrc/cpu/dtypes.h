// Storage types and their conversion to the arithmetic type, without branches.
#pragma once

#include <cstdint>

#include "../platform.h"
#include "../scalar_math.h"

namespace sivae::cpu {

struct BFloat16 {
  uint16_t bits;
};

struct Float16 {
  uint16_t bits;
};

template <class S>
struct ComputeType {
  using type = S;
};
template <>
struct ComputeType<BFloat16> {
  using type = float;
};
template <>
struct ComputeType<Float16> {
  using type = float;
};

SIVAE_HD double widen(double x) { return x; }
SIVAE_HD float widen(float x) { return x; }
SIVAE_HD float widen(BFloat16 x) { return float_of(static_cast<uint32_t>(x.bits) << 16); }

SIVAE_HD float widen(Float16 x) {
  const uint32_t magnitude = x.bits & 0x7fffu;
  const uint32_t sign = static_cast<uint32_t>(x.bits & 0x8000u) << 16;
  // Move half's exponent to float's position and scale by the difference of their biases: exact for subnormals, too.
  const float scaled = float_of(magnitude << 13) * float_of(0x77800000u);
  const uint32_t wide = magnitude >= 0x7c00u ? (magnitude << 13) | 0x7f800000u : bits_of(scaled);
  return float_of(wide | sign);
}

SIVAE_HD void narrow(double x, double& out) { out = x; }
SIVAE_HD void narrow(float x, float& out) { out = x; }

// To nearest, ties to even.
SIVAE_HD void narrow(float x, BFloat16& out) {
  const uint32_t bits = bits_of(x);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  out.bits = static_cast<uint16_t>(x == x ? rounded : 0x7fc0u);
}

SIVAE_HD void narrow(float x, Float16& out) {
  const uint32_t bits = bits_of(x);
  const uint32_t magnitude = bits & 0x7fffffffu;
  // Subnormal halves: adding 0.5 aligns their last bit with float's, so the addition itself rounds.
  const uint32_t small = bits_of(float_of(magnitude) + 0.5f) - bits_of(0.5f);
  const uint32_t normal = (magnitude - (112u << 23) + 0x0fffu + ((magnitude >> 13) & 1u)) >> 13;
  uint32_t half = magnitude < (113u << 23) ? small : normal;
  half = magnitude >= 0x477ff000u ? 0x7c00u : half;  // 65520 and above round to infinity
  half = magnitude > 0x7f800000u ? 0x7e00u : half;
  out.bits = static_cast<uint16_t>(half | ((bits >> 16) & 0x8000u));
}

}  // namespace sivae::cpu
