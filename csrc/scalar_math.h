// exp, log, log1p and the sine pair for float and double. Float without branches on the host, so that loops over them
// vectorise, to a few ulp (tests/ops/test_accuracy.py holds the ops to it); double is the C library's.
// On the device CUDA's accurate single-precision functions take the place of exp, log and log1p; the two that make normals
// stay, as they need not look out for special arguments, and give the device the host's normals.
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

// The float polynomials are minimax fits of the relative error (weighted least squares, reweighted towards the maximum,
// in double), each good to a few parts in 10^9 on its interval.

// c[0] + x (c[1] + x (c[2] + ...)).
template <int n, int k = 0>
SIVAE_HD float polynomial(const float (&c)[n], float x) {
  if constexpr (k == n - 1) {
    return c[k];
  } else {
    return c[k] + x * polynomial<n, k + 1>(c, x);
  }
}

// Comparisons below are written so that a NaN fails the test and passes through unchanged.
// x, but no more than a limit and no less than another; one instruction each.
SIVAE_HD float at_most(float limit, float x) { return limit < x ? limit : x; }
SIVAE_HD float at_least(float limit, float x) { return limit > x ? limit : x; }

// (exp(x) - 1 - x) / x^2 for |x| <= ln 2.
SIVAE_HD float exp_series(float x) {
  constexpr float kExp[] = {0.5f,          0.16666675f,    0.041666526f, 0.0083325263f,
                            0.0013893711f, 0.00020110063f, 2.4439814e-05f};
  return polynomial(kExp, x);
}

// exp(x); and for |x| <= 0.69, where they cancel, `tail` is exp(x) - 1 - x to full relative accuracy.
SIVAE_HD float exp_and_tail(float x, float& tail) {
#if defined(__CUDA_ARCH__)
  tail = x * x * exp_series(x);
  return expf(x);
#else
  constexpr float kShift = 12582912.0f + 127.0f;  // 1.5 * 2^23, and the bias of float's exponent
  x = at_most(89.0f, x);                          // above, the result is infinite anyway
  x = at_least(-104.0f, x);                       // below, it is 0 anyway
  // x = 2 m ln 2 + r with m an integer: adding kShift rounds to it and leaves it, biased, in the low bits. The even
  // power lets 2^(2m) be the square of one normal float where a single one would leave float's range on either side.
  // Where the tail is asked for, m is 0 and r is x.
  const float shifted = x * 0.721347520f + kShift;
  const float m = shifted - kShift;
  const float r = (x - m * 1.38671875f) - m * -4.24388880e-4f;  // 2 ln 2 in two parts, the products by the first exact
  const float power = float_of(bits_of(shifted) << 23);         // 2^m
  const float series = exp_series(r);
  tail = r * r * series;
  // The tail, but as another product: contracted into an fma or not, it is so whether the tail itself is used or not.
  return (1.0f + (r + r * (r * series))) * power * power;
#endif
}

SIVAE_HD float exp_(float x) {
  float tail;
  return exp_and_tail(x, tail);
}

// ln x of a positive normal x.
SIVAE_HD float log_of_normal(float x) {
  constexpr float kLog[] = {0.33333331f, -0.2500082f, 0.20001227f,  -0.16623357f,
                            0.14201759f, -0.13160183f, 0.12761575f, -0.07634493f};
  // x = 2^e (1 + f) with 1 + f in [sqrt(1/2), sqrt(2)), so that the result keeps its relative accuracy next to x = 1.
  const uint32_t shifted = bits_of(x) - 0x3f3504f3u;
  const float e = static_cast<float>(static_cast<int32_t>(shifted) >> 23);
  const float f = float_of((shifted & 0x007fffffu) + 0x3f3504f3u) - 1.0f;
  const float f2 = f * f;
  const float tail = f2 * f * polynomial(kLog, f) - 0.5f * f2 + e * -2.12194440e-4f;  // ln 2 in two parts, the first exact
  return e * 0.693359375f + (f + tail);
}

SIVAE_HD float log_(float x) {
#if defined(__CUDA_ARCH__)
  return logf(x);
#else
  const bool subnormal = x < 1.17549435e-38f;
  const float result = log_of_normal(subnormal ? x * 8388608.0f : x) - (subnormal ? 15.9423847f : 0.0f);  // 23 ln 2
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

// ln(1 + x) for x in [0, 1]; a NaN stays.
SIVAE_HD float log1p_of_unit(float x) {
#if defined(__CUDA_ARCH__)
  return log1pf(x);
#else
  const float u = 1.0f + x;
  return log_of_normal(u) + (x - (u - 1.0f)) / u;
#endif
}

// sin(pi x) for |x| <= 1/2.
SIVAE_HD float sin_half_turn(float x) {
  constexpr float kSin[] = {3.14159274f, -5.16770983f, 2.55006981f, -0.598242104f, 0.0775603801f};
  return x * polynomial(kSin, x * x);
}

SIVAE_HD float sqrt_(float x) { return sqrtf(x); }
SIVAE_HD float abs_(float x) { return fabsf(x); }

SIVAE_HD double exp_(double x) { return exp(x); }
SIVAE_HD double exp_and_tail(double x, double& tail) {
  double sum = 1.0;  // nested Taylor terms; the first left out, 2 x^17/19!, is under 1e-19 of the sum
  SIVAE_UNROLL
  for (int k = 18; k > 2; --k) sum = 1.0 + sum * (x / k);
  tail = 0.5 * x * x * sum;
  return exp(x);
}
SIVAE_HD double log_(double x) { return log(x); }
SIVAE_HD double log_of_normal(double x) { return log(x); }
SIVAE_HD double log1p_(double x) { return log1p(x); }
SIVAE_HD double log1p_of_unit(double x) { return log1p(x); }
SIVAE_HD double sqrt_(double x) { return sqrt(x); }
SIVAE_HD double abs_(double x) { return fabs(x); }
// cos and sin of 2 pi u.
SIVAE_HD void cos_sin_turn(double u, double& cosine, double& sine) {
#if defined(__CUDA_ARCH__)
  sincospi(2.0 * u, &sine, &cosine);  // without the large-angle reduction, which takes local memory
#else
  constexpr double kTwoPi = 6.283185307179586476925286766559;
  cosine = cos(kTwoPi * u);
  sine = sin(kTwoPi * u);
#endif
}

}  // namespace sivae
