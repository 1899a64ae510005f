// exp, log, log1p and the sine pair for float and double. Without branches on the host, so that loops over them
// vectorise; float errors are a few ulp (tests/ops/test_accuracy.py holds the ops to it), double is the C library's.
// On the device CUDA's accurate single-precision functions take their place.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "platform.h"

namespace sivae {

SIVAE_HD uint32_t bits_of(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
}

SIVAE_HD float float_of(uint32_t bits) {
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

// Comparisons below are written so that a NaN fails the test and passes through unchanged.
SIVAE_HD float exp_(float x) {
#if defined(__CUDA_ARCH__)
  return expf(x);
#else
  constexpr float kShift = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer and leaves that in the low bits
  x = x > 89.0f ? 89.0f : x;             // above, the result is infinite anyway
  x = x < -104.0f ? -104.0f : x;         // below, it is 0 anyway
  const float shifted = x * 1.44269504f + kShift;
  const float n = shifted - kShift;
  const float r = (x - n * 0.693359375f) - n * -2.12194440e-4f;  // |r| <= ln(2) / 2; ln(2) in two parts, the first exact
  float p = 1.9841270e-4f;
  p = p * r + 1.3888889e-3f;
  p = p * r + 8.3333333e-3f;
  p = p * r + 4.1666667e-2f;
  p = p * r + 1.6666667e-1f;
  p = p * r + 0.5f;
  p = p * r * r + r + 1.0f;
  // 2^n in two factors: n runs from -150 to 128, past the exponents of normal floats on both sides.
  const int32_t exponent = static_cast<int32_t>(bits_of(shifted)) - static_cast<int32_t>(bits_of(kShift));
  const int32_t half = exponent >> 1;
  return p * float_of(static_cast<uint32_t>(half + 127) << 23) *
         float_of(static_cast<uint32_t>(exponent - half + 127) << 23);
#endif
}

SIVAE_HD float log_(float x) {
#if defined(__CUDA_ARCH__)
  return logf(x);
#else
  constexpr float kSmallestNormal = 1.17549435e-38f;
  const bool subnormal = x < kSmallestNormal;
  const float scaled = subnormal ? x * 8388608.0f : x;
  // m in [sqrt(1/2), sqrt(2)) and x = m 2^e, so that ln m keeps its relative accuracy next to x = 1.
  const uint32_t shifted = bits_of(scaled) - 0x3f3504f3u;
  const float e = static_cast<float>(static_cast<int32_t>(shifted) >> 23) - (subnormal ? 23.0f : 0.0f);
  const float f = float_of((shifted & 0x007fffffu) + 0x3f3504f3u) - 1.0f;
  // ln(1 + f) = 2 atanh(s) = 2 s + 2/3 s^3 + ..., s = f / (2 + f), |s| <= 0.1716.
  const float s = f / (2.0f + f);
  const float s2 = s * s;
  float p = 0.22222222f;
  p = p * s2 + 0.28571429f;
  p = p * s2 + 0.4f;
  p = p * s2 + 0.66666667f;
  // 2 s = f - s f, which is exact in its first term.
  const float tail = s2 * s * p - s * f;
  const float result = e * 0.693359375f + (f + (tail + e * -2.12194440e-4f));
  const float edge = x == 0.0f ? -INFINITY : (x > 3.4028235e38f ? INFINITY : NAN);
  return (x > 0.0f && x <= 3.4028235e38f) ? result : edge;
#endif
}

// ln(1 + x) from x >= -1.
SIVAE_HD float log1p_(float x) {
#if defined(__CUDA_ARCH__)
  return log1pf(x);
#else
  const float u = 1.0f + x;
  const float lost = x - (u - 1.0f);  // what rounding 1 + x dropped
  const float correction = (u > 0.0f && u <= 3.4028235e38f) ? lost / u : 0.0f;
  return log_(u) + correction;
#endif
}

// cos and sin of 2 pi u for u in [0, 1].
SIVAE_HD void cos_sin_turn(float u, float& cosine, float& sine) {
#if defined(__CUDA_ARCH__)
  sincospif(2.0f * u, &sine, &cosine);
#else
  constexpr float kShift = 12582912.0f;
  const float quarters = 4.0f * u;
  const float shifted = quarters + kShift;
  const uint32_t quadrant = bits_of(shifted);  // its low bits are the nearest integer, 0 to 4
  const float r = quarters - (shifted - kShift);  // exact, |r| <= 1/2 of a quarter turn
  const float a = r * 1.57079633f;
  const float a2 = a * a;
  float c = 2.4801587e-5f;
  c = c * a2 - 1.3888889e-3f;
  c = c * a2 + 4.1666667e-2f;
  c = c * a2 - 0.5f;
  c = c * a2 + 1.0f;
  float s = 2.7557319e-6f;
  s = s * a2 - 1.9841270e-4f;
  s = s * a2 + 8.3333333e-3f;
  s = s * a2 - 1.6666667e-1f;
  s = s * a2 * a + a;
  const bool swap = (quadrant & 1u) != 0;
  const float cos_magnitude = swap ? s : c;
  const float sin_magnitude = swap ? c : s;
  cosine = float_of(bits_of(cos_magnitude) ^ (((quadrant + 1u) & 2u) << 30));
  sine = float_of(bits_of(sin_magnitude) ^ ((quadrant & 2u) << 30));
#endif
}

SIVAE_HD float sqrt_(float x) { return sqrtf(x); }
SIVAE_HD float abs_(float x) { return fabsf(x); }

SIVAE_HD double exp_(double x) { return exp(x); }
SIVAE_HD double log_(double x) { return log(x); }
SIVAE_HD double log1p_(double x) { return log1p(x); }
SIVAE_HD double sqrt_(double x) { return sqrt(x); }
SIVAE_HD double abs_(double x) { return fabs(x); }
SIVAE_HD void cos_sin_turn(double u, double& cosine, double& sine) {
  constexpr double kTwoPi = 6.283185307179586476925286766559;
  cosine = cos(kTwoPi * u);
  sine = sin(kTwoPi * u);
}

}  // namespace sivae
